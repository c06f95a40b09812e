"""The baseline: the loop of a plain page (plain_page.py) in its own process, idle while others are measured."""

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import IO, Any

from chatui.engine.loading import embedded
from chatui.settings import DEFAULT_MODEL, AppSettings
from scripts.benchmark.server_process import ROOT
from scripts.benchmark.target import BenchError, Conversation, Reply

NAME = "plain page"
LOADER = "scripts.benchmark.plain_page"


def model_folder(settings: AppSettings) -> str:
    """The folder or Hub name of the model that our server serves with these settings. Raises BenchError."""
    model = settings.model[0]
    if model == DEFAULT_MODEL and (gguf := embedded.find()):
        return str(embedded.converted(gguf, settings.cache_dir, print))
    if model.endswith(".gguf"):
        raise BenchError("the plain page cannot load a GGUF file; leave it out with --no-baseline")
    return model


class Baseline:
    """One user at a time: whoever comes while a reply is being written waits for its end."""

    name = NAME
    serial = True

    def __init__(self, process: Process, log: IO[str]) -> None:
        self.weight_bytes: int | None = None
        self._process = process
        self._log = log
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Wait until the model is loaded."""
        self.weight_bytes = (await self._hear())["weight_bytes"]

    async def ask(self, messages: Conversation, tokens: int, heard: Callable[[], None] | None = None) -> Reply:
        """A greedy reply of exactly `tokens` tokens."""
        sent = time.monotonic()
        async with self._lock:
            line = json.dumps({"messages": list(messages), "tokens": tokens})
            if self._process.stdin is not None:
                self._process.stdin.write(line.encode() + b"\n")
            pieces, text = list[float](), ""
            while "text" in (message := await self._hear()):
                pieces.append(time.monotonic())
                text += message["text"]
                if heard:
                    heard()
            return Reply(
                sent, tuple(pieces), time.monotonic(), text, message["prompt_tokens"], message["completion_tokens"]
            )

    async def settle(self) -> None:
        """It does nothing in the background."""

    async def _hear(self) -> dict[str, Any]:
        line = await self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            self._log.seek(0)
            last = (self._log.read().strip().splitlines() or ["no word"])[-1]
            raise BenchError(f"the {NAME} ended: {last}")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise BenchError(f"the {NAME} failed: {message['error']}")
        return message


@asynccontextmanager
async def running(folder: str) -> AsyncIterator[Baseline]:
    """The baseline with a model, loaded. Raises BenchError."""
    command = (sys.executable, "-m", LOADER, folder)
    with tempfile.TemporaryFile("w+") as log:
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=log)
        try:
            baseline = Baseline(process, log)
            await baseline.load()
            yield baseline
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
