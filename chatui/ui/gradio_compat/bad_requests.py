"""Answers requests that Gradio cannot parse with 422, without a traceback in the log.

Replaced: nothing; `Blocks.preprocess_data` in `gradio/blocks.py` is wrapped (page_blocks.py), and Gradio's app too.
Why: Gradio uses what a client sends without validating it. A value of another type or shape raises some Python error,
which is logged with a traceback and answered with 500. Errors of our own code are still answered with 500.
Upstream: `Blocks.process_api` reads an event's values by `await self.preprocess_data(...)`. `get_fn` in
`gradio/route_utils.py` raises `FnIndexInferError` for an unknown event. `gr.Error(..., print_exception=False)` is sent
to the client and not logged.
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

from chatui.security import error_response

log = logging.getLogger(__name__)

PARSE_ERRORS = (
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
"""What Gradio raises for a value of an unexpected type or shape."""

NO_FILE_ERRNOS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)
"""Errors of the file system for names that no file can have."""

JSON_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""An escape sequence in JSON; it has group 1 if it is one half of a surrogate pair."""
LONE_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
"""One half of a surrogate pair in bytes: invalid UTF-8, which Python's json accepts."""

_parse_failures: ContextVar[list[str] | None] = ContextVar("parse_failures", default=None)
"""What could not be parsed in the current request."""


@contextlib.contextmanager
def refuse_bad_values() -> Iterator[None]:
    """Raise gr.Error, which is answered with 422, if Gradio fails to parse a client's values within this context."""
    try:
        yield
    except (*PARSE_ERRORS, gr.Error) as error:
        if not raised_by_gradio(error):
            raise
        detail = error.message if isinstance(error, gr.Error) else type(error).__name__
        reason = f"The values sent do not fit this event ({detail})."
        if (failures := _parse_failures.get()) is not None:
            failures.append(reason)
        raise gr.Error(reason, print_exception=False) from None


def raised_by_gradio(error: Exception) -> bool:
    """Whether Gradio or a library called by Gradio raised the error, and not our code."""
    frames = traceback.walk_tb(error.__traceback__)
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames]
    return next((name for name in reversed(packages) if name in ("gradio", "chatui")), "") == "gradio"


def replace_lone_surrogates(body: bytes) -> bytes:
    """JSON with U+FFFD for each half of a surrogate pair, which cannot be encoded as UTF-8."""
    if b"\\u" in body:
        body = JSON_ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], body)
    return LONE_SURROGATE.sub("\ufffd".encode(), body)


class BadRequests:
    """Middleware around Gradio's application. Events handle their own errors; others come from unreadable requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request of any type."""
        started = False
        failures: list[str] = []
        _parse_failures.set(failures)

        async def send_status(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start" and message["status"] == 500 and failures:
                message = {**message, "status": 422}
            await send(message)

        try:
            await self._app(scope, _receive_text(scope, receive), send_status)
        except (*PARSE_ERRORS, OSError) as error:
            if started or not raised_by_gradio(error) or not (response := _error_response(error)):
                raise
            log.info("a request could not be read: %s", type(error).__name__)
            await response(scope, receive, send)
        except RuntimeError as error:
            if not (started and isinstance(error.__cause__, HTTPException)):
                raise
            log.debug("a request for an unknown event stream")


def _error_response(error: Exception) -> JSONResponse | None:
    """The response to a request that raised an error of Gradio's; None if the client did not cause it."""
    if not isinstance(error, OSError):
        return error_response(422, f"This request cannot be read ({type(error).__name__}).")
    return error_response(404, "There is no such file.") if error.errno in NO_FILE_ERRNOS else None


def _receive_text(scope: Scope, receive: Receive) -> Receive:
    """Wrap `receive` to replace lone surrogates in the body, unless it is an upload. Other bodies are one message."""
    if scope["type"] != "http" or Headers(scope=scope).get("content-type", "").lower().startswith("multipart/"):
        return receive

    async def receive_text() -> Message:
        message = await receive()
        return {**message, "body": replace_lone_surrogates(message["body"])} if message.get("body") else message

    return receive_text
