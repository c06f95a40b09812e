"""kill -9 at random moments under four streaming replies: nothing finished is lost, and of the rest no old text."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from chatui.runner import Runner
from chatui.settings import AppSettings
from chatui.store.store import Store
from tests.browser.pages import PATIENCE_SECONDS, wait_until
from tests.crash.writer import OWNERS, WORDS_PER_SECOND, word
from tests.fakes import FakeBackend

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]
LOST_WORDS = WORDS_PER_SECOND
"""Of a reply. Words and not seconds: where the whole process stands still for a moment, no words come either."""
REPLIES = """
    SELECT question.content, reply.content, reply.state FROM messages AS reply
    JOIN messages AS question ON question.id = reply.parent WHERE reply.role = 'assistant'
"""


class Journal:
    """What the killed process had done."""

    def __init__(self, path: Path) -> None:
        self.words: Counter[str] = Counter()
        self.kept: set[str] = set()
        if not path.exists():
            return
        for line in path.read_text().splitlines():
            kind, key, *_number = line.split(" ")
            if kind == "k":
                self.kept.add(key)
            else:
                self.words[key] += 1


def text(words: int) -> str:
    return "".join(word(number) for number in range(words))


def replies(data_dir: Path) -> dict[str, tuple[str, str]]:
    """By question: what the file says, read by SQLite alone."""
    with closing(sqlite3.connect(data_dir / "chats.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {question: (content, state) for question, content, state in database.execute(REPLIES)}


def kill_once(data_dir: Path, journal: Path, start: int, delay: float) -> int:
    """Start a writer, kill it after a while, and check the file. Returns the most words that a reply has lost."""
    arguments = [sys.executable, "-m", "tests.crash.writer", str(data_dir), str(journal), f"r{start}"]
    writer = subprocess.Popen(arguments, cwd=ROOT)
    try:
        mine = f"r{start}-"
        wait_until(
            lambda: sum(key.startswith(mine) for key in Journal(journal).words) >= OWNERS, what="the first replies"
        )
        time.sleep(delay)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    done, found = Journal(journal), replies(data_dir)
    most = 0
    for key, words in done.words.items():
        content, state = found[key]
        expected = text(words)
        assert expected.startswith(content), key
        if key in done.kept:
            assert (content, state) == (expected, "finished"), key
        elif key.startswith(mine):
            most = max(most, words - content.count(" "))
    assert most <= LOST_WORDS, f"{most} words of a reply are lost"
    return most


async def repaired(data_dir: Path) -> float:
    """Start the server's runner on the file. Returns the seconds until no reply is called running."""
    runner = Runner(FakeBackend(), Store.open(AppSettings(data_dir=data_dir)), Store.in_memory())
    start = time.monotonic()
    runner.start()
    try:
        while any(state == "running" for _, state in replies(data_dir).values()):
            assert time.monotonic() - start < PATIENCE_SECONDS
            await asyncio.sleep(0.1)
        return time.monotonic() - start
    finally:
        await runner.close()
        runner.persistent_store.close()


def rounds(data_dir: Path, count: int, repair_each: int) -> None:
    seed = random.SystemRandom().getrandbits(32)
    chance = random.Random(seed)
    lost, repairs = [], []
    journal = data_dir / "journal"
    for number in range(count):
        lost.append(kill_once(data_dir, journal, number, chance.uniform(0.0, 3.0)))
        if number % repair_each == 0 or number == count - 1:
            repairs.append(asyncio.run(repaired(data_dir)))
    print(f"seed {seed}: {count} kills, {len(Journal(journal).kept)} finished replies all there,", end=" ")  # noqa: T201
    print(f"at most {max(lost)} words of a reply lost, longest repair {max(repairs):.1f} s")  # noqa: T201


def test_nothing_is_lost_by_a_kill(tmp_path: Path) -> None:
    rounds(tmp_path, 2, repair_each=2)


@pytest.mark.exhaustive
def test_nothing_is_lost_by_a_hundred_kills(tmp_path: Path) -> None:
    rounds(tmp_path, 100, repair_each=1)
