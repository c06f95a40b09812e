"""Requests that Gradio cannot read are the client's fault: they are answered with 422, and no traceback is logged."""

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar

import gradio as gr
from gradio.route_utils import FnIndexInferError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.security import refusal

log = logging.getLogger(__name__)

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError, RecursionError)
"""What Gradio raises where a value has another type or shape than it expects."""

_seen: ContextVar[list[str] | None] = ContextVar("seen", default=None)
"""Of the request that is being answered: what could not be read."""


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Around the reading of what a client sent. Raises gr.Error where that is not what it must be."""
    try:
        yield
    except (*UNREADABLE, gr.Error) as error:
        told = error.message if isinstance(error, gr.Error) else type(error).__name__
        reason = f"The values sent do not fit this event ({told})."
        if (seen := _seen.get()) is not None:
            seen.append(reason)
        raise gr.Error(reason, print_exception=False) from None


class Malformed:
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
            await self._app(scope, receive, sent)
        except (ValueError, KeyError, RecursionError, FnIndexInferError) as error:
            if started:
                raise
            log.info("a request could not be read: %s", type(error).__name__)
            await refusal(422, f"This request cannot be read ({type(error).__name__}).")(scope, receive, send)
        except RuntimeError as error:
            if not (started and isinstance(error.__cause__, HTTPException)):
                raise
            log.debug("a stream was asked for that there is not")
