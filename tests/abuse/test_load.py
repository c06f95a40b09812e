"""Many at once: every reply comes whole, and the memory that it takes is given back or used again."""

import asyncio
from pathlib import Path

import pytest

from tests.abuse.load import WHOLE, idle_connections, read_reply
from tests.abuse.pages import concurrent_visits, config_of
from tests.abuse.process import Process, running
from tests.abuse.requests import malformed
from tests.abuse.test_fuzz import ask_all

MEGABYTE = 2**20


@pytest.mark.parametrize(("connections", "streams"), [(60, 30), pytest.param(500, 200, marks=pytest.mark.exhaustive)])
def test_every_reply_comes_whole_among_many(tmp_path: Path, connections: int, streams: int) -> None:
    async def load(process: Process) -> list[str]:
        async with idle_connections(process.port, connections):
            return [reply.text for reply in await asyncio.gather(*(read_reply(process.port) for _ in range(streams)))]

    with running(tmp_path) as process:
        memory = []
        for _ in range(3):
            assert asyncio.run(load(process)) == [WHOLE] * streams
            memory.append(process.memory())
        assert memory[2] - memory[0] < 10 * MEGABYTE
        assert "Traceback" not in process.log


@pytest.mark.parametrize("people", [15, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_everybody_at_the_page_gets_a_whole_reply(tmp_path: Path, people: int) -> None:
    with running(tmp_path) as process:
        config = asyncio.run(config_of(process.url))
        kept = asyncio.run(concurrent_visits(process.url, config, people))
        assert [WHOLE.strip() in each for each in kept] == [True] * people
        assert "Traceback" not in process.log


@pytest.mark.exhaustive
def test_memory_levels_off_under_malformed_requests(tmp_path: Path) -> None:
    with running(tmp_path, rate=1e4) as process:
        memory = []
        for seed in range(6):
            asyncio.run(ask_all(process.port, malformed(seed, 1500, process.paths)))
            memory.append(process.memory())
        assert memory[5] - memory[2] < 10 * MEGABYTE, memory
