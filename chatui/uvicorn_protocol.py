"""uvicorn as it is run here: connections on which no request comes are closed, and the console tells of faults only."""

import asyncio
import logging
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30.0
"""How long the headers of a request may take; uvicorn would wait for them for ever."""


class TimedProtocol(H11Protocol):
    """Closes a connection on which no whole request comes: silent ones, and those whose headers drip."""

    _giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        super().data_received(data)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._giving_up is None:
            self._giving_up = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self) -> None:
        self._giving_up = None
        if self.conn.their_state is h11.IDLE and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def config(app: ASGIApp, **options: Any) -> uvicorn.Config:
    """How `app` is served."""
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(is_server_fault)
    return uvicorn.Config(app, http=TimedProtocol, log_level="warning", ws="none", proxy_headers=False, **options)


def is_server_fault(record: logging.LogRecord) -> bool:
    """False for what uvicorn says of clients, which may say anything, and of tabs that listen when it stops."""
    message = record.getMessage()
    if message.startswith(("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket")):
        return False
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, h11.LocalProtocolError):  # an answer to one who broke HTTP in the middle of a request
        broken = isinstance(error.__context__, h11.RemoteProtocolError) or "MUST_CLOSE" in str(error)
        return not broken
    return not isinstance(error, asyncio.CancelledError) and "timeout graceful shutdown exceeded" not in message
