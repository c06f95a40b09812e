"""HTTP/1.1 without TLS for httpx, for streams of many small pieces: a fraction of what httpx's own transport takes.

Each piece is what the event loop has read, without a task, a lock or a timeout of its own.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, cast

import h11
import httpx

from chatui.remote.http_body import Body, ChunkedBody, SizedBody, UnsizedBody

DEFAULT_PORT = 80
MAX_IDLE, IDLE_SECONDS = 64, 5.0
"""The connections that are kept for further requests, and how long: servers close them too."""
NEXT_ADDRESS_SECONDS = 0.25
"""How long one address of a host is waited for before the next one is tried beside it (RFC 8305)."""
STALE_SECONDS = 1.0
"""A kept connection that is lost so soon after a request was sent by it had been closed before by the server."""
BUFFER_BYTES = 2**16
MAX_BUFFERED_BYTES = 2**18
"""Bytes that may wait for their reader before no more are read."""
MAX_HEAD_BYTES = 100 * 2**10


class HttpTransport(httpx.AsyncBaseTransport):
    """Sends requests to `http://` addresses. Follows httpx's timeouts but for that of the pool, which has no limit."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._idle: dict[tuple[str, int], list[_Connection]] = defaultdict(list)
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The response, of which the headers have come. Raises httpx.TransportError."""
        address = request.url.host, request.url.port or DEFAULT_PORT
        kept = self._taken(address)
        if kept is not None:
            try:
                return await self._exchange(request, address, kept)
            except (httpx.ReadError, httpx.RemoteProtocolError):
                # llama.cpp closes a connection behind a streamed response, which may be known only now. One that is
                # lost later had the request: the server may have died of it.
                if kept.has_received or time.monotonic() - kept.sent_at >= STALE_SECONDS:
                    raise
        timeout = request.extensions.get("timeout", {}).get("connect")
        return await self._exchange(request, address, await self._connect(address, timeout))

    async def _exchange(
        self, request: httpx.Request, address: tuple[str, int], connection: "_Connection"
    ) -> httpx.Response:
        """The response that comes by this connection. Raises httpx.TransportError."""
        timeouts = request.extensions.get("timeout", {})
        try:
            await connection.send(request, timeouts.get("write"))
            head = await connection.head(timeouts.get("read"))
        except BaseException:
            connection.close()
            raise
        stream = _Content(self, address, connection, timeouts.get("read"))
        extensions = {"http_version": b"HTTP/" + head.http_version, "reason_phrase": head.reason}
        return httpx.Response(head.status_code, headers=head.headers.raw_items(), stream=stream, extensions=extensions)

    async def aclose(self) -> None:
        """Close the connections that are kept, and each of the others once its response has ended."""
        self._closed = True
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # in which the event loop closes their sockets

    def keep(self, address: tuple[str, int], connection: "_Connection") -> None:
        """Keep a connection for further requests if it can be used again, or close it."""
        self._prune()
        connection.idle_since = time.monotonic()
        has_room = not self._closed and sum(map(len, self._idle.values())) < MAX_IDLE
        if has_room and connection.is_reusable:
            self._idle[address].append(connection)
        else:
            connection.close()

    async def _connect(self, address: tuple[str, int], timeout: float | None) -> "_Connection":
        connection, loop = _Connection(self._buffer), asyncio.get_running_loop()
        # uvloop does not take it.
        takes_delay = isinstance(loop, asyncio.BaseEventLoop)
        options: dict[str, Any] = {"happy_eyeballs_delay": NEXT_ADDRESS_SECONDS} if takes_delay else {}
        try:
            async with asyncio.timeout(timeout):
                await loop.create_connection(lambda: connection, *address, **options)
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return connection

    def _taken(self, address: tuple[str, int]) -> "_Connection | None":
        """The latest kept connection that still stands."""
        self._prune()
        if address not in self._idle:
            return None
        connection = self._idle[address].pop()
        connection.begin()
        return connection

    def _prune(self) -> None:
        """Close the kept connections, of all addresses, that are old or were closed by their servers."""
        oldest = time.monotonic() - IDLE_SECONDS
        for address, kept in list(self._idle.items()):
            for connection in list(kept):
                if connection.idle_since < oldest or not connection.is_reusable:
                    kept.remove(connection)
                    connection.close()
            if not kept:
                del self._idle[address]


class _Content(httpx.AsyncByteStream):
    """The body of a response. Closing it before its end closes the connection."""

    def __init__(
        self, pool: HttpTransport, address: tuple[str, int], connection: "_Connection", timeout: float | None
    ) -> None:
        self._pool, self._address, self._connection, self._timeout = pool, address, connection, timeout
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The content in pieces, as it comes. Raises httpx.TransportError."""
        while piece := await self._connection.read(self._timeout):
            yield piece

    async def aclose(self) -> None:
        """Give the connection back."""
        if not self._closed:
            self._closed = True
            self._pool.keep(self._address, self._connection)


