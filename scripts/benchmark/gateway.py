"""What it costs to stand in front of another server: a scripted engine, this server with `--backend`, and clients of
`/v1`, each in processes of their own; with `--page` visitors of the page in their place.

A token's delay is the time from the engine's write to the client's read. "none" is the same clients at the engine
itself: what the measuring adds.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from scripts.benchmark import lockstep, page_gateway
from scripts.benchmark.chatui_server import quiet, ready
from scripts.benchmark.figures import percentile
from scripts.benchmark.page_counter import Drawn
from scripts.benchmark.server_process import ROOT, started_process
from scripts.benchmark.token_counter import Counted, Order

SPREAD = 20
"""The moments between two tokens over which the replies are spread, unless they come in steps."""
HEADINGS = ("streams", "gateways", "offered", "reached", "p50 ms", "p99 ms", "CPU ms / 1,000 tokens")


@dataclass(frozen=True)
class Figures:
    """What reached the clients. `p50` and `p99` are delays in ms, the processor milliseconds those of the gateways."""

    offered: float
    reached: float
    p50: float | None
    p99: float | None
    milliseconds_per_1000: float | None

    @property
    def share(self) -> float:
        """Of the tokens offered."""
        return self.reached / self.offered


def figures_of(counted: Counted, order: Order, rate: float) -> Figures:
    """The figures of a measurement of streams that have `rate` tokens a second each."""
    tokens = len(counted.delays)
    p50, p99 = (
        None if delay is None else 1000 * delay
        for delay in (percentile(counted.delays, share) for share in (0.5, 0.99))
    )
    per_1000 = 1000 * counted.processor / (tokens / 1000) if tokens else None
    return Figures(order.streams * rate, tokens / counted.seconds, p50, p99, per_1000)


def row(figures: Figures, order: Order) -> str:
    """A line of the table."""
    delays = [f"{delay:.1f}" if delay is not None else "-" for delay in (figures.p50, figures.p99)]
    processor = f"{figures.milliseconds_per_1000:.0f}" if order.pids and figures.milliseconds_per_1000 else "-"
    told = (order.streams, len(order.pids) or "none", f"{figures.offered:.0f}", f"{figures.reached:.0f}")
    cells = (*told[:3], f"{told[3]} ({figures.share:.1%})", *delays, processor)
    return "| " + " | ".join(map(str, cells)) + " |"


@asynccontextmanager
async def gateways(
    engine: int, count: int, flags: Sequence[str], variables: Mapping[str, str] = {}
) -> AsyncIterator[list[tuple[int, int]]]:
    """(port, pid) of so many servers in front of the engine at a port. Raises BenchError where one fails to start."""
    environment = {**os.environ, "CHATUI_PORT": "0", **variables}
    found = []
    with ExitStack() as stack:
        for _ in range(count):
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="chatui-bench-", ignore_cleanup_errors=True)
            )
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            backend = f"http://127.0.0.1:{engine},max-requests=10000"
            command = [sys.executable, "app.py", "--backend", backend, "--data-dir", folder, *flags]
            process = stack.enter_context(started_process(command, environment, log))
            found.append((urlsplit(await ready(process, log)).port or 0, process.pid))
            await quiet(process.pid)
        yield found


async def measure(order: Order, counter: str = "token_counter") -> dict[str, Any]:
    """What the clients have counted, in a process of their own."""
    command = [sys.executable, "-m", f"scripts.benchmark.{counter}", json.dumps(asdict(order))]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    printed, _ = await process.communicate()
    if process.returncode:
        raise SystemExit("The clients failed: see above.")
    found: dict[str, Any] = json.loads(printed)
    return found


@asynccontextmanager
async def engine(given: argparse.Namespace, replies: int = 0) -> AsyncIterator[int]:
    """The port of an engine that writes once so many replies are asked for."""
    groups = 1 if given.in_steps else SPREAD
    command = [sys.executable, "-m", "scripts.benchmark.scripted_engine", *map(str, (given.rate, groups, replies))]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.terminate()
        await process.wait()


def head(headings: Sequence[str]) -> str:
    """The first lines of a table."""
    return "| " + " | ".join(headings) + " |\n|" + " --: |" * len(headings)


async def compare(given: argparse.Namespace) -> None:
    """Print the figures of each number of streams."""
    async with engine(given) as port, gateways(port, given.gateways, given.flags) as served:
        print(head(HEADINGS), flush=True)
        for streams in map(int, given.streams.split(",")):
            ports, pids = zip(*served, strict=True)
            for order in (Order((port,), streams, given.seconds), Order(ports, streams, given.seconds, pids)):
                print(row(figures_of(Counted(**await measure(order)), order, given.rate), order), flush=True)


async def compare_at_the_page(given: argparse.Namespace) -> None:
    """Print what visitors of the page see of each number of replies."""
    print(head(page_gateway.HEADINGS), flush=True)
    for streams in map(int, given.streams.split(",")):
        async with (
            engine(given, streams) as port,
            gateways(port, given.gateways, given.flags, page_gateway.VARIABLES) as served,
        ):
            ports, pids = zip(*served, strict=True)
            order = Order(ports, streams, given.seconds, pids)
            drawn = Drawn(**await measure(order, "page_counter"))
            print(page_gateway.row(page_gateway.figures_of(drawn, order, given.rate), order), flush=True)


async def compare_in_lockstep(given: argparse.Namespace) -> None:
    """Print what the gateway's processor does for each number of streams."""
    for count in map(int, given.streams.split(",")):
        streams = lockstep.Streams()
        async with lockstep.engine(streams) as port, gateways(port, 1, given.flags) as (served,):
            spent, speed = await lockstep.measure(streams, count, served, given.tokens)
            print(f"{count} streams in lockstep: {spent:.0f} CPU ms per 1,000 tokens, {speed:.0f} tokens/s", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("scripts/bench gateway", description=__doc__, allow_abbrev=False)
    parser.add_argument("--streams", default="50,100,200", help="at once; 50,100,200 if left out")
    parser.add_argument("--rate", type=float, default=25.0, help="tokens a second of each stream; 25 if left out")
    parser.add_argument("--seconds", type=float, default=10.0, help="that are counted; 10 if left out")
    parser.add_argument("--in-steps", action="store_true", help="all streams get their tokens at the same moments")
    parser.add_argument("--page", action="store_true", help="visitors of the page instead of clients of /v1")
    parser.add_argument("--lockstep", action="store_true", help="a token once the last came: counts the processor only")
    parser.add_argument("--tokens", type=int, default=20_000, help="in lockstep; 20,000 if left out")
    parser.add_argument("--gateways", type=int, default=1, help="processes, which share the streams; 1 if left out")
    parser.add_argument("flags", nargs="*", help="after --: flags of scripts/run for the gateways")
    given = parser.parse_args(arguments)
    way = compare_in_lockstep if given.lockstep else compare_at_the_page if given.page else compare
    asyncio.run(way(given))
    return 0
