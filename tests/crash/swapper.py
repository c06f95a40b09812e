"""A server's heart to be killed while models take turns in memory: real registry, runner, store and file of models.

`python -m tests.crash.swapper DATA_DIR ROUND`. Two models have memory for one, and two owners ask them in turn. Each
step is a line on stdout before it is done: `load NAME`, `unload NAME`, `add NAME`; `kept KEY` once a reply is saved.
"""

import asyncio
import random
import sys
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from chatui.chat import ChatRequest, Finish, ModelInfo, ModelStatus, Prompt, ReplyDelta
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from chatui.models.added_models import AddedModelsFile
from chatui.models.instances import Memory
from chatui.models.registry import Registry
from chatui.personas import PRESETS
from chatui.runner import Runner
from chatui.settings import AppSettings
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from tests.fakes import INFO, FakeBackend

MODELS = ("a", "b")
WORDS = 20
ADDED_FILE = "added_models.json"


def say(*parts: str) -> None:
    sys.stdout.write(" ".join(parts) + "\n")
    sys.stdout.flush()


def reply(model: str, words: int = WORDS) -> str:
    return "".join(f"{model}{number} " for number in range(words))


class SlowModel(FakeBackend):
    """Takes some milliseconds to load and to unload, and writes words with its name."""

    held = 0
    lock = threading.Lock()

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.status = ModelStatus(name, "loading", "starting")

    def start(self) -> None:
        """Nothing: `wait` loads it."""

    def wait(self) -> ModelInfo:
        say("load", self.name)
        time.sleep(random.uniform(0.0, 0.02))
        with SlowModel.lock:
            SlowModel.held += 1
        info = replace(INFO, name=self.name, weight_bytes=1, kv_bytes=0)
        self.status = ModelStatus(self.name, "ready", info=info)
        return info

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        yield ReplyDelta(prompt=Prompt("p", (1,)))
        for number in range(WORDS):
            await asyncio.sleep(0.002)
            yield ReplyDelta(text=f"{self.name}{number} ", tokens=1)
        yield ReplyDelta(finish=Finish("stop_token", 1, WORDS, 0, 0.0, 0.0, 1.0))

    async def close(self) -> None:
        if self.status.state == "ready":
            say("unload", self.name)
            time.sleep(random.uniform(0.0, 0.02))
            with SlowModel.lock:
                SlowModel.held -= 1


async def talk(runner: Runner, owner: str, start: str) -> None:
    conversation: str | None = None
    parent: str | None = None
    for turn in range(10_000):
        model = MODELS[turn % 2]
        key = f"{start}-{owner}-{turn}-{model}"
        author = Author(model, "", "", GenerationSettings(), turn)
        running = await runner.start_reply(owner, NewTurn(conversation, parent, key, author, PRESETS[0]))
        async for _ in running.changes():
            pass
        assert running.saved
        say("kept", key)
        conversation, parent = running.conversation.id, running.message.id


async def change_models(registry: Registry, start: str) -> None:
    for number in range(10_000):
        name = f"{start}-{number}"
        say("add", name)
        await asyncio.to_thread(registry.add, name)
        if number >= 3:
            await asyncio.to_thread(registry.remove, f"{start}-{number - 3}")
        await asyncio.sleep(0.005)


async def main(data_dir: Path, start: str) -> None:
    store = Store.open(AppSettings(data_dir=data_dir))
    memory = Memory(lambda _: 1, lambda: 1 - SlowModel.held, lambda: None)
    file = AddedModelsFile(data_dir / ADDED_FILE)
    specs = [ModelSpec(name) for name in MODELS]
    registry = Registry(specs, lambda spec: SlowModel(spec.name), memory, linger=0.0, added_file=file)
    runner = Runner(registry.start(), store, Store.in_memory())
    await asyncio.gather(talk(runner, "ada", start), talk(runner, "bob", start), change_models(registry, start))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
