"""The request of the running event: owner, tab, language, and whether its client still reads. Called inside an event.

Reached: `LocalContext.request` and `.blocks` (`gradio/context.py`), `StateHolder.session_data` and `.time_last_used`
(`gradio/state_holder.py`), and `Queue.pending_messages_per_session` (`gradio/queueing.py`).
Why: an event's function gets its request only if its signature has a `gr.Request`, which helpers several calls below it
do not have. Gradio keeps the state of a closed tab. An event continues without a reader if its stream was never opened.
Upstream: `get_function_with_locals` in `gradio/utils.py` sets both variables around each event.
"""

import re
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from chatui import i18n
from chatui.models.permissions import User
from chatui.owners import OPERATOR, OWNER, login_owner

CLOCK_COOKIE = "chatui_minutes_ahead"

MAX_BACKLOG = 100
"""Unread messages: six seconds of streaming, or half a minute of waiting."""


def login() -> str:
    """The user's login name; "" without a login."""
    request = LocalContext.request.get(None)
    return (request.username or "") if request is not None else ""


def user() -> User:
    """The user, for permissions; nobody outside an event."""
    request = LocalContext.request.get(None)
    if request is None:
        return User()
    is_operator = request.request is not None and request.request.scope.get(OPERATOR) is True
    return User(request.username or "", is_operator)


def owner() -> str | None:
    """The owner of the conversations that this event may access: by the login, else by our cookie; None for neither.

    Never by Gradio's session hash, which the client chooses.
    """
    request = LocalContext.request.get(None)
    if request is None:
        return None
    if request.username:
        return login_owner(request.username)
    owner: str | None = request.request.scope.get(OWNER) if request.request is not None else None
    return owner


def owner_before_login() -> str | None:
    """The owner of this browser's conversations from before its user logged in, by our cookie; None without a login."""
    request = LocalContext.request.get(None)
    if request is None or not request.username or request.request is None:
        return None
    owner: str | None = request.request.scope.get(OWNER)
    return owner


def tab() -> str:
    """The session hash of the tab, which OwnerMiddleware binds to its owner; "" for a program."""
    request = LocalContext.request.get(None)
    return (request.session_hash or "") if request is not None else ""


async def forget_tab() -> None:
    """Delete what Gradio keeps of a closed tab, up to a megabyte, which it would never delete."""
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is not None and request is not None and request.session_hash:
        blocks.state_holder.session_data.pop(request.session_hash, None)
        blocks.state_holder.time_last_used.pop(request.session_hash, None)


def query_params() -> Mapping[str, str]:
    """The query parameters of the page's URL."""
    request = LocalContext.request.get(None)
    return dict(request.query_params) if request is not None else {}


def utc_offset_minutes() -> int:
    """The browser's UTC offset in minutes, from the cookie that chatui.js sets; 0 without one."""
    request = LocalContext.request.get(None)
    return utc_offset_in(request.cookies) if request is not None else 0


def utc_offset_in(cookies: Mapping[str, str]) -> int:
    """The UTC offset in minutes from a request's cookies."""
    offset = cookies.get(CLOCK_COOKIE, "")
    return int(offset) if re.fullmatch(r"-?\d{1,3}", offset, re.ASCII) else 0


def language_of(request: Any) -> str:
    """The language of an event. `Blocks.process_api` gets a gr.Request, a list of them, or None as its request."""
    first = request[0] if isinstance(request, list) and request else request
    headers = first.headers if isinstance(first, gr.Request) and first.request is not None else {}
    return i18n.negotiate(headers.get("accept-language"))


def fair_queue_user() -> str:
    """Who counts as one user in the fair queue: the owner by the login or our cookie, else the client's address.

    Never the session hash, of which a client can choose any number.
    """
    request = LocalContext.request.get(None)
    if request is None:
        return ""
    if request.username:
        return login_owner(request.username)
    owner: str | None = request.request.scope.get(OWNER) if request.request is not None else None
    return owner or f"address:{request.client.host if request.client else ''}"


def is_abandoned() -> bool:
    """Whether more than MAX_BACKLOG messages of this event's client are unread.

    Gradio ends an event when its stream is closed, but not if the stream was never opened or the network is gone.
    """
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is None or request is None:
        return False
    unread = blocks._queue.pending_messages_per_session.get(request.session_hash)
    return unread is not None and unread.qsize() > MAX_BACKLOG
