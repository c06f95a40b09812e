"""Whether others slow a reply down: `python -m tests.abuse.load [malformed|crowd|pages] [PAIRS] [RATE]` prints the
ratios.

A witness reads replies one after the other, in periods that alternate in one run: in one the abuse goes to the same
server, in the other to a second one beside it, so that the machine has as much to do. Both servers, the witness and the
abuse are processes of their own.
"""

import asyncio
import contextlib
import itertools
import json
import multiprocessing as mp
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from tests.abuse.pages import Config, config_of, visit
from tests.abuse.process import Process, running
from tests.abuse.requests import malformed
from tests.abuse.server import WORDS
from tests.abuse.test_fuzz import ask

ASKED = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
HEAD = b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
REQUEST = HEAD % b"/v1/chat/completions" + b"content-length: %d\r\n\r\n%b" % (len(ASKED), ASKED)
WHOLE = "".join(WORDS)
SPAWN = mp.get_context("spawn")
Target = Any
"""A shared number: the port of the server that the abuse goes to."""


@dataclass(frozen=True)
class TimedReply:
    """A reply as its client saw it: the text, the seconds to its end, and those between two of its events."""

    text: str
    seconds: float
    gaps: Sequence[float]


async def read_reply(port: int) -> TimedReply:
    """Read one reply."""
    start, times, answer = time.perf_counter(), list[float](), b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    while piece := await reader.read(2**16):
        answer += piece
        times += [time.perf_counter()] * piece.count(b"data: ")
    writer.close()
    lines = [line for line in answer.decode().splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line[6:])["choices"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return TimedReply(text, time.perf_counter() - start, gaps)


@contextlib.asynccontextmanager
async def idle_connections(port: int, count: int) -> AsyncIterator[None]:
    """Connections on which nothing is asked, or the headers never end."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in connections[::2]:
        writer.write(HEAD % b"/x")
    try:
        yield
    finally:
        for _, writer in connections:
            writer.close()


def measure_replies(port: int, pipe: Connection) -> None:
    """Read a reply whenever asked to."""
    while pipe.recv():
        pipe.send(asyncio.run(read_reply(port)))


def send_malformed(target: Target, paths: Sequence[str], on: Event, counts: Connection) -> None:
    """Malformed requests, sixteen at once, while it is on."""
    requests = malformed(int(time.time()), 10**9, paths)

    async def work() -> None:
        while on.is_set():
            with contextlib.suppress(OSError, TimeoutError):
                await ask(target.value, next(requests))
            counted.append(1)

    async def works() -> None:
        await asyncio.gather(*(work() for _ in range(16)))

    while on.wait():
        counted: list[int] = []
        counts.send(0)
        asyncio.run(works())
        counts.send(len(counted))


def open_many_connections(target: Target, _: Sequence[str], on: Event, counts: Connection) -> None:
    """Five hundred silent or slow connections and two hundred replies, while it is on."""

    async def listen(whole: list[bool]) -> None:
        while on.is_set():
            whole.append((await read_reply(target.value)).text == WHOLE)

    async def crowd() -> int:
        whole: list[bool] = []
        async with idle_connections(target.value, 500):
            counts.send(0)
            await asyncio.gather(*(listen(whole) for _ in range(200)))
        assert all(whole), f"{whole.count(False)} of {len(whole)} replies were not whole"
        return len(whole)

    while on.wait():
        counts.send(asyncio.run(crowd()))


def use_many_pages(target: Target, _: Sequence[str], on: Event, counts: Connection) -> None:
    """Two hundred people who open the page and read replies there, one after the other, while it is on."""

    async def chat(url: str, config: Config, whole: list[bool]) -> None:
        while on.is_set():
            whole.append(WHOLE.strip() in await visit(url, config))

    async def people() -> int:
        url, whole = f"http://127.0.0.1:{target.value}", list[bool]()
        config = await config_of(url)
        counts.send(0)
        await asyncio.gather(*(chat(url, config, whole) for _ in range(200)))
        assert all(whole), f"{whole.count(False)} of {len(whole)} replies were not whole"
        return len(whole)

    while on.wait():
        counts.send(asyncio.run(people()))


ABUSE = {"malformed": send_malformed, "crowd": open_many_connections, "pages": use_many_pages}


@dataclass(frozen=True)
class Pair:
    """The witness's replies with the abuse on its own server, and on the one beside."""

    abused: TimedReply
    alone: TimedReply

    @property
    def ratio(self) -> float:
        """How much longer the reply took with abuse."""
        return self.abused.seconds / self.alone.seconds


def compare(process: Process, beside: Process, kind: str, count: int) -> tuple[list[Pair], int]:
    """Pairs of periods, in random order; and how many requests the abuse was."""
    on, target, chance = SPAWN.Event(), SPAWN.Value("i", 0), random.Random(1)
    (ours, worker_pipe), (feels, counts) = SPAWN.Pipe(), SPAWN.Pipe()
    pairs: list[Pair] = []
    requests = 0
    others = [
        SPAWN.Process(target=measure_replies, args=(process.port, worker_pipe), daemon=True),
        SPAWN.Process(target=ABUSE[kind], args=(target, process.paths, on, counts), daemon=True),
    ]
    for other in others:
        other.start()

    def measure() -> TimedReply:
        ours.send(True)
        reply: TimedReply = ours.recv()
        assert reply.text == WHOLE
        return reply

    def measure_abused(port: int) -> TimedReply:
        nonlocal requests
        target.value = port
        on.set()
        feels.recv()
        try:
            return measure()
        finally:
            on.clear()
            requests += feels.recv()

    measure()
    try:
        for _ in range(count):
            if chance.random() < 0.5:
                alone = measure_abused(beside.port)
                pairs.append(Pair(measure_abused(process.port), alone))
            else:
                abused = measure_abused(process.port)
                pairs.append(Pair(abused, measure_abused(beside.port)))
    finally:
        for other in others:
            other.kill()
    return pairs, requests


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median is with 95 % confidence (bootstrap)."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2000))
    return medians[50], medians[-51]


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


def main(kind: str = "malformed", count: str = "20", rate: str = "30") -> None:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as another,
        running(Path(folder), rate=float(rate)) as process,
        running(Path(another), rate=float(rate)) as beside,
    ):
        before = process.memory(), process.seconds()
        start = time.perf_counter()
        pairs, requests = compare(process, beside, kind, int(count))
        took, spent = time.perf_counter() - start, process.seconds() - before[1]
        ratios = [pair.ratio for pair in pairs]
        low, high = median_interval(ratios)
        print(f"{kind}, {count} pairs at {rate} tokens/s, {requests} requests of abuse, {took:.0f} s")  # noqa: T201
        print(f"reply: x{statistics.median(ratios):.3f} (95 %: {low:.3f} to {high:.3f}; worst {max(ratios):.2f})")  # noqa: T201
        for name, found in (("median", statistics.median), ("p95", p95)):
            alone, abused = (
                found([g for h in replies for g in h.gaps])
                for replies in zip(*[(p.alone, p.abused) for p in pairs], strict=True)
            )
            print(f"between two events, {name}: {alone * 1000:.1f} -> {abused * 1000:.1f} ms")  # noqa: T201
        print(f"server: {spent / took:.0%} of a core, {before[0] / 1e6:.0f} -> {process.memory() / 1e6:.0f} MB")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
