"""Limits how many expensive requests run at once, so that a burst of visitors does not delay running replies.

Why: the page's HTML and the start of an event take 10 to 40 ms of the event loop's thread, which also sends all
replies. asyncio runs all ready callbacks before it polls for new ones: 200 simultaneous visitors would delay the
replies of others by seconds. The limit costs no throughput, because the requests are bound by the processor.
Upstream: Gradio starts events at `/gradio_api/queue/join` and sends HTML at the path of each page.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

JOIN = "/gradio_api/queue/join"

MAX_CONCURRENT = 2
"""Requests. One may wait for the store or for a thread while the other computes."""

_release: ContextVar[Callable[[], None] | None] = ContextVar("release", default=None)


def release() -> None:
    """End the turn of the current request, which only waits from now on."""
    end = _release.get()
    if end is not None:
        end()


class RequestTurns:
    """Middleware around Gradio's application. A turn lasts until the response starts; streaming needs none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._turns = asyncio.Semaphore(MAX_CONCURRENT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request of any type."""
        if not _is_costly(scope):
            await self._app(scope, receive, send)
            return
        await self._turns.acquire()
        is_held = True

        def end() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._turns.release()

        async def send_and_end(message: Message) -> None:
            end()
            await send(message)

        token = _release.set(end)
        try:
            await self._app(scope, receive, send_and_end)
        finally:
            end()
            _release.reset(token)


def _is_costly(scope: Scope) -> bool:
    if scope["type"] != "http":
        return False
    if scope["method"] == "POST":
        return str(scope["path"]).endswith(JOIN)
    return scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
