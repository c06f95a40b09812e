"""Ten thousand malformed requests over all routes: none makes the server fail."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatui.server import build_app
from chatui.settings import AppSettings
from tests.abuse.process import Process, running
from tests.abuse.requests import Malformed, malformed, paths_of
from tests.fakes import FakeBackend

AT_ONCE = 16
PATIENCE = 120.0
NO_MORE = 0.2
"""Seconds without another byte of an answer, some of which never end."""
USER, PASSWORD, KEY = "ada", "lovelace", "open-sesame"


async def ask(port: int, request: Malformed) -> list[int]:
    """The statuses of the answers; none where the connection ends without any."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        writer.write(request.sent())
        if request.frame:
            writer.write_eof()
        answer = await asyncio.wait_for(reader.read(2**16), PATIENCE)
        with contextlib.suppress(TimeoutError):
            while request.frame and (more := await asyncio.wait_for(reader.read(2**16), NO_MORE)):
                answer += more
    finally:
        writer.close()
    return [int(status) for status in re.findall(rb"(?:^|\n)HTTP/1\.\d (\d{3})", answer)]


async def ask_all(port: int, requests: Iterable[Malformed]) -> tuple[Counter[int], list[tuple[int, Malformed]]]:
    """How often each status came, 0 for none, and the requests that failed."""
    statuses: Counter[int] = Counter()
    failed: list[tuple[int, Malformed]] = []
    waiting = iter(requests)

    async def work() -> None:
        for request in waiting:
            try:
                found = await ask(port, request) or [0]
            except TimeoutError:
                found = [599]
            except OSError:
                found = [0]
            statuses.update(found)
            failed.extend((status, request) for status in found if status >= 500)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return statuses, failed


def credentials_of(process: Process) -> list[tuple[str, str]]:
    """Headers of one who has logged in and knows the key."""
    answer = httpx.post(f"{process.url}/login", data={"username": USER, "password": PASSWORD})
    assert answer.status_code == 200
    cookies = "; ".join(f"{name}={value}" for name, value in answer.cookies.items())
    return [("cookie", cookies), ("authorization", f"Bearer {KEY}")]


LOCKED = {"auth": f"{USER}:{PASSWORD}", "api_key": KEY}


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        pytest.param({}, 10_000, id="open", marks=pytest.mark.exhaustive),
        pytest.param(LOCKED, 200, id="locked, some"),
        pytest.param(LOCKED, 10_000, id="locked", marks=pytest.mark.exhaustive),
    ],
)
def test_nothing_malformed_makes_the_server_fail(tmp_path: Path, count: int, settings: dict[str, Any]) -> None:
    with running(tmp_path, rate=1e4, **settings) as process:
        credentials = credentials_of(process) if settings else []
        requests = malformed(1, count, process.paths, credentials)
        statuses, failed = asyncio.run(ask_all(process.port, requests))
        assert not failed, "\n".join(f"{status} {request}"[:600] for status, request in failed[:10])
        assert statuses.total() >= count
        assert statuses[200] > count / 50
        assert "Traceback" not in process.log, process.log[:5000]
        process.wait()


def test_every_route_is_asked() -> None:
    """The paths come from the application: a route that is new is asked by itself."""
    paths = set(paths_of(build_app(FakeBackend(), AppSettings()).routes))
    for path in ("/early", "/v1/chat/completions", "/v1/openapi.json", "/gradio_api/queue/join", "/config"):
        assert path in paths
    asked = {request.target for request in malformed(1, 5_000, sorted(paths))}
    assert paths - asked == {path for path in paths if "{" in path}
