"""Gradio's streams to a tab without a connection for each: a browser has six for a site, whatever its tabs need.

Replaced: in the browser, the answers of `/heartbeat/SESSION` and `/queue/data` (connections.js wraps `fetch`).
Why: Gradio holds one connection open for each tab and one more for each that awaits events; the seventh tab hangs.
connections.js says by short requests that its tab lives, and takes the stream of its events in pieces where other
tabs of the browser hold connections already. For Gradio the streams stay whole: they are read here. Programs, which
send no such header, get Gradio's own streams.
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
from chatui.ui.gradio_compat.event_streams import OVER, STREAM
from chatui.ui.gradio_compat.sessions import MAX_TABS

log = logging.getLogger(__name__)

HEARTBEAT = re.compile(r".*/heartbeat/[^/]+$")
IN_PIECES = "x-chatui-tab"
"""The header by which connections.js says that it can ask for the next piece."""

MORE = "x-chatui-more"
"""The header that asks for the next piece."""

MAX_BUFFERED = 3
"""Connections that the streams of one browser may hold: the others are for all else that its tabs ask."""

MAX_SILENCE_SECONDS = 300.0
"""Seconds after which a tab that says nothing is taken for closed; browsers let hidden ones speak once a minute."""

MAX_ABSENCE_SECONDS = 90.0
"""Seconds that the next piece may be waited for."""


class Stream:
    """One answer of the application, which it gives whole, whether or not somebody reads it at the moment."""

    def __init__(self, app: ASGIApp, scope: Scope, patience: float) -> None:
        """It is closed after `patience` seconds without `hear`."""
        self.start: Message | None = None
        self.ended = False
        self._body = b""
        self._come, self._closed, self._asked = asyncio.Event(), asyncio.Event(), False
        self._patience, self._heard = patience, time.monotonic()
        self._tasks = [asyncio.create_task(self._read(app, dict(scope))), asyncio.create_task(self._watch())]

    @property
    def closed(self) -> bool:
        """Whether nobody will read it any more."""
        return self._closed.is_set()

    @property
    def over(self) -> bool:
        """Whether all that will come is there."""
        return self.ended or OVER in self._body

    def hear(self) -> None:
        """Somebody is there."""
        self._heard = time.monotonic()

    def close(self) -> None:
        """Nobody is there any more, which the application is told."""
        self._closed.set()

    async def come(self) -> None:
        """Return when there is something to take, or it has ended."""
        await self._come.wait()

    def take(self) -> bytes:
        """All that has come since the last time."""
        taken, self._body = self._body, b""
        if not self.ended:
            self._come.clear()
        return taken

    async def _read(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            log.exception("a stream of events failed")
        finally:
            self.ended = True
            self._come.set()

    async def _watch(self) -> None:
        while not self.closed and (left := self._heard + self._patience - time.monotonic()) > 0:
            await asyncio.sleep(left)
        self.close()

    async def _receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self._body += message.get("body", b"")
        self._come.set()


class StreamMultiplexer:
    """Around Gradio's application and its EventStreams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tabs: dict[str, Stream] = {}
        self._events: dict[bytes, Stream] = {}
        self._held: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        if scope["type"] == "http" and scope["method"] == "POST" and HEARTBEAT.match(scope["path"]):
            self._live(scope)
            await Response(status_code=204)(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].endswith(STREAM) and IN_PIECES in Headers(scope=scope):
            await self._listen(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _live(self, scope: Scope) -> None:
        """A tab is there or, with `closed`, was: for Gradio its heartbeat is a stream that is held and broken off."""
        self._tabs = {path: stream for path, stream in self._tabs.items() if not stream.closed}
        tab = self._tabs.get(scope["path"])
        if "closed" in parse_qs(scope["query_string"].decode("latin-1")):
            if tab is not None:
                tab.close()
        elif tab is not None:
            tab.hear()
            tab.take()
        elif len(self._tabs) < MAX_TABS:
            self._tabs[scope["path"]] = Stream(self._app, {**scope, "method": "GET"}, MAX_SILENCE_SECONDS)

    async def _listen(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A tab reads the stream of its events: as long as it comes, or what there is of it."""
        stream = self._stream(scope)
        if stream is None:
            await Response(status_code=404)(scope, receive, send)
            return
        stream.hear()
        await stream.come()
        browser = str(scope.get(OWNER) or (scope.get("client") or [""])[0])
        if self._held[browser] >= MAX_BUFFERED and not stream.over:
            await _piece(stream, send)
            return
        self._held[browser] += 1
        try:
            await _whole(stream, receive, send)
        finally:
            stream.close()
            self._held -= Counter([browser])

    def _stream(self, scope: Scope) -> Stream | None:
        """The one that a tab goes on with or begins; None where it stayed away for too long."""
        session = scope["query_string"]
        if MORE in Headers(scope=scope):
            found = self._events.get(session)
            return found if found is not None and not found.closed else None
        if session in self._events:
            self._events[session].close()
        self._events = {other: stream for other, stream in self._events.items() if not stream.closed}
        self._events[session] = Stream(self._app, scope, MAX_ABSENCE_SECONDS)
        return self._events[session]


async def _piece(stream: Stream, send: Send) -> None:
    """What has come of it; the tab is told to ask for more."""
    if stream.start is not None:
        start = {**stream.start, "headers": list(stream.start["headers"])}
        MutableHeaders(scope=start)[MORE] = "1"
        await send(start)
        await send({"type": "http.response.body", "body": stream.take()})


async def _whole(stream: Stream, receive: Receive, send: Send) -> None:
    """All of it, until it ends or the tab leaves."""
    await send(stream.start or {"type": "http.response.start", "status": 500, "headers": []})
    leaving = asyncio.create_task(_left(receive))
    ended = False
    try:
        while not ended:
            coming = asyncio.create_task(stream.come())
            await asyncio.wait((leaving, coming), timeout=MAX_ABSENCE_SECONDS / 3, return_when=asyncio.FIRST_COMPLETED)
            coming.cancel()
            if leaving.done():
                return
            stream.hear()
            ended = stream.ended
            await send({"type": "http.response.body", "body": stream.take(), "more_body": not ended})
    finally:
        leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
