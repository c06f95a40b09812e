"""Serves Gradio's event streams to many tabs over few connections: a browser opens at most six to a site.

Replaced: in the browser, the responses of `/heartbeat/SESSION` and `/queue/data` (connections.js wraps `fetch`).
Why: Gradio holds one connection open for each tab and one more for each that awaits events; the seventh tab hangs.
connections.js sends heartbeats as short requests. It polls its event stream in chunks if other tabs of the browser hold
too many connections already. Gradio's own streams are read and buffered here, so Gradio sees no difference. Programs,
which send no such header, get Gradio's own streams.
Upstream: `heartbeat` and `queue_data` in `gradio/routes.py` are server-sent events by HTTP/1.1; the page opens them
with `fetch(new Request(...))`.
"""

import asyncio
import logging
import re
import time
from collections import Counter
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.owners import OWNER
from chatui.ui.gradio_compat.event_streams import CLOSE_STREAM, STREAM_PATH
from chatui.ui.gradio_compat.sessions import MAX_TABS

log = logging.getLogger(__name__)

HEARTBEAT_PATH = re.compile(r".*/heartbeat/[^/]+$")
CHUNKS_HEADER = "x-chatui-tab"
"""The request header by which connections.js says that it can poll for the next chunk."""

MORE_HEADER = "x-chatui-more"
"""The header of a request for the next chunk, and of a response after which to poll for more."""

MAX_HELD_STREAMS = 3
"""Connections that the event streams of one browser may hold; the others are left for its other requests."""

TAB_TIMEOUT_SECONDS = 300.0
"""Seconds without a heartbeat after which a tab counts as closed; browsers run timers of hidden tabs once a minute."""

CHUNK_TIMEOUT_SECONDS = 90.0
"""Seconds without a poll after which a stream is closed."""


class BufferedStream:
    """A streamed response of the application, which is buffered while no client reads it."""

    def __init__(self, app: ASGIApp, scope: Scope, timeout: float) -> None:
        """Start the request. It is closed after `timeout` seconds without `touch`."""
        self.start: Message | None = None
        self.ended = False
        self._body = b""
        self._available, self._closed, self._request_sent = asyncio.Event(), asyncio.Event(), False
        self._timeout, self._touched_at = timeout, time.monotonic()
        self._tasks = [asyncio.create_task(self._read(app, dict(scope))), asyncio.create_task(self._close_when_idle())]

    @property
    def closed(self) -> bool:
        """Whether no client will read it any more."""
        return self._closed.is_set()

    @property
    def complete(self) -> bool:
        """Whether the whole response is buffered."""
        return self.ended or CLOSE_STREAM in self._body

    def touch(self) -> None:
        """Restart the timeout."""
        self._touched_at = time.monotonic()

    def close(self) -> None:
        """Report to the application that the client has disconnected."""
        self._closed.set()

    async def wait(self) -> None:
        """Wait until there is something to take, or the response has ended."""
        await self._available.wait()

    def take(self) -> bytes:
        """The part of the body that was buffered since the last call."""
        chunk, self._body = self._body, b""
        if not self.ended:
            self._available.clear()
        return chunk

    async def _read(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            log.exception("a stream of events failed")
        finally:
            self.ended = True
            self._available.set()

    async def _close_when_idle(self) -> None:
        while not self.closed and (remaining := self._touched_at + self._timeout - time.monotonic()) > 0:
            await asyncio.sleep(remaining)
        self.close()

    async def _receive(self) -> Message:
        if not self._request_sent:
            self._request_sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self._body += message.get("body", b"")
        self._available.set()


class StreamMultiplexer:
    """Middleware around Gradio's application and its EventStreams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tabs: dict[str, BufferedStream] = {}
        self._events: dict[bytes, BufferedStream] = {}
        self._held: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request of any type."""
        if scope["type"] == "http" and scope["method"] == "POST" and HEARTBEAT_PATH.match(scope["path"]):
            self._heartbeat(scope)
            await Response(status_code=204)(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].endswith(STREAM_PATH) and CHUNKS_HEADER in Headers(scope=scope):
            await self._send_events(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _heartbeat(self, scope: Scope) -> None:
        """Keep a tab's heartbeat stream to Gradio open; close it if the request's query says `closed`."""
        self._tabs = {path: stream for path, stream in self._tabs.items() if not stream.closed}
        tab = self._tabs.get(scope["path"])
        if "closed" in parse_qs(scope["query_string"].decode("latin-1")):
            if tab is not None:
                tab.close()
        elif tab is not None:
            tab.touch()
            tab.take()
        elif len(self._tabs) < MAX_TABS:
            self._tabs[scope["path"]] = BufferedStream(self._app, {**scope, "method": "GET"}, TAB_TIMEOUT_SECONDS)

    async def _send_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a tab's event stream: to its end, or what is buffered if its browser holds too many connections."""
        stream = self._stream(scope)
        if stream is None:
            await Response(status_code=404)(scope, receive, send)
            return
        stream.touch()
        await stream.wait()
        browser = str(scope.get(OWNER) or (scope.get("client") or [""])[0])
        if self._held[browser] >= MAX_HELD_STREAMS and not stream.complete:
            await _send_chunk(stream, send)
            return
        self._held[browser] += 1
        try:
            await _send_all(stream, receive, send)
        finally:
            stream.close()
            self._held -= Counter([browser])

    def _stream(self, scope: Scope) -> BufferedStream | None:
        """The stream that a tab continues or starts; None if it polled too late."""
        session = scope["query_string"]
        if MORE_HEADER in Headers(scope=scope):
            stream = self._events.get(session)
            return stream if stream is not None and not stream.closed else None
        if session in self._events:
            self._events[session].close()
        self._events = {other: stream for other, stream in self._events.items() if not stream.closed}
        self._events[session] = BufferedStream(self._app, scope, CHUNK_TIMEOUT_SECONDS)
        return self._events[session]


async def _send_chunk(stream: BufferedStream, send: Send) -> None:
    """Send what is buffered, with the header that tells the tab to poll for more."""
    if stream.start is not None:
        start = {**stream.start, "headers": list(stream.start["headers"])}
        MutableHeaders(scope=start)[MORE_HEADER] = "1"
        await send(start)
        await send({"type": "http.response.body", "body": stream.take()})


async def _send_all(stream: BufferedStream, receive: Receive, send: Send) -> None:
    """Send the stream until it ends or the tab disconnects."""
    await send(stream.start or {"type": "http.response.start", "status": 500, "headers": []})
    disconnected = asyncio.create_task(_wait_disconnected(receive))
    ended = False
    try:
        while not ended:
            available = asyncio.create_task(stream.wait())
            await asyncio.wait(
                (disconnected, available), timeout=CHUNK_TIMEOUT_SECONDS / 3, return_when=asyncio.FIRST_COMPLETED
            )
            available.cancel()
            if disconnected.done():
                return
            stream.touch()
            ended = stream.ended
            await send({"type": "http.response.body", "body": stream.take(), "more_body": not ended})
    finally:
        disconnected.cancel()


async def _wait_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
