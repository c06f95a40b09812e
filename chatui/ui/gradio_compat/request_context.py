"""Who asked for a running event, and whether anybody still reads its answer. To be called inside an event.

Reached: `LocalContext.request` and `.blocks` (`gradio/context.py`), `StateHolder.session_data` and `.time_last_used`
(`gradio/state_holder.py`), and `Queue.pending_messages_per_session` (`gradio/queueing.py`).
Why: a function of an event is given its request only where its signature has a `gr.Request`, which generators and
shared helpers several calls below do not; the state of a closed tab is kept; an event goes on although nobody reads
its stream, where that was never opened.
Upstream: `get_function_with_locals` in `gradio/utils.py` sets both variables around each event.
"""

import re
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from chatui import i18n
from chatui.owners import OWNER, named

CLOCK_COOKIE = "chatui_minutes_ahead"

MAX_BACKLOG = 100
"""Messages; six seconds of streaming, or half a minute of waiting, that nobody has taken."""


def login() -> str:
    """The login name; "" without a login."""
    request = LocalContext.request.get(None)
    return (request.username or "") if request is not None else ""


def owner() -> str | None:
    """Whose conversations this event may touch: by the login, else by our cookie; None for nobody known.

    Never by Gradio's session, which the browser makes up.
    """
    request = LocalContext.request.get(None)
    if request is None:
        return None
    if request.username:
        return named(request.username)
    found: str | None = request.request.scope.get(OWNER) if request.request is not None else None
    return found


def before_login() -> str | None:
    """Whose conversations this browser had before its user logged in: by our cookie; None without a login."""
    request = LocalContext.request.get(None)
    if request is None or not request.username or request.request is None:
        return None
    found: str | None = request.request.scope.get(OWNER)
    return found


def tab() -> str:
    """The tab, by the name that OwnerMiddleware makes the visitor's own; "" for a program."""
    request = LocalContext.request.get(None)
    return (request.session_hash or "") if request is not None else ""


async def forget_tab() -> None:
    """The tab is closed: let go of what Gradio keeps of it, up to a megabyte, which it would keep for ever."""
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is not None and request is not None and request.session_hash:
        blocks.state_holder.session_data.pop(request.session_hash, None)
        blocks.state_holder.time_last_used.pop(request.session_hash, None)


def address() -> Mapping[str, str]:
    """The parameters of the page's address."""
    request = LocalContext.request.get(None)
    return dict(request.query_params) if request is not None else {}


def minutes_ahead() -> int:
    """What the browser's clock is ahead of UTC, as chatui.js says in a cookie; 0 where it does not."""
    request = LocalContext.request.get(None)
    return minutes_ahead_in(request.cookies) if request is not None else 0


def minutes_ahead_in(cookies: Mapping[str, str]) -> int:
    """The same by a request's cookies."""
    said = cookies.get(CLOCK_COOKIE, "")
    return int(said) if re.fullmatch(r"-?\d{1,3}", said, re.ASCII) else 0


def language_of(request: Any) -> str:
    """The language of an event. `Blocks.process_api` gets a gr.Request, a list of them, or None as its request."""
    first = request[0] if isinstance(request, list) and request else request
    headers = first.headers if isinstance(first, gr.Request) and first.request is not None else {}
    return i18n.negotiate(headers.get("accept-language"))


def fair_queue_user() -> str:
    """Whose turn it is in a fair queue: the owner by the login or our cookie, else the client's address.

    Never the session, of which a client makes up as many as it likes.
    """
    request = LocalContext.request.get(None)
    if request is None:
        return ""
    if request.username:
        return named(request.username)
    found: str | None = request.request.scope.get(OWNER) if request.request is not None else None
    return found or f"address:{request.client.host if request.client else ''}"


def is_abandoned() -> bool:
    """Whether the messages of this event's page or client pile up: its stream was never opened, or its network is gone.

    Gradio ends an event when its stream is closed, but not when there never was one.
    """
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is None or request is None:
        return False
    waiting = blocks._queue.pending_messages_per_session.get(request.session_hash)
    return waiting is not None and waiting.qsize() > MAX_BACKLOG
