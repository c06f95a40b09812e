"""Our own server for the time of a measurement: started, watched until it is ready and quiet, stopped."""

import asyncio
import os
import re
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import IO

import httpx
import psutil

from chatui import cli
from scripts.benchmark.server import Address, HttpServer, connected
from scripts.benchmark.server_process import POLL_SECONDS, Process, log_text, started_process
from scripts.benchmark.target import BenchError

NAME = "chatui"
QUIET_CORES = 0.15
QUIET_SECONDS = 2.0
PATIENCE_SECONDS = 300.0


@asynccontextmanager
async def running(
    flags: Sequence[str], weight_bytes: int | None = None, on_start: Callable[[int], None] | None = None
) -> AsyncIterator[HttpServer]:
    """Our server with these flags, ready to answer. Raises BenchError where it fails to start.

    `on_start` is told its process id at once.
    """
    # With a key each `user` of a request is one of its own in the server's fair queue.
    key = next(iter(cli.parse(list(flags)).api_key), "") or secrets.token_hex(16)
    environment = {**os.environ, "CHATUI_PORT": "0", "CHATUI_API_KEY": key}
    with (
        tempfile.TemporaryFile("w+") as log,
        started_process([sys.executable, "app.py", *flags], environment, log) as process,
    ):
        if on_start is not None:
            on_start(process.pid)
        url = await ready(process, log)
        address = Address(f"{url}/v1", NAME, api_key=key, weight_bytes=weight_bytes)
        async with connected(address, settle=lambda: quiet(process.pid)) as server:
            yield server


async def quiet(pid: int) -> None:
    """Return when the process and its children have hardly worked for a while; after PATIENCE_SECONDS in any case."""
    before = _seconds_worked(pid)
    for _ in range(int(PATIENCE_SECONDS / QUIET_SECONDS)):
        await asyncio.sleep(QUIET_SECONDS)
        now = _seconds_worked(pid)
        worked = sum(max(0.0, seconds - before.get(child, 0.0)) for child, seconds in now.items())
        if worked < QUIET_CORES * QUIET_SECONDS:
            return
        before = now
    print(f"{NAME} still works in the background after {PATIENCE_SECONDS:.0f} s; it is measured all the same.")


async def ready(process: Process, log: IO[str]) -> str:
    """The address of the server when its model is loaded."""
    url = ""
    async with httpx.AsyncClient(trust_env=False) as client:
        while process.poll() is None:
            await asyncio.sleep(POLL_SECONDS)
            if found := re.search(r"^chatui is at (http://[^/\s]+)", log_text(log), re.MULTILINE):
                url = found[1]
            try:
                health = (await client.get(f"{url}/healthz")).json() if url else {}
            except (httpx.HTTPError, ValueError):
                continue
            if health.get("status") == "ready":
                return url
            if health.get("status") == "failed":
                raise BenchError(f"{NAME} could not load its model: {health.get('error')}")
    last = (log_text(log).strip().splitlines() or [f"exit code {process.returncode}"])[-1]
    raise BenchError(f"{NAME} did not start: {last.removeprefix('chatui: ')}")


def _seconds_worked(pid: int) -> dict[int, float]:
    """Processor seconds by process, of one and its children, with those that have ended (a linker does so quickly)."""
    worked = {}
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    for process in family:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        worked[process.pid] = times.user + times.system + times.children_user + times.children_system
    return worked
