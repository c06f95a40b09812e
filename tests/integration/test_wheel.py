"""The wheel holds the whole package, and its `chatui` command runs with the declared dependencies alone."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from chatui import __version__
from tests.spaces import environment

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools writes into the folder that it builds from."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "chatui", source / "chatui")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = (*PIP, "wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(target), str(source))
    subprocess.run(build, check=True)
    [built] = target.iterdir()
    return built


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`chatui`, installed beside links to the packages of requirements.txt."""
    requirements = environment.read_requirements((ROOT / "requirements.txt").read_text())
    python = environment.make(tmp_path_factory.mktemp("environment"), requirements)
    subprocess.run((*PIP, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)), check=True)
    return python.with_name("chatui")


@pytest.fixture
def page_command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`chatui` beside links to the packages of requirements-page.txt alone, without PyTorch."""
    requirements = environment.read_requirements((ROOT / "requirements-page.txt").read_text())
    python = environment.make(tmp_path_factory.mktemp("page"), requirements)
    subprocess.run((*PIP, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)), check=True)
    return python.with_name("chatui")


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(command: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the command in an empty folder and with an empty home; ends it after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, program: Path = command) -> "subprocess.Popen[str]":
        words = [str(program), *arguments]
        variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        log = tmp_path / "stderr.txt"
        with log.open("w") as errors:
            process = subprocess.Popen(
                words,
                cwd=tmp_path,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_it_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    files = {path for path in (ROOT / "chatui").rglob("*") if path.is_file() and path.suffix not in (".pyc", ".pyi")}
    expected = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
    with zipfile.ZipFile(wheel) as archive:
        built = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert built.keys() == expected.keys()
    assert built == expected
    assert {Path(name).suffix for name in built} >= {".py", ".po", ".css", ".js", ".woff2", ".svg", ".cpp", ".h"}


def test_the_command_speaks_from_any_folder(start: Start, tmp_path: Path) -> None:
    for argument, expected in (("--version", f"chatui {__version__}\n"), ("--help", "--max-conversations")):
        process = start(argument)
        output, _ = process.communicate()
        assert process.returncode == 0, (tmp_path / "stderr.txt").read_text()
        assert expected in output


def test_the_server_starts_though_its_model_is_missing(start: Start, tmp_path: Path) -> None:
    process = start("--port", "0", "--model", "nobody/has-this", "--data-dir", str(tmp_path / "data"))
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("chatui is at http://"), (tmp_path / "stderr.txt").read_text()
    # It listens before it prints; it answers as soon as it has started.
    with httpx.Client(base_url=line.split()[-1], timeout=120) as client:
        assert client.get("/livez").json() == {"status": "alive"}
        page = client.get("/")
        assert page.status_code == 200
        assert "chatui" in page.text
    assert any((tmp_path / "data").iterdir()), "the migrations are in the wheel"


@pytest.mark.exhaustive  # makes an environment of its own; the image is made of the same list
def test_without_the_engine_the_page_serves_other_servers(start: Start, page_command: Path, tmp_path: Path) -> None:
    arguments = ("--port", "0", "--backend", "http://127.0.0.1:9,name=engine", "--data-dir", str(tmp_path / "data"))
    process = start(*arguments, program=page_command)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("chatui is at http://"), (tmp_path / "stderr.txt").read_text()
    with httpx.Client(base_url=line.split()[-1], timeout=120) as client:
        assert client.get("/livez").json() == {"status": "alive"}
        assert "chatui" in client.get("/").text
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["engine"]
    assert "torch" not in (tmp_path / "stderr.txt").read_text()
