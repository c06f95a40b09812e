"""The HTTP/1.1 transport against a server that sends the bytes it is told to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import httpx
import pytest

from chatui.remote import http_transport
from chatui.remote.http_transport import HttpTransport

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nHello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass
class Script:
    """Answers each request with the next of `answers`, and closes the connection behind None."""

    answers: list[Sequence[bytes | None]]
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                size = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
                self.requests.append(head + await reader.readexactly(int(size or 0)))
                for piece in self.answers.pop(0):
                    if piece is None:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.005)
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.closed.set()
            writer.close()


@asynccontextmanager
async def served(*answers: Sequence[bytes | None]) -> AsyncIterator[tuple[Script, httpx.AsyncClient]]:
    script = Script(list(answers))
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, transport=HttpTransport(), timeout=5) as client:
        yield script, client
    server.close()


async def test_a_request_arrives_as_httpx_made_it() -> None:
    async with served([HELLO]) as (script, client):
        response = await client.post("/v1/x?y=1", json={"a": "é"}, headers={"X-Key": "k"})
    assert (response.status_code, response.text, response.http_version) == (200, "Hello", "HTTP/1.1")
    head, _, body = script.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x?y=1 HTTP/1.1\r\n")
    assert {b"x-key: k", b"content-type: application/json"} <= set(head.lower().split(b"\r\n"))
    assert body == '{"a":"é"}'.encode()


@pytest.mark.parametrize(
    "answer",
    [
        [HELLO],
        [HELLO[:10], HELLO[10:-2], HELLO[-2:]],
        [CHUNKED + b"2\r\nHe\r\n", b"3\r\nllo\r", b"\n0\r\n\r\n"],
        [OK + b"\r\nHel", b"lo", None],
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n", HELLO],
        [b"HTTP/1.0 200 OK\r\n\r\nHello", None],
    ],
    ids=["at once", "cut", "chunked", "until the end", "after information", "HTTP/1.0"],
)
async def test_the_forms_of_a_response(answer: Sequence[bytes | None]) -> None:
    async with served(answer) as (_, client):
        assert (await client.get("/")).text == "Hello"


async def test_pieces_come_as_they_are_sent() -> None:
    answer = [CHUNKED, b"2\r\nHe\r\n", b"3\r\nllo\r\n", b"0\r\n\r\n"]
    async with served(answer) as (_, client), client.stream("GET", "/") as response:
        assert [piece async for piece in response.aiter_bytes()] == [b"He", b"llo"]


async def test_a_status_without_a_body() -> None:
    async with served([b"HTTP/1.1 204 No Content\r\n\r\n"], [OK + b"Content-Length: 5\r\n\r\n"], [HELLO]) as (
        _,
        client,
    ):
        assert (await client.get("/")).status_code == 204
        assert (await client.head("/")).headers["content-length"] == "5"
        assert (await client.get("/")).text == "Hello"


@pytest.mark.parametrize(
    ("first", "connections"),
    [
        ([HELLO], 1),
        ([CHUNKED + b"0\r\n\r\n"], 1),
        ([OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n"], 2),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"], 2),
        ([HELLO + b"more than its length"], 2),
        ([HELLO, None], 2),
        ([OK + b"\r\n", None], 2),
    ],
)
async def test_which_connections_are_used_again(first: Sequence[bytes | None], connections: int) -> None:
    async with served(first, [HELLO]) as (script, client):
        await client.get("/")
        await asyncio.sleep(0.02)
        assert (await client.get("/")).text == "Hello"
    assert script.connections == connections


async def test_a_kept_connection_that_the_server_closes_is_replaced() -> None:
    async with served([HELLO], [None], [HELLO], [b"HTTP/1.1 2", None]) as (script, client):
        await client.post("/", json={"a": 1})
        assert (await client.post("/", json={"a": 2})).text == "Hello"
        assert script.connections == 2
        assert script.requests[1] == script.requests[2]
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/", json={"a": 3})
    assert len(script.requests) == 4, "what has been answered in part is not sent again"


async def test_what_a_server_had_for_long_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_transport, "STALE_SECONDS", 0.0)
    async with served([HELLO], [b"", None], [HELLO]) as (script, client):
        await client.post("/", json={"a": 1})
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/", json={"a": 2})
    assert len(script.requests) == 2


async def test_an_old_connection_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_transport, "IDLE_SECONDS", 0.0)
    async with served([HELLO], [HELLO]) as (script, client):
        await client.get("/")
        await asyncio.sleep(0.01)
        await client.get("/")
    assert script.connections == 2


async def test_dead_connections_to_one_address_take_no_place_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_transport, "MAX_IDLE", 1)
    async with served([HELLO, None]) as (dead, client), served([HELLO], [HELLO]) as (script, other):
        await client.get("/")
        await asyncio.wait_for(dead.closed.wait(), 5)
        await asyncio.sleep(0.01)
        for _ in range(2):
            await client.get(f"{other.base_url}/")
    assert script.connections == 1


async def test_a_connection_that_is_being_closed_is_not_used_again() -> None:
    async with served([HELLO]) as (_, client):
        await client.get("/")
        transport = cast(HttpTransport, client._transport)
        [(address, [connection])] = transport._idle.items()
        connection.close()
        assert transport._taken(address) is None


async def test_a_response_that_outlives_its_transport_closes_its_connection() -> None:
    async with served([CHUNKED, b"5\r\nHello\r\n0\r\n\r\n"]) as (script, client):
        async with client.stream("GET", "/") as response:
            await client.aclose()
            assert await response.aread() == b"Hello"
        await asyncio.wait_for(script.closed.wait(), 5)


async def test_what_is_no_request() -> None:
    async with served([HELLO]) as (_, client):
        with pytest.raises(httpx.LocalProtocolError):
            await client.get("/", headers={"X-Key": "a\nb"})
        assert (await client.get("/")).text == "Hello"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([None], httpx.RemoteProtocolError),
        ([b"no HTTP at all\r\n\r\n"], httpx.RemoteProtocolError),
        ([OK + b"X: " + b"y" * 2**18], httpx.RemoteProtocolError),
        ([HELLO[:-1], None], httpx.RemoteProtocolError),
        ([CHUNKED + b"5\r\nHel", None], httpx.RemoteProtocolError),
        ([CHUNKED + b"x\r\n"], httpx.RemoteProtocolError),
        ([OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"], httpx.RemoteProtocolError),
    ],
)
async def test_what_is_no_response(answer: Sequence[bytes | None], error: type[Exception]) -> None:
    async with served(answer) as (script, client):
        with pytest.raises(error):
            await client.get("/")
        await asyncio.wait_for(script.closed.wait(), 5)


@pytest.mark.parametrize("bodies", [[b"5\r\nHello\r\n", b"x\r\n"], [b"5\r\nHello\r\nx\r\n"]])
async def test_what_came_before_an_error_is_read(bodies: Sequence[bytes]) -> None:
    answer = [CHUNKED + bodies[0], *bodies[1:]]
    async with served(answer) as (_, client), client.stream("GET", "/") as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"Hello"
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)


async def test_closing_a_response_closes_its_connection() -> None:
    async with served([CHUNKED + b"5\r\nHello\r\n"]) as (script, client):
        async with client.stream("GET", "/"):
            pass
        await asyncio.wait_for(script.closed.wait(), 5)


async def test_cancelling_a_request_closes_its_connection() -> None:
    async with served([], []) as (script, client):
        asking = asyncio.create_task(client.get("/"))
        while not script.requests:
            await asyncio.sleep(0.005)
        asking.cancel()
        await asyncio.wait_for(script.closed.wait(), 5)


async def test_limits_of_time() -> None:
    async with served([CHUNKED], []) as (_, client):
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/", timeout=httpx.Timeout(5, read=0.05))


async def test_an_address_where_nobody_listens() -> None:
    async with served() as (_, client):
        url = client.base_url
    async with httpx.AsyncClient(transport=HttpTransport()) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(url)


async def test_an_address_that_is_silent_does_not_hold_up_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def resolve(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        hosts = ("127.0.0.2", "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)) for host in hosts]

    async def connect_unless_silent(sock: socket.socket, address: tuple[str, int]) -> None:
        if address[0] == "127.0.0.2":
            await asyncio.Event().wait()
        await connect(sock, address)

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    monkeypatch.setattr(loop, "sock_connect", connect_unless_silent)
    monkeypatch.setattr(http_transport, "NEXT_ADDRESS_SECONDS", 0.01)
    async with served([HELLO]) as (_, client):
        response = await client.get(client.base_url.copy_with(host="two.test"), timeout=httpx.Timeout(5, connect=1))
    assert response.text == "Hello"


async def test_a_large_request_and_a_slow_reader() -> None:
    content = b"x" * 3_000_000
    answer = OK + b"Content-Length: %d\r\n\r\n" % len(content)
    async with served([answer, content]) as (script, client), client.stream("POST", "/", content=content) as response:
        await asyncio.sleep(0.05)
        assert b"".join([piece async for piece in response.aiter_bytes()]) == content
    assert script.requests[0].endswith(content)