class _Connection(asyncio.BufferedProtocol):
    """One connection: a request, its response, the next request. It reads into a `buffer` that many may share."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self.idle_since = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = False
        self.begin()

    def begin(self) -> None:
        """Be ready for a request."""
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head: h11.Response | None = None
        self._body: Body | None = None
        self._content: list[bytes] = []
        self._buffered = 0
        self._error: httpx.TransportError | None = None
        self._is_kept = self._is_paused = self.has_received = False
        self.sent_at = math.inf

    @property
    def is_reusable(self) -> bool:
        """Whether its response has come to an end, after which another request may be sent."""
        ended = self._body is not None and self._body.ended and not (self._body.rest or self._content)
        is_open = self._error is None and not self._lost and not self._transport.is_closing()
        return ended and self._is_kept and is_open

    async def send(self, request: httpx.Request, timeout: float | None) -> None:
        """Send a request. Raises httpx.TransportError."""
        try:
            await self._send(request, timeout)
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from None
        self.sent_at = time.monotonic()

    async def _send(self, request: httpx.Request, timeout: float | None) -> None:
        head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
        self._asked = head
        await self._write(self._http.send(head), timeout)
        async for piece in cast(httpx.AsyncByteStream, request.stream):
            await self._write(self._http.send(h11.Data(data=piece)), timeout)
        await self._write(self._http.send(h11.EndOfMessage()), timeout)

    async def head(self, timeout: float | None) -> h11.Response:
        """Status and headers of the response. Raises httpx.TransportError."""
        while self._head is None:
            await self._wait(timeout)
        return self._head

    async def read(self, timeout: float | None) -> bytes:
        """The content that has come, at least one byte; none at its end. Raises httpx.TransportError."""
        while not self._content:
            if self._body is None or self._body.ended:
                return b""
            await self._wait(timeout)
        content = self._content[0] if len(self._content) == 1 else b"".join(self._content)
        self._content.clear()
        self._buffered = 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        return content

    def close(self) -> None:
        """Close it, whatever is still to come."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def get_buffer(self, _: int) -> memoryview:
        """See asyncio.BufferedProtocol. The other protocol has a new buffer for each piece, which takes longer."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        data = bytes(self._buffer[:nbytes])
        self.has_received = True
        try:
            if self._body is None:
                data = self._read_head(data)
            if self._body is not None and (content := self._body.push(data)):
                self._content.append(content)
                self._buffered += len(content)
            if self._body is not None and self._body.error:
                raise h11.RemoteProtocolError(self._body.error)
        except h11.RemoteProtocolError as error:
            self._fail(httpx.RemoteProtocolError(str(error)))
            self._transport.abort()
        if self._buffered > MAX_BUFFERED_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.BaseProtocol."""
        self._lost = True
        self._writable.set()
        if self._body is not None and exc is None and self._body.is_whole_at_end():
            self._body.ended = True
        elif exc is not None:
            self._fail(httpx.ReadError(str(exc)))
        else:
            said = "peer closed connection without sending complete message body"
            self._fail(httpx.RemoteProtocolError(said if self._body else "server disconnected without a response"))
        self._wake()

    def pause_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.BaseProtocol."""
        self._writable.set()

    def _read_head(self, data: bytes) -> bytes:
        """Read status and headers. Returns what has come of the body. Raises h11.RemoteProtocolError."""
        self._http.receive_data(data)
        while isinstance(event := self._http.next_event(), h11.InformationalResponse):
            pass
        if not isinstance(event, h11.Response):
            return b""
        self._head, self._body = event, _body_of(self._asked, event)
        options = b",".join(value for name, value in (*self._asked.headers, *event.headers) if name == b"connection")
        self._is_kept = event.http_version >= b"1.1" and b"close" not in options.lower()
        return self._http.trailing_data[0]

    async def _write(self, data: bytes | None, timeout: float | None) -> None:
        if data and not self._lost:
            self._transport.write(data)
        try:
            async with asyncio.timeout(timeout):
                await self._writable.wait()
        except TimeoutError:
            raise httpx.WriteTimeout("the request is not taken in time") from None

    async def _wait(self, timeout: float | None) -> None:
        """Wait for something new. Raises httpx.TransportError."""
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        if timeout is None:
            await self._waiter
            return
        try:
            async with asyncio.timeout(timeout):
                await self._waiter
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time") from None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: httpx.TransportError) -> None:
        if self._error is None:
            self._error = error


def _body_of(asked: h11.Request, head: h11.Response) -> Body:
    """How the body of a response is cut. h11 has checked the headers."""
    headers = dict(head.headers)
    if asked.method == b"HEAD" or head.status_code in (204, 304):
        return SizedBody(0)
    if b"transfer-encoding" in headers:
        return ChunkedBody()
    if b"content-length" in headers:
        return SizedBody(int(headers[b"content-length"]))
    return UnsizedBody()
