"""Closes Gradio's streams of events so that no event is lost.

Replaced: `Queue.push` of the page's queue (`gradio/queueing.py`) is wrapped; the answer of `/queue/data` is watched.
Why: the server ends a tab's stream when it knows of no more events, and the tab opens another one for its next event.
A tab that is told of its next event before it has read that the stream is over waits for that event on the old
stream, for ever. So `push` returns only once the tab has closed the old one.
Upstream: `/queue/join` in `gradio/routes.py` calls `blocks._queue.push(body=, request=, username=)`. `sse_stream`
there sends `CloseStreamMessage` ("close_stream") last.
"""

import asyncio
import contextlib
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.ui.gradio_compat import request_turns

STREAM = "/queue/data"
OVER = b'"close_stream"'
PATIENCE_SECONDS = 1.0
"""A proxy may not tell that the tab has closed its stream."""


class EventStreams:
    """Around Gradio's own application, which serves `page`."""

    def __init__(self, app: ASGIApp, page: gr.Blocks) -> None:
        self._app = app
        self._closing: dict[str, asyncio.Event] = {}
        queue: Any = page._queue
        push = queue.push

        async def push_and_wait(body: Any, request: Any, username: str | None) -> Any:
            result = await push(body=body, request=request, username=username)
            request_turns.release()
            await self._closed(body.session_hash)
            return result

        queue.push = push_and_wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        if scope["type"] != "http" or not scope["path"].endswith(STREAM):
            await self._app(scope, receive, send)
            return
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        over = asyncio.Event()

        async def sent(message: Message) -> None:
            if OVER not in message.get("body", b""):
                await send(message)
                return
            over.set()
            closed = self._closing[session] = asyncio.Event()
            try:
                await send(message)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        while (await receive())["type"] != "http.disconnect":
                            pass
            finally:
                closed.set()
                del self._closing[session]

        async def received() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and over.is_set():
                await asyncio.Event().wait()  # else Gradio would drop the events that have come meanwhile
            return message

        await self._app(scope, received, sent)

    async def _closed(self, session: str) -> None:
        """Return when no stream of this session is about to be closed."""
        if session in self._closing:
            await self._closing[session].wait()
