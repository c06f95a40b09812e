"""The memory of our server: idle after a start, after users at once, and after many conversations; and what it takes to
make the server fast, from a first start with an empty cache until nothing works in the background any more.
"""

import argparse
import asyncio
import itertools
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

import psutil

from scripts.benchmark import chatui_server, scenarios
from scripts.benchmark.server import HttpServer
from scripts.benchmark.target import BenchError, Reply
from scripts.benchmark.texts import conversation

TOKENS, FEW_TOKENS = 64, 8
WORDS = 8
SAMPLE_SECONDS = 0.1
SMALL_KV = "0.1"
"""GB for K/V of the server that shows what grows beside K/V."""
HEADER = "| when | RSS, MB | not of files | PSS |\n|---|---|---|---|"


@dataclass(frozen=True)
class ProcessMemory:
    """Megabytes of a process that are in memory: all, those that no file backs, and its share where some are shared."""

    rss: float
    anonymous: float
    pss: float

    @classmethod
    def parsed(cls, rollup: str) -> "ProcessMemory":
        """From /proc/PID/smaps_rollup: https://docs.kernel.org/filesystems/proc.html"""
        kilobytes = {name: int(number) for name, number in re.findall(r"^(\w+): +(\d+) kB$", rollup, re.MULTILINE)}
        return cls(*(kilobytes[name] * 1024 / 1e6 for name in ("Rss", "Anonymous", "Pss")))

    @classmethod
    def of(cls, pid: int) -> "ProcessMemory":
        """Of this process now. Raises BenchError where the system does not tell."""
        try:
            return cls.parsed(Path(f"/proc/{pid}/smaps_rollup").read_text())
        except OSError as error:
            raise BenchError(f"this system does not tell a process's memory: {error}") from error


@dataclass
class BackgroundWork:
    """What processes that the server starts take: megabytes at most at one moment, processor seconds of all, and when
    one was there last, in seconds of time.monotonic().
    """

    peak: float = 0.0
    seconds: float = 0.0
    last: float | None = None

    def note(self, sizes: Mapping[int, int], seconds: float, now: float) -> None:
        """Processes with their bytes at this moment, and the seconds of those that have ended."""
        self.peak = max(self.peak, sum(sizes.values()) / 1e6)
        self.seconds = max(self.seconds, seconds)
        self.last = now if sizes else self.last


@dataclass(frozen=True)
class FirstStart:
    """Of a start with an empty cache: seconds until it is ready, and from the first reply until the last process that
    the server started has ended, None if there was none then; and the first reply beside a later one.
    """

    ready: float
    after_reply: float | None
    work: BackgroundWork
    first: Reply
    later: Reply


def row(when: str, found: Sequence[ProcessMemory]) -> str:
    """A line of the table: medians."""
    cells = (f"{median(getattr(each, field.name) for each in found):,.0f}" for field in fields(ProcessMemory))
    return f"| {when} | {' | '.join(cells)} |"


def sentences(start: FirstStart) -> str:
    """What a first start took."""
    work, first, later = start.work, start.first.ms_per_token, start.later.ms_per_token
    after = (
        "Nothing was compiled after its first reply."
        if start.after_reply is None
        else f"The last of them ended {start.after_reply:.0f} s after the first reply."
    )
    return (
        f"A first start was ready after {start.ready:.0f} s. Its processes took {work.peak:,.0f} MB at most and "
        f"{work.seconds:.1f} s of processor time. {after} A token took {first or 0:.1f} ms in the first reply, and "
        f"{later or 0:.1f} ms when all was quiet."
    )


def watch(pid: int, work: BackgroundWork) -> None:
    """Note what the process starts, until it ends."""
    while True:
        try:
            server = psutil.Process(pid)
            ended = server.cpu_times()
            sizes = {child.pid: child.memory_info().rss for child in server.children(recursive=True)}
        except psutil.NoSuchProcess:
            if not psutil.pid_exists(pid):
                return
            continue
        work.note(sizes, ended.children_user + ended.children_system, time.monotonic())
        time.sleep(SAMPLE_SECONDS)


