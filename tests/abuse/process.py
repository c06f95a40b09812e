"""A server process under test: its address, its log and its memory."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil


class Process:
    """A running server; `log` is what it has written to stderr."""

    def __init__(self, data_dir: Path) -> None:
        self._log = data_dir / "stderr.txt"
        command = [sys.executable, "-m", "tests.abuse.server", str(data_dir / "data")]
        with self._log.open("w") as log:
            self._running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._running.stdout is not None
        self.port = int(self._running.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has written to stderr."""
        return self._log.read_text(errors="replace")

    def memory(self) -> int:
        """Bytes that the process holds."""
        return int(psutil.Process(self._running.pid).memory_info().rss)

    def wait(self) -> None:
        """Return when it answers."""
        latest = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"{self.url}/livez", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                assert time.monotonic() < latest, self.log
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
def running(data_dir: Path) -> Iterator[Process]:
    """A server that answers, until the end of the block."""
    process = Process(data_dir)
    try:
        process.wait()
        yield process
    finally:
        process.end()
