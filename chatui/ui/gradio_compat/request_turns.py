"""Lets the requests that cost Gradio much take turns, so that a crowd that comes at once does not hold up replies.

Why: the page's HTML and the start of an event take some 10 to 40 ms of the one thread that also sends all replies.
asyncio runs whatever is ready before it looks for more: of 200 people who come at once, the replies of others would
wait seconds. Whoever waits for a turn waits no longer in all, as the processor has no more to give.
Upstream: Gradio starts events at `/gradio_api/queue/join` and sends HTML at the path of each page.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

JOIN = "/gradio_api/queue/join"

MAX_CONCURRENT = 2
"""Requests: one may wait for the store or for a thread while the other computes."""

_release: ContextVar[Callable[[], None] | None] = ContextVar("release", default=None)


def release() -> None:
    """End the turn of the request that is being answered: what it still does is waiting."""
    end = _release.get()
    if end is not None:
        end()


class RequestTurns:
    """Around Gradio's application. A turn lasts until the response starts; what is streamed then needs none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._turns = asyncio.Semaphore(MAX_CONCURRENT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        if not _is_costly(scope):
            await self._app(scope, receive, send)
            return
        await self._turns.acquire()
        holds = True

        def end() -> None:
            nonlocal holds
            if holds:
                holds = False
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
