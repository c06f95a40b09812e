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
from chatui.owners import LOGIN_UNKNOWN, OWNER, OwnerOf
from chatui.uvicorn_protocol import WAIT_PATH

WAIT_SECONDS = 25.0
"""How long a request is held at most; some proxies end one after 30 seconds, and changes.js after 65."""

POLL_SECONDS = 1.0
"""How often a tab asks to which much happens, and other visible tabs of a browser, for which one request is held.

A browser opens six connections to a server.
"""

SPREAD_SECONDS = 20.0
"""Within how long tabs refresh that have missed changes, such as all tabs of a server whose database was away."""

MODELS_SPREAD_SECONDS = 5.0
"""Within how long tabs show that other models can be chosen, of which all tabs of all users hear."""

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
            return Response(status_code=503 if request.scope.get(LOGIN_UNKNOWN) else 404)
        if "since" in query:
            changed = changes.since(owner, tab, query["since"], query.get("models", ""))
        else:
            changed = changes.in_last(owner, tab, _seconds(query.get("seconds", "")), query.get("models", ""))
        browser = str(request.scope.get(OWNER) or (request.client.host if request.client else ""))
        if changed or browser in held:
            return _response(changed, POLL_SECONDS)
        held.add(browser)
        try:
            changed = await _wait(request, changes, owner, tab, changed)
        finally:
            held.remove(browser)
        return _response(changed, POLL_SECONDS if changed else 0.0)

    return Route(WAIT_PATH, answer)


def _response(changed: Changed, pause: float) -> Response:
    spread = SPREAD_SECONDS if changed.missed else MODELS_SPREAD_SECONDS if changed.new_models else 0.0
    body = {
        "position": changed.position,
        "chats": sorted(changed.conversations),
        "missed": changed.missed,
        "models": changed.models,
        "new_models": changed.new_models,
        "delay": random.uniform(0, spread),  # noqa: S311
        "pause": pause,
    }
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


async def _wait(request: Request, changes: ChatChanges, owner: str, tab: str, unchanged: Changed) -> Changed:
    """The next changes. After WAIT_SECONDS, or when the tab has closed the connection, none at the position by then."""
    waiting = asyncio.ensure_future(changes.wait(owner, tab, unchanged))
    disconnected = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((waiting, disconnected), timeout=WAIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else changes.since(owner, tab, unchanged.position, unchanged.models)
    finally:
        waiting.cancel()
        disconnected.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _seconds(text: str) -> float:
    return min(float(text), 3600.0) if text.isdecimal() else 0.0
