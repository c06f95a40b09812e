import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from chatui import __version__, cli
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from chatui.settings import AppSettings
from chatui.store.store import Store

OPERATING = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()


def flags_of_help(capsys: pytest.CaptureFixture[str]) -> set[str]:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    return set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {flag for flag in flags_of_help(capsys) if not flag.startswith("--no-")}
    assert flags == {"--" + name.replace("_", "-") for name in AppSettings.model_fields}


def test_the_documentation_lists_every_flag_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    table = set(re.findall(r"^\| `(--[a-z-]+)", OPERATING, re.MULTILINE))
    assert table == {flag for flag in flags_of_help(capsys) if not flag.startswith("--no-")}


def test_the_help_names_what_a_value_is_and_no_type_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = re.findall(r"^  --([a-z][a-z.-]+) (\S+)", capsys.readouterr().out, re.MULTILINE)
    words = {flag.replace("-", "_"): word for flag, word in shown if not word.startswith(("{", "--"))}
    assert {"model": "NAME", "idle_unload": "MINUTES", "allow_models": "NAMES", "port": "PORT"}.items() <= words.items()
    for name, word in words.items():
        assert re.fullmatch(r"[A-Z:]+", word), name
    assert set(cli.METAVARS) <= set(words)
    numbers = {name for name, word in words.items() if word == "NUMBER"}
    fields = {**AppSettings.model_fields, **{f"generation.{n}": f for n, f in GenerationSettings.model_fields.items()}}
    for name in numbers - {"generation"}:
        assert {int, float} & {fields[name].annotation, *get_args(fields[name].annotation)}, name


def test_the_documentation_gives_the_settings_own_help() -> None:
    rows = {
        row[0]: row[-1] for row in re.findall(r"^\| `(--[a-z-]+)[^`]*` \|(?: [^|]* \|)* ([^|]*) \|$", OPERATING, re.M)
    }
    for name, field in AppSettings.model_fields.items():
        assert rows["--" + name.replace("_", "-")] == field.description


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "abc"], "port"),
        (["--port", "70000"], "port"),
        (["--dtype", "int3"], "dtype"),
        (["--quantization", "2bit"], "quantization"),
        (["--share"], "--auth"),
        (["--auth", "nocolon"], "auth"),
        (["--model", ""], "model"),
        (["frobnicate"], "frobnicate"),
        (["--host", "999.1.1.1"], "host: 999.1.1.1 is no address"),
        (["--host", "a" * 70], "host: aaaa"),
        (["--host", "192.0.2.1"], "host: 192.0.2.1 is not an address of this computer"),
        (["--auth", ""], "auth"),
        (["--data-dir", ""], "data_dir"),
        (["--kv-memory", "inf"], "kv_memory"),
    ],
)
def test_wrong_flags_give_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("chatui: ")
    assert message in error
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


class TestBackup:
    def test_it_copies_what_a_running_server_has(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        store = Store.open(AppSettings(data_dir=tmp_path / "data"))
        store.for_owner("a").save_persona(PRESETS[0])
        target = tmp_path / "copy.db"
        assert cli.main(["backup", str(target), "--data-dir", str(tmp_path / "data")]) == 0
        assert capsys.readouterr().out.startswith(f"Wrote {target} (0.")
        assert cli.main(["backup", str(target), "--data-dir", str(tmp_path / "data")]) == 2
        assert capsys.readouterr().err == f"chatui: {target} is there already. Name a new file.\n"
        store.close()
        copied = Store.open(AppSettings(data_dir=tmp_path, database_url=f"sqlite:///{target}"))
        assert [kept.persona for kept in copied.for_owner("a").personas()] == [PRESETS[0]]
        copied.close()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "needs the name of a new file"),
            (["--data-dir", "x"], "needs the name of a new file"),
            (["copy.db", "--data-dir", "nowhere"], "no database at"),
            (["copy.db", "--database-url", "mysql://user:secret@host/name"], "--database-url"),
            (["copy.db", "--database-url", "postgresql://user:secret@127.0.0.1:1/name"], "cannot be reached"),
            (["copy.db", "--port", "abc"], "port"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(
        self,
        arguments: list[str],
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert cli.main(["backup", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("chatui: ")
        assert message in error
        assert error.count("\n") == 1
        assert "secret" not in error
        assert list(tmp_path.iterdir()) == []

    def test_an_empty_database_is_no_back_up(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "chats.db").touch()
        assert cli.main(["backup", str(tmp_path / "copy.db"), "--data-dir", str(tmp_path)]) == 2
        assert "nothing in the database" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "chatui", "models", "explain", "Mixtral-8x7B"]
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
