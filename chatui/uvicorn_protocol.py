"""Configures uvicorn: closes connections that send no complete request, and logs only faults of the server."""

import asyncio
import logging
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from chatui import logs
from chatui.errors import ExportCutOffError

WAIT_PATH = "/gradio_api/changes"
"""The end of the path at which a visible tab waits for changes, see ui/page/changes.py.

It is below Gradio's, where OwnerMiddleware binds the tab's session name to its visitor.
"""

HEADER_SECONDS = 30.0
"""Seconds in which the headers of a request must arrive. uvicorn itself has no limit."""


class TimedProtocol(H11Protocol):
    """Closes connections on which the headers of a request do not arrive, or arrive too slowly."""

    _header_timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for the first request."""
        super().connection_made(transport)
        self._update_timeout()

    def data_received(self, data: bytes) -> None:
        """Handle data, then start the timeout for the next headers or cancel it."""
        super().data_received(data)
        self._update_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        self._cancel_timeout()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection when the server ends: at once where a tab only waits for changes."""
        super().shutdown()
        if self.cycle is not None and not self.cycle.response_complete and self.scope["path"].endswith(WAIT_PATH):
            self.transport.close()

    def _update_timeout(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._cancel_timeout()
        elif self._header_timeout is None:
            self._header_timeout = self.loop.call_later(HEADER_SECONDS, self._close_if_idle)

    def _cancel_timeout(self) -> None:
        if self._header_timeout is not None:
            self._header_timeout.cancel()
            self._header_timeout = None

    def _close_if_idle(self) -> None:
        self._header_timeout = None
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def config(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """The configuration to serve `app`. Adds `is_server_fault` as a filter to the loggers."""
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(is_server_fault)
    if logs.is_json():
        options["log_config"] = None  # its loggers write what all others do
    return uvicorn.Config(app, http=TimedProtocol, log_level="warning", ws="none", proxy_headers=False, **options)


def is_server_fault(record: logging.LogRecord) -> bool:
    """Log filter: false for records that clients cause, for streams that are open when the server stops, and for
    exports that were cut off, which are logged where they happen.
    """
    message = record.getMessage()
    if message.startswith(("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket")):
        return False
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, h11.LocalProtocolError):  # a response to a client that violated HTTP within a request
        client_error = isinstance(error.__context__, h11.RemoteProtocolError) or "MUST_CLOSE" in str(error)
        return not client_error
    expected = isinstance(error, asyncio.CancelledError | ExportCutOffError)
    return not expected and "timeout graceful shutdown exceeded" not in message
