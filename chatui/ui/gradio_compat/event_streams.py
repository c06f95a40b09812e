"""Closes Gradio's event streams so that no event is lost.

Replaced: `Queue.push` of the page's queue (`gradio/queueing.py`) is wrapped; the response of `/queue/data` is watched.
Why: the server ends a tab's stream when no events are left, and the tab opens another one for its next event. A tab
that gets the id of its next event before it has read the end of the stream waits for that event on the old stream,
forever. So `push` returns only once the tab has closed the old stream.
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

STREAM_PATH = "/queue/data"
CLOSE_STREAM = b'"close_stream"'
MAX_CLOSE_SECONDS = 1.0
"""How long to wait for a tab to close its stream: a proxy may not report it."""


class EventStreams:
    """Middleware around Gradio's application, which serves `page`."""

    def __init__(self, app: ASGIApp, page: gr.Blocks) -> None:
        self._app = app
        self._closing: dict[str, asyncio.Event] = {}
        queue: Any = page._queue
        push = queue.push

        async def push_and_wait(body: Any, request: Any, username: str | None) -> Any:
            result = await push(body=body, request=request, username=username)
            request_turns.release()
            await self._wait_closed(body.session_hash)
            return result

        queue.push = push_and_wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request of any type."""
        if scope["type"] != "http" or not scope["path"].endswith(STREAM_PATH):
            await self._app(scope, receive, send)
            return
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        stream_ended = asyncio.Event()

        async def watch_end(message: Message) -> None:
            if CLOSE_STREAM not in message.get("body", b""):
                await send(message)
                return
            stream_ended.set()
            closed = self._closing[session] = asyncio.Event()
            try:
                await send(message)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(MAX_CLOSE_SECONDS):
                        while (await receive())["type"] != "http.disconnect":
                            pass
            finally:
                closed.set()
                del self._closing[session]

        async def receive_disconnect() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and stream_ended.is_set():
                await asyncio.Event().wait()  # otherwise Gradio would drop the events queued meanwhile
            return message

        await self._app(scope, receive_disconnect, watch_end)

    async def _wait_closed(self, session: str) -> None:
        """Wait until no stream of this session is about to be closed."""
        if session in self._closing:
            await self._closing[session].wait()