@asynccontextmanager
async def server_with(
    cache_dir: Path, work: BackgroundWork, flags: Sequence[str]
) -> AsyncIterator[tuple[HttpServer, int]]:
    """A server with new data, and its process id."""
    begun: list[int] = []

    def begin(pid: int) -> None:
        begun.append(pid)
        threading.Thread(target=watch, args=(pid, work), daemon=True).start()

    with tempfile.TemporaryDirectory(prefix="chatui-bench-") as folder:
        own = ["--data-dir", folder, "--cache-dir", str(cache_dir), *flags]
        async with chatui_server.running(own, on_start=begin) as server:
            yield server, begun[0]


async def chat(server: HttpServer, users: int, which: range) -> None:
    """Conversations of one short turn with these numbers, by so many users at once."""
    numbers = iter(which)

    async def talk() -> None:
        for number in numbers:
            await server.ask(conversation(WORDS, "memory", number), FEW_TOKENS)

    await asyncio.gather(*(talk() for _ in range(users)))


async def measure_first_start(cache_dir: Path, flags: Sequence[str]) -> tuple[FirstStart, ProcessMemory]:
    """A first start, and the server's memory before it is asked anything."""
    work, began = BackgroundWork(), time.monotonic()
    async with server_with(cache_dir, work, flags) as (server, pid):
        ready = time.monotonic() - began
        await server.settle()
        idle = ProcessMemory.of(pid)
        first = await server.ask(conversation(WORDS, "first"), TOKENS)
        await server.settle()
        later = await server.ask(conversation(WORDS, "later"), TOKENS)
        after = None if work.last is None or work.last < first.last else work.last - first.last
        return FirstStart(ready, after, work, first, later), idle


async def measure_idle(cache_dir: Path, flags: Sequence[str]) -> ProcessMemory:
    """The memory of a server that was asked nothing."""
    async with server_with(cache_dir, BackgroundWork(), flags) as (server, pid):
        await server.settle()
        return ProcessMemory.of(pid)


async def measure_use(cache_dir: Path, users: int, conversations: int, flags: Sequence[str], name: str) -> None:
    """Print the memory after users at once, and after conversations."""
    async with server_with(cache_dir, BackgroundWork(), flags) as (server, pid):
        await scenarios.wave(server, users, WORDS, TOKENS, "memory")
        await server.settle()
        print(row(f"after {users} users at once{name}", [ProcessMemory.of(pid)]), flush=True)
        for begin, end in itertools.pairwise((0, conversations // 2, conversations)):
            await chat(server, users, range(begin, end))
            await server.settle()
            print(row(f"after {end:,} conversations{name}", [ProcessMemory.of(pid)]), flush=True)


async def measure(starts: int, users: int, conversations: int, flags: Sequence[str]) -> None:
    """Everything, with a cache of its own."""
    with tempfile.TemporaryDirectory(prefix="chatui-bench-") as folder:
        start, idle = await measure_first_start(Path(folder), flags)
        print(f"{HEADER}\n{row('idle, first start', [idle])}", flush=True)
        later = [await measure_idle(Path(folder), flags) for _ in range(starts)]
        if later:
            print(row(f"idle, median of {starts} later starts", later), flush=True)
        if conversations:
            await measure_use(Path(folder), users, conversations, flags, "")
            small = [*flags, "--kv-memory", SMALL_KV]
            await measure_use(Path(folder), users, conversations, small, f", {SMALL_KV} GB for K/V")
    print(f"\n{sentences(start)}")


def main(words: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("scripts/bench memory", description=__doc__, allow_abbrev=False)
    parser.add_argument("--starts", type=int, default=3, help="after the first one; 3 if left out")
    parser.add_argument("--users", type=int, default=8, help="at once; 8 if left out")
    parser.add_argument("--conversations", type=int, default=1000, help="0 for none; 1,000 if left out")
    parser.add_argument("flags", nargs="*", help="flags of scripts/run, behind --")
    given = parser.parse_args(words)
    try:
        asyncio.run(measure(given.starts, given.users, given.conversations, given.flags))
    except BenchError as error:
        parser.exit(2, f"bench: {error}\n")
    return 0
