"""A server's heart that does what it is told: real runner, real store, replies of as many words as the question says.

`python -m tests.crash.server URL`. A JSON object a line on stdin, one on stdout for each.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from chatui.chat import ChatRequest, Finish, Prompt, ReplyDelta
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from chatui.runner import Runner
from chatui.running_reply import RunningReply
from chatui.settings import AppSettings
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from tests.crash.writer import word
from tests.fakes import FakeBackend

OWNER = "ada"


class WordsBackend(FakeBackend):
    """Writes numbered words, as many as it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.written_at: list[float] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        count, pace = map(int, request.messages[-1].content.split("/"))
        yield ReplyDelta(prompt=Prompt("p", (1,)))
        for number in range(count):
            await asyncio.sleep(1 / pace)
            self.written_at.append(time.time())
            yield ReplyDelta(text=word(number), tokens=1)
        yield ReplyDelta(finish=Finish("stop_token", 1, count, 0, 0.0, 0.0, 1.0))


class Commands:
    """The commands."""

    def __init__(self, runner: Runner, backend: WordsBackend) -> None:
        self._runner, self._backend = runner, backend
        self._lives: dict[str, RunningReply] = {}

    async def ask(
        self, words: int, chat: str | None = None, parent: str | None = None, temporary: bool = False, pace: int = 50
    ) -> dict[str, Any]:
        if chat is not None:
            await self._runner.stop(OWNER, chat, temporary)
        author = Author("words", "", "", GenerationSettings(), 1)
        running_reply = await self._runner.start_reply(
            OWNER, NewTurn(chat, parent, f"{words}/{pace}", author, PRESETS[0]), temporary
        )
        self._lives[running_reply.message.id] = running_reply
        return {"chat": running_reply.conversation.id, "reply": running_reply.message.id}

    async def stop(self, chat: str) -> dict[str, Any]:
        await self._runner.stop(OWNER, chat)
        return {}

    async def delete(self, chat: str) -> dict[str, Any]:
        await self._runner.stop(OWNER, chat)
        await asyncio.to_thread(self._runner.owner_store(OWNER).delete, chat)
        return {}

    async def look(self, reply: str) -> dict[str, Any]:
        """A reply that was asked for here."""
        running_reply = self._lives[reply]
        message = running_reply.as_message()
        unkept = str(running_reply.save_error) if running_reply.save_error else ""
        fields = {"state": message.state, "error": message.error, "words": message.content.count(" ")}
        return {**fields, "kept": running_reply.saved, "unkept": unkept}

    async def read(self, reply: str) -> dict[str, Any]:
        """A reply as the store has it."""
        message = await asyncio.to_thread(self._runner.owner_store(OWNER).message, reply)
        return {"state": message.state, "words": message.content.count(" "), "text": message.content}

    async def follow(self, reply: str) -> dict[str, Any]:
        """Follow a reply of another server to its end: when how many of its words were first seen."""
        owner_store = self._runner.owner_store(OWNER)
        seen: list[tuple[float, int]] = []
        first = message = await asyncio.to_thread(owner_store.message, reply)
        async for message in self._runner.other_servers.follow(owner_store, first):
            words = message.content.count(" ")
            if not seen or words != seen[-1][1]:
                seen.append((time.time(), words))
        return {"seen": seen, "state": message.state, "ended": time.time()}

    async def written(self) -> dict[str, Any]:
        """When the words were written here, those of all replies together."""
        return {"at": self._backend.written_at}

    async def titles(self) -> dict[str, Any]:
        found = await asyncio.to_thread(self._runner.owner_store(OWNER).conversations)
        return {"titles": [conversation.title for conversation in found]}


async def main(url: str) -> None:
    store = await asyncio.to_thread(Store.open, AppSettings(data_dir=Path("nowhere"), database_url=url))
    backend = WordsBackend()
    runner = Runner(backend, store, Store.in_memory(), inspect=False)
    runner.start()
    commands = Commands(runner, backend)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = await getattr(commands, command.pop("do"))(**command)
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)  # noqa: T201
    await runner.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
