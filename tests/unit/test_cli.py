import re
import socket
from pathlib import Path

import pytest

from chatui import __version__, cli
from chatui.settings import AppSettings

README = (Path(__file__).parents[2] / "README.md").read_text()


def flags_of_help(capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    return set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {flag for flag in flags_of_help(capsys) if not flag.startswith("--no-")}
    assert flags == {"--" + name.replace("_", "-") for name in AppSettings.model_fields}


def test_the_readme_lists_every_flag_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    table = set(re.findall(r"^\| `(--[a-z-]+)", README, re.MULTILINE))
    assert table == {flag for flag in flags_of_help(capsys) if not flag.startswith("--no-")}


def test_the_readme_gives_the_settings_own_help() -> None:
    rows = {row[0]: row[-1] for row in re.findall(r"^\| `(--[a-z-]+)[^`]*` \|(?: [^|]* \|)* ([^|]*) \|$", README, re.M)}
    for name, field in AppSettings.model_fields.items():
        assert rows["--" + name.replace("_", "-")] == field.description


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "abc"], "port"),
        (["--port", "70000"], "port"),
        (["--dtype", "int3"], "dtype"),
        (["--quantization", "2bit"], "quantization"),
        (["--share"], "--auth"),
        (["--auth", "nocolon"], "auth"),
        (["--model", ""], "model"),
        (["frobnicate"], "frobnicate"),
        (["--host", "999.1.1.1"], "999.1.1.1"),
    ],
)
def test_wrong_flags_give_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("chatui: ")
    assert said in error
    assert error.count("\n") == 1


def test_unknown_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--frobnicate"])
    assert caught.value.code == 2
    assert "--frobnicate" in capsys.readouterr().err


def test_a_port_in_use_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["--port", str(taken.getsockname()[1])]) == 2
    assert "--port 0" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"chatui {__version__}\n"
