"""A module of this package runs in a process of its own, wherever that is started."""

import subprocess
from pathlib import Path

import pytest

from chatui.subprocesses import module_command, module_environment


def test_a_module_is_found_from_any_folder(tmp_path: Path) -> None:
    subprocess.run(module_command("chatui.units"), cwd=tmp_path, env=module_environment(), check=True)


def test_a_file_of_the_working_directory_does_not_stand_for_the_package(tmp_path: Path) -> None:
    (tmp_path / "chatui.py").write_text("raise SystemExit(4)")
    subprocess.run(module_command("chatui.units"), cwd=tmp_path, env=module_environment(), check=True)


def test_what_was_on_the_path_stays_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert module_environment()["PYTHONPATH"].endswith(str(tmp_path))
    monkeypatch.delenv("PYTHONPATH")
    assert Path(module_environment()["PYTHONPATH"]).joinpath("chatui").is_dir()
