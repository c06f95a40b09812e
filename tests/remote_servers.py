"""Servers of OpenAI's API for tests: each answers as it is told to, on a free port of this computer."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Fields = dict[str, Any]
Piece = str | bytes | Fields | float
"""Of a stream: raw bytes, a text as content, the JSON of an event, or seconds to wait."""
Answer = Response | Sequence[Piece]


def chunk(delta: Fields, reason: str | None = None, **more: Any) -> Fields:
    """The JSON of an event with one choice."""
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **more,
    }


def error(status: int, body: Any, **headers: str) -> Response:
    """A response that refuses a request."""
    return JSONResponse(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


def reply(*texts: str, reason: str = "stop", usage: Fields | None = None) -> list[Piece]:
    """A whole stream that says these texts."""
    told: list[Piece] = [{"choices": [], "usage": usage}] if usage else []
    return [*texts, chunk({}, reason), *told, b"data: [DONE]\n\n"]


@dataclass
class FakeServer:
    """Answers /v1/chat/completions with `answers`, the last one again and again, and each of `routes` with its JSON.

    An answer may be a function of the request's body. `bodies` and `headers` are those that came. `running` counts
    streams that are being read.
    """

    answers: list[Answer | Callable[[Fields], Answer]] = field(default_factory=lambda: [reply("Hello", " there")])
    models: Any = field(default_factory=lambda: [{"id": "m", "object": "model", "owned_by": "someone"}])
    routes: dict[str, Any] = field(default_factory=dict)
    bodies: list[Fields] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    running: int = 0
    url: str = ""

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer = answer(body) if callable(answer) and not isinstance(answer, Response) else answer
        if isinstance(answer, Response):
            return answer
        return StreamingResponse(self._stream(answer), media_type="text/event-stream")

    async def _stream(self, pieces: Sequence[Piece]) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            for piece in pieces:
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                elif isinstance(piece, bytes):
                    yield piece
                else:
                    data = chunk({"content": piece}) if isinstance(piece, str) else piece
                    yield f"data: {json.dumps(data)}\n\n".encode()
        finally:
            self.running -= 1

    async def _list(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return (
            self.models if isinstance(self.models, Response) else JSONResponse({"object": "list", "data": self.models})
        )

    async def _other(self, request: Request) -> Response:
        told = self.routes.get(request.url.path)
        if told is None:
            return JSONResponse({"detail": "Not Found"}, 404)
        if callable(told) and not isinstance(told, Response):
            told = told(await request.json() if request.method == "POST" else {})
        return told if isinstance(told, Response) else JSONResponse(told)

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._list),
                Route("/{path:path}", self._other, methods=["GET", "POST"]),
            ]
        )


@contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    """Serve it in a thread, at `url`, until the block ends."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        config = uvicorn.Config(server.app(), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        runner = uvicorn.Server(config)
        thread = threading.Thread(target=runner.run, args=([bound],), daemon=True)
        thread.start()
        while not runner.started:
            time.sleep(0.005)
        try:
            yield server
        finally:
            runner.should_exit = runner.force_exit = True
            thread.join(5)
