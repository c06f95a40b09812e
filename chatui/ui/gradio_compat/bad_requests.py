"""Requests that Gradio cannot read are answered with 422 and leave no traceback in the log.

Replaced: nothing; `Blocks.preprocess_data` in `gradio/blocks.py` is wrapped (page_blocks.py), and Gradio's app too.
Why: what a client sends is not checked before Gradio uses it. A value of another type or shape raises whatever Python
raises there, which is logged with a traceback and answered with 500. What our own code raises stays a 500.
Upstream: `Blocks.process_api` reads an event's values by `await self.preprocess_data(...)`. `get_fn` in
`gradio/route_utils.py` raises `FnIndexInferError` where an event is not known. `gr.Error(..., print_exception=False)`
is told to the client and not logged.
"""

import contextlib
import errno
import logging
import re
import traceback
from collections.abc import Iterator
from contextvars import ContextVar

import gradio as gr
import httpx
from gradio.route_utils import FnIndexInferError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.security import refusal

log = logging.getLogger(__name__)

UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    RecursionError,
    FnIndexInferError,
    httpx.InvalidURL,
)
"""What Gradio raises where a value has another type or shape than it expects."""

NO_FILE = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
"""What is wrong with the name of a file that no file has."""

ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""An escape in JSON; with a group where it is half a surrogate pair."""
HALF = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
"""The same, as bytes that UTF-8 does not have but Python reads."""

_seen: ContextVar[list[str] | None] = ContextVar("seen", default=None)
"""Of the request that is being answered: what could not be read."""


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Around the reading of what a client sent. Raises gr.Error where that is not what it must be."""
    try:
        yield
    except (*UNREADABLE, gr.Error) as error:
        if not is_gradios(error):
            raise
        told = error.message if isinstance(error, gr.Error) else type(error).__name__
        reason = f"The values sent do not fit this event ({told})."
        if (seen := _seen.get()) is not None:
            seen.append(reason)
        raise gr.Error(reason, print_exception=False) from None


def is_gradios(error: Exception) -> bool:
    """Whether Gradio raised it, or a library that Gradio called, and not our code."""
    frames = traceback.walk_tb(error.__traceback__)
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames]
    return next((name for name in reversed(packages) if name in ("gradio", "chatui")), "") == "gradio"


def whole_characters(body: bytes) -> bytes:
    """JSON with U+FFFD for each half of a surrogate pair, which is no text and cannot be kept or sent back."""
    if b"\\u" in body:
        body = ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)
    return HALF.sub("\ufffd".encode(), body)


class BadRequests:
    """Around Gradio's own application, whose events log their own errors: what escapes is a request it cannot read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        started = False
        seen: list[str] = []
        _seen.set(seen)

        async def sent(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start" and message["status"] == 500 and seen:
                message = {**message, "status": 422}
            await send(message)

        try:
            await self._app(scope, _as_text(scope, receive), sent)
        except (*UNREADABLE, OSError) as error:
            if started or not is_gradios(error) or not (answer := _answer(error)):
                raise
            log.info("a request could not be read: %s", type(error).__name__)
            await answer(scope, receive, send)
        except RuntimeError as error:
            if not (started and isinstance(error.__cause__, HTTPException)):
                raise
            log.debug("a stream was asked for that there is not")


def _answer(error: Exception) -> JSONResponse | None:
    """What the client is told of an error of Gradio's; None where it is not for the client."""
    if not isinstance(error, OSError):
        return refusal(422, f"This request cannot be read ({type(error).__name__}).")
    return refusal(404, "There is no such file.") if error.errno in NO_FILE else None


def _as_text(scope: Scope, receive: Receive) -> Receive:
    """Receives the body, which is one piece unless it is a file, in whole characters."""
    if scope["type"] != "http" or Headers(scope=scope).get("content-type", "").lower().startswith("multipart/"):
        return receive

    async def received() -> Message:
        message = await receive()
        return {**message, "body": whole_characters(message["body"])} if message.get("body") else message

    return received
