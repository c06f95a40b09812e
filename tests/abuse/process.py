"""A server process under test: its address, its log and its memory."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil


class Process:
    """A running server; `log` is what it has written to stderr, `paths` are those of its routes."""

    def __init__(self, folder: Path, rate: float = 30.0, **settings: object) -> None:
        self._log = folder / "stderr.txt"
        options = {"rate": rate, "data_dir": str(folder / "data"), **settings}
        command = [sys.executable, "-m", "tests.abuse.server", json.dumps(options)]
        # On this computer's own names all visitors would be one person, who may have so many replies at once.
        variables = {**os.environ, "CHATUI_ALLOWED_HOSTS": "*"}
        with self._log.open("w") as log:
            self._running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables)
        assert self._running.stdout is not None
        self.port, self.paths = json.loads(self._running.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        return self._log.read_text(errors="replace")

    def memory(self) -> int:
        """Bytes that the process holds."""
        return int(psutil.Process(self._running.pid).memory_info().rss)

    def seconds(self) -> float:
        """Seconds of a core that the process has used."""
        times = psutil.Process(self._running.pid).cpu_times()
        return float(times.user + times.system)

    def wait(self) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{self.url}/livez", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                assert time.monotonic() < deadline, self.log
                time.sleep(0.1)

    def end(self) -> None:
        """Stop it."""
        self._running.terminate()
        try:
            self._running.wait(10)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()


@contextlib.contextmanager
def running(folder: Path, rate: float = 30.0, **settings: object) -> Iterator[Process]:
    """A server that answers, until the end of the block."""
    process = Process(folder, rate, **settings)
    try:
        process.wait()
        yield process
    finally:
        process.end()
