"""Ten thousand malformed requests over all routes: none makes the server fail."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.abuse.process import running
from tests.abuse.requests import Malformed, malformed

AT_ONCE = 16
PATIENCE = 20.0


async def ask(port: int, request: Malformed) -> int:
    """The status; 0 where the stream of an answer stays open or the connection ends without any."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.raw())
        line = await asyncio.wait_for(reader.readline(), PATIENCE)
    finally:
        writer.close()
    found = re.match(rb"HTTP/1\.\d (\d{3})", line)
    return int(found[1]) if found else 0


async def ask_all(port: int, seed: int, count: int) -> tuple[Counter[int], list[tuple[int, Malformed]]]:
    """How often each status came, and the requests that failed."""
    statuses: Counter[int] = Counter()
    failed: list[tuple[int, Malformed]] = []
    waiting = iter(list(malformed(seed, count)))

    async def work() -> None:
        for request in waiting:
            try:
                status = await ask(port, request)
            except TimeoutError:
                status = 599
            except OSError:
                status = 0
            statuses[status] += 1
            if status >= 500:
                failed.append((status, request))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return statuses, failed


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.exhaustive)])
def test_nothing_malformed_makes_the_server_fail(tmp_path: Path, count: int) -> None:
    with running(tmp_path) as process:
        statuses, failed = asyncio.run(ask_all(process.port, 1, count))
        assert not failed, "\n".join(f"{status} {request}"[:600] for status, request in failed[:10])
        assert statuses.total() == count
        assert "Traceback" not in process.log, process.log[:5000]
        process.wait()
