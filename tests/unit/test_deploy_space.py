"""`chatui deploy space` makes a Space what it is told to, shows it before, and never shows a secret."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatui import cli
from chatui.deploy import command
from chatui.deploy.space import DATA_FOLDER
from tests.local_hub import served
from tests.space_hub import Space, SpaceHub

SECRET = "postgresql://ada:hunter2@db.example.org/chats"
NAME = "ada/chat"


@pytest.fixture(scope="module")
def hub_server() -> Iterator[SpaceHub]:
    with served(SpaceHub()) as server:
        assert isinstance(server, SpaceHub)
        yield server


@pytest.fixture
def spaces(hub: SpaceHub, monkeypatch: pytest.MonkeyPatch) -> SpaceHub:
    """The local Hub, and secrets in the environment."""
    monkeypatch.setenv("CHATUI_DATABASE_URL", SECRET)
    return hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small assembled Space."""
    (folder := tmp_path / "space").mkdir()
    (folder / "README.md").write_text("---\nsdk: gradio\n---\n# chatui\n")
    (folder / "app.py").write_text("print('chatui')\n")
    return folder


def deploy(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code and all output of `chatui deploy space`, which never has the secret."""
    code = cli.main(["deploy", "space", NAME, *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "hunter2" not in out + err
    return code, out + err


def test_a_new_space_has_its_settings_before_its_files(
    spaces: SpaceHub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--secret", "CHATUI_DATABASE_URL", "--variable", "CHATUI_MODEL=owner/model", "--hardware", "t4-small")
    code, output = deploy(
        capsys, "--folder", folder, "--private", "--storage", "ada/chats", "--sleep-time", 3600, *settings
    )
    assert code == 0, output
    space = spaces.spaces[NAME]
    assert (space.visibility, space.hardware, space.sleep_seconds) == ("private", "t4-small", 3600)
    assert space.secrets == {"CHATUI_DATABASE_URL": SECRET}
    assert space.variables == {"CHATUI_DATA_DIR": DATA_FOLDER, "CHATUI_MODEL": "owner/model"}
    [volume] = space.volumes
    assert (volume["type"], volume["source"], volume["mountPath"]) == ("bucket", "ada/chats", DATA_FOLDER)
    assert spaces.buckets == {"ada/chats"}
    assert space.files.keys() == {"README.md", "app.py"}
    assert spaces.steps == ["create", "commit"]
    assert f"{spaces.url}/spaces/{NAME}" in output


def test_an_update_changes_what_is_named_and_keeps_the_rest(
    spaces: SpaceHub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"type": "dataset", "source": "ada/texts", "mountPath": "/texts"}
    had = {"CHATUI_MODEL": "owner/model", "CHATUI_SLOTS": "4"}
    spaces.spaces[NAME] = Space(
        variables=dict(had), secrets={"HF_TOKEN": "kept"}, volumes=[other], files={"old.py": b"", ".gitattributes": b""}
    )
    settings = ("--variable", "CHATUI_MODEL=owner/model", "--variable", "CHATUI_SLOTS=8", "--hardware", "cpu-upgrade")
    code, output = deploy(
        capsys, "--folder", folder, "--storage", "ada/chats", "--secret", "CHATUI_DATABASE_URL", *settings
    )
    assert code == 0, output
    space = spaces.spaces[NAME]
    assert space.secrets == {"HF_TOKEN": "kept", "CHATUI_DATABASE_URL": SECRET}
    assert space.variables == {**had, "CHATUI_SLOTS": "8", "CHATUI_DATA_DIR": DATA_FOLDER}
    assert [volume["source"] for volume in space.volumes] == ["ada/texts", "ada/chats"]
    assert space.files.keys() == {"README.md", "app.py", ".gitattributes"}
    assert spaces.steps == ["volumes", "secrets", "variables", "variables", "hardware", "commit"]
    spaces.steps.clear()
    code, output = deploy(capsys, "--folder", folder, "--storage", "ada/chats", "--sleep-time", 60, *settings)
    assert spaces.steps == ["sleeptime", "commit"]


def test_a_dry_run_tells_each_step_and_changes_nothing(spaces: SpaceHub, capsys: pytest.CaptureFixture[str]) -> None:
    spaces.spaces[NAME] = Space(secrets={"CHATUI_DATABASE_URL": "older"})
    arguments = ("--dry-run", "--secret", "CHATUI_DATABASE_URL", "--variable", "CHATUI_SLOTS=8", "--storage", "ada/b")
    code, output = deploy(capsys, *arguments, "--hardware", "l4x1")
    assert code == 0, output
    for step in (
        "Nothing was changed",
        "Replace the secret CHATUI_DATABASE_URL.",
        "Set the variable CHATUI_SLOTS to 8.",
        "Mount the bucket ada/b in /data.",
        "Ask for the hardware l4x1.",
        "Upload ",
    ):
        assert step in output
    assert spaces.steps == []
    assert spaces.buckets == set()
    del spaces.spaces[NAME]
    assert f"Create the public Space {NAME}." in deploy(capsys, *arguments)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variable", "CHATUI_DATABASE_URL=x"], "--secret CHATUI_DATABASE_URL"),
        (["--variable", "CHATUI_SLOTTS=8"], "no setting"),
        (["--variable", "CHATUI_SLOTS"], "NAME=VALUE"),
        (["--secret", "CHATUI_AUTH"], "not in the environment"),
        (["--secret", SECRET], "Never put its value here"),
    ],
)
def test_wrong_arguments_change_nothing(
    arguments: list[str], message: str, spaces: SpaceHub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = deploy(capsys, "--folder", folder, *arguments)
    assert (code, spaces.steps) == (2, [])
    assert message in output


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (402, "hardware"), (400, "--hardware"), (500, "again")]
)
def test_a_refusal_is_one_line_without_what_was_sent(
    status: int, remedy: str, spaces: SpaceHub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spaces.spaces[NAME] = Space()
    spaces.refused = status
    code, output = deploy(capsys, "--folder", folder, "--secret", "CHATUI_DATABASE_URL")
    assert code == 2
    assert remedy in output
    assert output.count("\n") == 1


def test_without_a_checkout_it_says_so(
    spaces: SpaceHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ASSEMBLE", Path("/no/such/file"))
    assert (
        deploy(capsys)[1] == "chatui: The files of a Space are not here. Run this in a checkout, or name a --folder.\n"
    )


def test_a_name_without_an_owner_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["deploy", "space", "chat"]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err
