"""scripts/setup brings .venv up to date, and makes one anew that cannot be used."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
LISTS = ("requirements.txt", "requirements-model.txt")

# Stands for a Python: notes how it is called, and makes a .venv whose Python is this file again.
STUB = """#!/bin/sh
echo "$(basename "$(dirname "$0")") $*" >> "$CALLS"
if [ "$1 $2" = "-m venv" ]; then
  rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python
fi
exit 0
"""

# Stands for a pip that is told where packages are, and for a uv that notes what it is told.
SETTINGS = """
if [ "$1 $2 $3 $4" = "-m pip config list" ]; then
  echo "global.find-links='/some/wheels'"; echo ":env:.index-url='https://example.org/a=b'"; printf "$SETTING"
fi
"""
UV = """#!/bin/sh
echo "uv $1 $2 $UV_FIND_LINKS $UV_DEFAULT_INDEX" >> "$CALLS"
[ -z "$UV_FAILS" ]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with nothing but the script and empty lists of packages."""
    folder = tmp_path / "a chéckout"
    (folder / "scripts").mkdir(parents=True)
    for name in ("setup", "run"):
        shutil.copy(SCRIPTS / name, folder / "scripts" / name)
    for name in LISTS:
        (folder / name).write_text("")
    return folder


def set_up(checkout: Path, *command: object, cwd: Path | None = None, **variables: str) -> list[str]:
    """How Pythons were called: the system's as `tools ...`, that of .venv as `bin ...`."""
    done, calls = called(checkout, *(command or ("bash", "-eu", "scripts/setup")), cwd=cwd, **variables)
    assert done.returncode == 0, done.stderr
    return calls


def called(
    checkout: Path, *command: object, cwd: Path | None = None, **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    python = checkout / "tools" / "python3"
    python.parent.mkdir(exist_ok=True)
    executable(python, STUB)
    calls = checkout / "calls"
    calls.write_text("")
    environment = {**os.environ, "PYTHON": str(python), "CALLS": str(calls), **variables}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd or checkout, env=environment, capture_output=True, text=True)
    return done, calls.read_text().splitlines()


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


def a_file(venv: Path) -> None:
    shutil.rmtree(venv)
    venv.write_text("")


def a_link_to_nothing(venv: Path) -> None:
    shutil.rmtree(venv)
    venv.symlink_to("/no/such/folder")


@pytest.mark.parametrize("spoil", [without_its_python, without_pip, without_a_bin_folder, a_file, a_link_to_nothing])
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


def test_uv_installs_with_the_settings_of_pip_which_it_leaves_to_pip_if_it_cannot(checkout: Path) -> None:
    def installs(**variables: str) -> list[str]:
        (checkout / ".venv" / LISTS[0]).unlink()
        return [call for call in set_up(checkout, cwd=None, **variables) if "pip install" in call]

    set_up(checkout)
    executable(checkout / ".venv" / "bin" / "python", STUB.replace("exit 0", SETTINGS + "exit 0"))
    executable(checkout / ".venv" / "bin" / "uv", UV)
    by_uv = "uv pip install /some/wheels https://example.org/a=b"
    assert installs(SETTING="global.timeout='9'\\n") == [by_uv]
    first, second = installs(UV_FAILS="yes")
    assert first == by_uv
    assert second.startswith("bin -m pip install")
    (by_pip,) = installs(SETTING="global.no-index='true'\\n")
    assert by_pip.startswith("bin -m pip install")


def test_what_a_venv_is_linked_to_is_not_cleared(checkout: Path, tmp_path: Path) -> None:
    (kept := tmp_path / "shared" / "file").parent.mkdir()
    kept.write_text("kept")
    (checkout / ".venv").symlink_to(kept.parent)
    set_up(checkout)
    assert kept.read_text() == "kept"
    assert not (checkout / ".venv").is_symlink()


def test_the_page_starts_from_anywhere(checkout: Path, tmp_path: Path) -> None:
    script = checkout / "scripts" / "run"
    link, second = tmp_path / "bin" / "chatui", tmp_path / "chatui"
    link.parent.mkdir()
    link.symlink_to(Path("..") / checkout.name / "scripts" / "run")
    second.symlink_to(link)
    (tmp_path / "elsewhere" / "scripts").mkdir(parents=True)
    expected = "bin app.py --port 1 a b"
    options = ("--port", "1", "a b")
    for command in ([script], ["bash", script], ["sh", script], [link], ["sh", link], [second]):
        assert set_up(checkout, *command, *options, cwd=tmp_path)[-1] == expected
    nearby = str(tmp_path / "elsewhere")
    assert set_up(checkout, "sh", "scripts/run", *options, cwd=checkout, CDPATH=nearby)[-1] == expected


def test_without_the_internet_it_says_what_lacks_and_goes_on_later(checkout: Path) -> None:
    set_up(checkout)
    works = (checkout / ".venv" / "bin" / "python").read_text()
    fails = works.replace("exit 0", 'case "$*" in *"pip install"*) exit 1;; esac; exit 0')
    executable(checkout / ".venv" / "bin" / "python", fails)
    (checkout / "requirements.txt").write_text("# a change")
    done, _ = called(checkout, "scripts/run")
    assert done.returncode == 1
    assert "internet" in done.stderr
    executable(checkout / ".venv" / "bin" / "python", works)
    calls = set_up(checkout, "scripts/run")
    assert [call for call in calls if "pip install" in call]
    assert calls[-1] == "bin app.py"


@pytest.mark.skipif(not shutil.which("flock"), reason="only where there is flock do two calls wait for one another")
def test_a_second_call_waits_for_the_first(checkout: Path) -> None:
    with (checkout / "scripts" / "setup").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        environment = {**os.environ, "PYTHON": str(checkout / "no-such-python")}
        waiting = subprocess.Popen(["bash", "scripts/setup"], cwd=checkout, env=environment, stderr=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        assert not (checkout / ".venv").exists()
        # Here the first is done: what it made is found.
        (checkout / ".venv" / "bin").mkdir(parents=True)
        executable(checkout / ".venv" / "bin" / "python", "#!/bin/sh\nexit 0\n")
        for name in LISTS:
            shutil.copy(checkout / name, checkout / ".venv" / name)
        fcntl.flock(held, fcntl.LOCK_UN)
    assert waiting.wait() == 0, waiting.stderr and waiting.stderr.read()
