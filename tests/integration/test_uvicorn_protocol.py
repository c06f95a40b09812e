"""Connections on which no whole request comes are closed; the console tells of our faults and not of clients'."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from chatui import uvicorn_protocol
from chatui.errors import StoreError

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def connected(
    waits: asyncio.Event | None = None,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server whose answer `waits`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].endswith("/changes"):
            while (await receive())["type"] != "http.disconnect":
                pass
        if waits is not None:
            await waits.wait()
        await PlainTextResponse("whole")(scope, receive, send)

    server = uvicorn.Server(uvicorn_protocol.config(app, lifespan="off", port=0, timeout_keep_alive=60))
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield reader, writer
        writer.close()
    finally:
        server.should_exit = True
        await serving


async def test_a_request_that_waits_for_changes_ends_with_the_server() -> None:
    async with asyncio.timeout(30):
        async with connected() as (reader, writer):
            writer.write(REQUEST.replace(b"/", b"/chat/gradio_api/changes?since=1", 1))
            await asyncio.sleep(0.05)
            closed = asyncio.create_task(ended(reader))
            writer.close = lambda: None  # type: ignore[method-assign]
        assert await closed


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server closed the connection without a word, once it has."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:  # what it had not read yet when it closed makes the client's system say so
        return True


@pytest.mark.parametrize("sent", [b"", REQUEST[:-2]])
async def test_one_who_sends_no_whole_request_is_left(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEADER_SECONDS", 0.05)
    async with asyncio.timeout(30), connected() as (reader, writer):
        writer.write(sent)
        assert await ended(reader)


async def test_headers_that_drip_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEADER_SECONDS", 0.1)
    async with asyncio.timeout(30), connected() as (reader, writer):
        closed = asyncio.create_task(ended(reader))
        while not closed.done():
            writer.write(b"G")
            await asyncio.sleep(0.01)
        assert closed.result()


async def test_the_second_request_of_a_connection_must_come_in_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asyncio.timeout(25), connected() as (reader, writer):
        writer.write(REQUEST)
        assert await reader.readuntil(b"whole")
        monkeypatch.setattr(uvicorn_protocol, "HEADER_SECONDS", 0.05)
        writer.write(REQUEST[:-2])
        assert await ended(reader)


async def test_an_answer_may_take_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_protocol, "HEADER_SECONDS", 1.0)
    waits = asyncio.Event()
    async with asyncio.timeout(30), connected(waits) as (reader, writer):
        writer.write(REQUEST)
        asyncio.get_running_loop().call_later(1.3, waits.set)
        assert b"200 OK" in await reader.readuntil(b"whole")


def record(error: BaseException | None, message: str = "Exception in ASGI application") -> logging.LogRecord:
    exc_info = (type(error), error, None) if error else None
    return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, (), exc_info)


def test_the_console_tells_of_our_faults_only() -> None:
    in_answer = h11.LocalProtocolError("Too much data for declared Content-Length")
    assert uvicorn_protocol.is_server_fault(record(in_answer))
    in_answer.__context__ = h11.RemoteProtocolError("illegal chunk header")
    for theirs in (in_answer, h11.LocalProtocolError("role=SERVER and state=MUST_CLOSE"), asyncio.CancelledError()):
        assert not uvicorn_protocol.is_server_fault(record(theirs))
    for ours in (KeyError("x"), StoreError("The disk is full.")):
        assert uvicorn_protocol.is_server_fault(record(ours))
    assert uvicorn_protocol.is_server_fault(record(None, "ASGI callable returned without starting response."))
    assert not uvicorn_protocol.is_server_fault(record(None, "Invalid HTTP request received."))
