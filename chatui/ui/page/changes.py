"""The route at which changes.js waits for what other tabs of its user change, while its tab is visible.

A visible tab at which nothing happens costs a connection and a request every WAIT_SECONDS, for which the database is
asked at most about its login; a hidden one costs nothing.
"""

import asyncio
import random

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chatui.chat_changes import Changed, ChatChanges
from chatui.owners import OWNER, OwnerOf
from chatui.uvicorn_protocol import WAIT_PATH

WAIT_SECONDS = 50.0
"""How long a request is held at most; many proxies end one after 60 seconds."""

POLL_SECONDS = 1.0
"""How often other visible tabs of the browser ask: only one request is held for it, as it opens six connections."""

SPREAD_SECONDS = 20.0
"""Within how long tabs refresh that have missed changes, such as all tabs of a server whose database was away."""

MAX_SESSION_LENGTH = 100


def route(changes: ChatChanges, owner_of: OwnerOf) -> Route:
    """GET gradio_api/changes?session_hash=SESSION&since=POSITION, or &seconds=COUNT for those of the last seconds.

    The answer has the position, the ids of the changed conversations, whether others were missed, what stands for the
    models (to be sent as `models` the next time), whether they are new, and how many seconds the tab waits before it
    shows that (`delay`) and before it asks again (`pause`).
    """
    held: set[str] = set()

    async def answer(request: Request) -> Response:
        owner, query = owner_of(request), request.query_params
        tab = query.get("session_hash", "")
        if owner is None or not 0 < len(tab) <= MAX_SESSION_LENGTH:
            return Response(status_code=404)
        if "since" in query:
            changed = changes.since(owner, tab, query["since"], query.get("models", ""))
        else:
            changed = changes.in_last(owner, tab, _seconds(query.get("seconds", "")), query.get("models", ""))
        browser = str(request.scope.get(OWNER) or (request.client.host if request.client else ""))
        pause = 0.0
        if not changed and browser not in held:
            held.add(browser)
            try:
                changed = await _wait(request, changes, owner, tab, changed)
            finally:
                held.remove(browser)
        elif not changed:
            pause = POLL_SECONDS
        return _response(changed, pause)

    return Route(WAIT_PATH, answer)


def _response(changed: Changed, pause: float) -> Response:
    body = {
        "position": changed.position,
        "chats": sorted(changed.conversations),
        "missed": changed.missed,
        "models": changed.models,
        "new_models": changed.new_models,
        "delay": random.uniform(0, SPREAD_SECONDS) if changed.missed else 0.0,  # noqa: S311
        "pause": pause,
    }
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


async def _wait(request: Request, changes: ChatChanges, owner: str, tab: str, unchanged: Changed) -> Changed:
    """The next changes; `unchanged` after WAIT_SECONDS, or when the tab has closed the connection."""
    waiting = asyncio.ensure_future(changes.wait(owner, tab, unchanged))
    disconnected = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((waiting, disconnected), timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else unchanged
    finally:
        waiting.cancel()
        disconnected.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _seconds(text: str) -> float:
    return min(float(text), 3600.0) if text.isdecimal() else 0.0
