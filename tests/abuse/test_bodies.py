"""A gigabyte announced, in chunks or dripped is refused on every route, early and without being held."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from tests.abuse.process import Process, running

GIGABYTE = 10**9
MEGABYTE = 2**20
TAKEN = 230 * MEGABYTE
"""Bytes that may be sent before the refusal: a file may have 200 MB, and the sockets hold some."""
PATIENCE = 60
KINDS = ("application/json", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/plain")
ROUTES = ("/v1/chat/completions", "/gradio_api/queue/join", "/gradio_api/upload", "/login", "/healthz", "/nowhere")


def head(path: str, kind: str, *more: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-type: {kind}", *more, "", ""]).encode()


def announced(port: int, path: str, kind: str) -> int:
    """The status for a gigabyte that is only announced."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(head(path, kind, f"content-length: {GIGABYTE}"))
        return int(connection.recv(12)[9:])


def chunked(port: int, path: str, kind: str) -> tuple[int, int]:
    """The status for a gigabyte in chunks, and how many bytes of it were taken."""
    piece, sent = b"10000\r\n" + b" " * 2**16 + b"\r\n", 0
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(head(path, kind, "transfer-encoding: chunked"))
        with contextlib.suppress(OSError):
            while sent < GIGABYTE:
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    return int(connection.recv(12)[9:]), sent
                connection.settimeout(PATIENCE)
                connection.sendall(piece)
                sent += 2**16
        return int(connection.recv(12)[9:]), sent


async def dripped(port: int, path: str, kind: str, *more: str) -> int:
    """The status for a body of which a byte comes each half second; 0 where the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(path, kind, *(more or ("content-length: 10000",))))
    answer = asyncio.create_task(reader.readline())
    while not answer.done():
        with contextlib.suppress(OSError):
            writer.write(b" ")
        await asyncio.wait([answer], timeout=0.5)
    writer.close()
    return int((await answer)[9:12] or 0)


def asked(process: Process) -> list[str]:
    """Every path that the application has."""
    return [path.replace("{", "").replace("}", "").replace(":path", "") for path in process.paths if path]


def test_an_announced_gigabyte_is_refused_on_every_route(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        before = process.memory()
        for path in asked(process):
            for kind in KINDS:
                assert announced(process.port, path, kind) == 413, (path, kind)
        assert process.memory() < before + 30 * MEGABYTE
        assert "Traceback" not in process.log


@pytest.mark.parametrize("paths", [ROUTES[:3], pytest.param(ROUTES, marks=pytest.mark.exhaustive)])
def test_a_gigabyte_in_chunks_is_refused_early(tmp_path: Path, paths: tuple[str, ...]) -> None:
    with running(tmp_path) as process:
        before = process.memory()
        for path in paths:
            for kind in KINDS if len(paths) == len(ROUTES) else KINDS[:1]:
                status, sent = chunked(process.port, path, kind)
                assert status == 413 or (status == 400 and path.endswith("upload")), (path, kind, status)
                assert sent < TAKEN, (path, kind)
        assert process.memory() < before + 60 * MEGABYTE
        assert "Traceback" not in process.log


@pytest.mark.exhaustive
def test_bodies_that_drip_are_given_up(tmp_path: Path) -> None:
    """All at once: each takes the half minute that a body has."""

    async def all_at_once(process: Process) -> dict[tuple[str, str], int]:
        asking = [(path, kind) for path in asked(process) for kind in KINDS[:2]]
        found = await asyncio.gather(*(dripped(process.port, *one) for one in asking))
        return dict(zip(asking, found, strict=True))

    with running(tmp_path) as process:
        before = process.memory()
        found = asyncio.run(all_at_once(process))
        assert {one: status for one, status in found.items() if status not in (408, 400)} == {}
        assert list(found.values()).count(408) > len(found) - 5
        assert process.memory() < before + 60 * MEGABYTE
        assert "Traceback" not in process.log
