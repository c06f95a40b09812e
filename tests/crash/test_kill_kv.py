"""kill -9 of a process that keeps K/V on disk: the next one goes on where it was, or computes what is not there."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.browser.pages import wait_until
from tests.crash.kv_writer import NEW, reply, scheduler

ROOT = Path(__file__).parents[2]
PROMPT = [(7 + 31 * at) % 200 for at in range(100)]


class Writer:
    """The process."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.crash.kv_writer", str(folder)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._read() == "ready"

    def ask(self, prompt: list[int]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(prompt) + "\n")
        self._process.stdin.flush()

    def answer(self) -> tuple[list[int], int]:
        ids, cached = json.loads(self._read())
        return ids, cached

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def writing(folder: Path) -> Iterator[Writer]:
    """A process that is killed at the end."""
    writer = Writer(folder)
    try:
        yield writer
    finally:
        writer.kill()


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.kv"))


def test_after_a_kill_only_what_is_new_is_computed(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        writer.ask(PROMPT)
        ids, cached = writer.answer()
        assert cached == 0
        wait_until(lambda: len(files(tmp_path)) == 2, what="both blocks on disk")
    turn = [*PROMPT, *ids, 5, 6, 7]
    with writing(tmp_path) as writer:
        writer.ask(turn)
        found, cached = writer.answer()
    assert cached == len(PROMPT) + NEW - 1
    assert found == reply(scheduler(None), turn)[0]


def rounds(folder: Path, count: int) -> None:
    """Kill at random moments; whatever is on disk then, the next process answers the same."""
    seed = random.SystemRandom().getrandbits(32)
    chance = random.Random(seed)
    staying, known = scheduler(None), 0
    for _ in range(count):
        prompt = [chance.randrange(200) for _ in range(chance.randrange(64, 1500))]
        with writing(folder) as writer:
            writer.ask(prompt)
            time.sleep(chance.uniform(0.0, 0.6))
        with writing(folder) as writer:
            writer.ask(prompt)
            found, cached = writer.answer()
        assert found == reply(staying, prompt)[0], f"seed {seed}"
        known += cached
    print(f"seed {seed}: {count} kills, {known} tokens were on disk")  # noqa: T201


@pytest.mark.exhaustive
def test_after_kills_at_any_moment_replies_are_the_same(tmp_path: Path) -> None:
    rounds(tmp_path, 20)
