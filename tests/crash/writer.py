"""A server's heart to be killed: real runner, real store, four owners whose replies never cease.

`python -m tests.crash.writer DATA_DIR JOURNAL ROUND`. What is given to the runner stands in the journal before: `e KEY
NUMBER` for a word, `k KEY` once a listener has seen the reply as kept. KEY is the question.
"""

import asyncio
import os
import random
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from chatui.chat import ChatRequest, Finish, Prompt, ReplyDelta
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from chatui.runner import Runner
from chatui.settings import AppSettings
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from tests.fakes import FakeBackend

OWNERS = 4
WORDS_PER_SECOND = 100


def word(number: int) -> str:
    return f"word{number} "


class Journal:
    """Lines that outlive the process: each is with the operating system when write() returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


class JournalBackend(FakeBackend):
    """A backend that writes numbered words, each into the journal first."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        key = request.messages[-1].content
        count = random.randint(20, 400)
        yield ReplyDelta(prompt=Prompt("p", (1,)))
        for number in range(count):
            await asyncio.sleep(1 / WORDS_PER_SECOND)
            self._journal.write(f"e {key} {number}")
            yield ReplyDelta(text=word(number), tokens=1)
        yield ReplyDelta(finish=Finish("stop_token", 1, count, 0, 0.0, 0.0, 1.0))


async def talk(runner: Runner, journal: Journal, owner: str, start: str) -> None:
    conversation: str | None = None
    parent: str | None = None
    turn = 0
    while True:
        key = f"{start}-{owner}-{turn}"
        author = Author("words", "", "", GenerationSettings(), turn)
        running_reply = await runner.start_reply(owner, NewTurn(conversation, parent, key, author, PRESETS[0]))
        async for _ in running_reply.changes():
            pass
        assert running_reply.saved
        journal.write(f"k {key}")
        conversation, parent = running_reply.conversation.id, running_reply.message.id
        turn += 1


async def main(data_dir: str, journal: Journal, start: str) -> None:
    store = Store.open(AppSettings(data_dir=Path(data_dir)))
    runner = Runner(JournalBackend(journal), store, Store.in_memory())
    await asyncio.gather(*(talk(runner, journal, f"owner{number}", start) for number in range(OWNERS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Journal(Path(sys.argv[2])), sys.argv[3]))
