"""kill -9 while models take turns in memory: chats stay whole, each on its own model, and the server starts again."""

import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from chatui.models.added_models import ADAPTER
from tests.crash.swapper import ADDED_FILE, reply
from tests.crash.test_kill import ROOT, replies

STEPS = ("load a", "unload a", "load b", "unload b", "add", "kept")


def kill_at(data_dir: Path, start: str, step: str, times: int) -> set[str]:
    """Kill the process when it begins a step for the `times`-th time. Returns the questions with saved replies."""
    arguments = [sys.executable, "-m", "tests.crash.swapper", str(data_dir), start]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        try:
            for line in process.stdout:
                lines.append(line.strip())
                if sum(each.startswith(step) for each in lines) == times:
                    break
        finally:
            process.send_signal(signal.SIGKILL)
        assert sum(each.startswith(step) for each in lines) == times, "it ended by itself"
    return {line.removeprefix("kept ") for line in lines if line.startswith("kept ")}


def check(data_dir: Path, kept: set[str]) -> None:
    """Saved replies are whole, all others the beginning of a reply of their own model; the file of models is whole."""
    found = replies(data_dir)
    for key, (content, state) in found.items():
        whole = reply(key.rpartition("-")[2])
        assert whole.startswith(content), key
        assert state != "finished" or content == whole, key
    for key in kept:
        assert found[key] == (reply(key.rpartition("-")[2]), "finished")
    if (data_dir / ADDED_FILE).exists():
        assert ADAPTER.validate_json((data_dir / ADDED_FILE).read_bytes())


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.exhaustive)])
def test_a_kill_in_a_swap_leaves_all_chats_whole_and_the_next_start_goes_on(tmp_path: Path, count: int) -> None:
    kept: set[str] = set()
    points = ((step, times) for times in range(2, 100, 3) for step in STEPS)
    for number, (step, times) in enumerate(islice(points, count)):
        kept |= kill_at(tmp_path, f"r{number}", step, times)
        check(tmp_path, kept)
    assert kept
