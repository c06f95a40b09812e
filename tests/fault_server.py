"""A server of OpenAI's API that breaks: it answers byte by byte what a test tells it, then closes or resets."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Step = bytes | float | Literal["reset", "hang"] | tuple[bytes, float]
"""Bytes; seconds to wait; an end; or bytes that are repeated without end, with a pause in seconds."""
Script = Sequence[Step]

MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 1000}]}


def head(status: str = "200 OK", kind: str = "text/event-stream", **headers: str) -> bytes:
    """The head of a response whose body ends with the connection."""
    told = {
        "Content-Type": kind,
        "Connection": "close",
        **{key.replace("_", "-"): each for key, each in headers.items()},
    }
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in told.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def event(data: Any) -> bytes:
    """An event with JSON, or with the delta of a text."""
    if isinstance(data, str):
        data = {"choices": [{"index": 0, "delta": {"content": data}, "finish_reason": None}]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def answer(status: str, body: Any, kind: str = "application/json", **headers: str) -> list[Step]:
    """A whole response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [head(status, kind, Content_Length=str(len(data)), **headers) + data]


@dataclass
class FaultServer:
    """Serves many broken servers at once, each below a path of its own.

    `scripts` are the answers to requests for replies by path, one after another, the last one again and again;
    `models` those to /v1/models. `asked` counts requests, and `open` connections, by path.
    """

    scripts: dict[str, list[Script]] = field(default_factory=dict)
    models: dict[str, Script] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    open: Counter[str] = field(default_factory=Counter)
    url: str = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = ""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _version = request.split("\r\n")[0].split(" ")
            _, name, rest = path.split("/", 2)
            length = next((line for line in request.lower().split("\r\n") if line.startswith("content-length")), "0")
            await reader.readexactly(int(length.rpartition(":")[2]))
            self.open[name] += method == "POST"
            try:
                await self._play(self._script(name, method, rest), reader, writer)
            finally:
                self.open[name] -= method == "POST"
        writer.close()

    def _script(self, name: str, method: str, path: str) -> Script:
        if method == "POST":
            self.asked[name] += 1
            scripts = self.scripts[name]
            return scripts.pop(0) if len(scripts) > 1 else scripts[0]
        if path == "v1/models":
            return self.models.get(name, answer("200 OK", MODELS))
        return answer("404 Not Found", {})

    async def _play(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = asyncio.create_task(reader.read(1))  # ends when the client closes the connection, or resets it
        gone.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        for step in script:
            if step == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return
            if step == "hang":
                await gone
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, tuple):
                while not gone.done():
                    writer.write(step[0])
                    await writer.drain()
                    await asyncio.sleep(step[1])
            elif isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
        gone.cancel()

    async def _run(self, bound: socket.socket, started: threading.Event) -> None:
        async with await asyncio.start_server(self._serve, sock=bound):
            started.set()
            await self._end.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    @contextmanager
    def serving(self) -> Iterator["FaultServer"]:
        """Serve in a thread, at `url`, until the block ends."""
        self._end, started, loop = asyncio.Event(), threading.Event(), asyncio.new_event_loop()
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
            thread = threading.Thread(target=loop.run_until_complete, args=(self._run(bound, started),), daemon=True)
            thread.start()
            started.wait()
            try:
                yield self
            finally:
                loop.call_soon_threadsafe(self._end.set)
                thread.join(5)
