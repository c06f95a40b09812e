"""scripts/setup brings .venv up to date, and makes one anew that cannot be used."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "scripts" / "setup"
LISTS = ("requirements.txt", "requirements-model.txt")

# Stands for a Python: notes how it is called, and makes a .venv whose Python is this file again.
STUB = """#!/bin/sh
echo "$(basename "$(dirname "$0")") $*" >> "$CALLS"
if [ "$1 $2" = "-m venv" ]; then
  rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python
fi
exit 0
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with nothing but the script and empty lists of packages."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(SETUP, folder / "scripts" / "setup")
    for name in LISTS:
        (folder / name).write_text("")
    return folder


def set_up(checkout: Path) -> list[str]:
    """How Pythons were called: the system's as `tools ...`, that of .venv as `bin ...`."""
    python = checkout / "tools" / "python3"
    python.parent.mkdir(exist_ok=True)
    executable(python, STUB)
    calls = checkout / "calls"
    calls.write_text("")
    environment = {**os.environ, "PYTHON": str(python), "CALLS": str(calls)}
    done = subprocess.run(["bash", "-eu", "scripts/setup"], cwd=checkout, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    return calls.read_text().splitlines()


def executable(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def without_its_python(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/no/such/python3.11")


def without_pip(venv: Path) -> None:
    executable(venv / "bin" / "python", "#!/bin/sh\nexit 1\n")


def without_a_bin_folder(venv: Path) -> None:
    shutil.rmtree(venv / "bin")


@pytest.mark.parametrize("spoil", [without_its_python, without_pip, without_a_bin_folder])
def test_a_venv_that_cannot_be_used_is_made_anew(checkout: Path, spoil: Callable[[Path], None]) -> None:
    first = set_up(checkout)
    spoil(checkout / ".venv")
    again = set_up(checkout)
    assert "tools -m venv --clear .venv" in again
    assert [call for call in again if "pip install" in call] == [call for call in first if "pip install" in call]
    assert len([call for call in again if "pip install" in call]) == len(LISTS)


def test_a_venv_that_is_whole_is_left_alone(checkout: Path) -> None:
    set_up(checkout)
    calls = set_up(checkout)
    assert not [call for call in calls if "venv" in call.split() or "pip install" in call]
    (checkout / "requirements.txt").write_text("# a change")
    assert len([call for call in set_up(checkout) if "pip install" in call]) == 1
