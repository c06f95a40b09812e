"""Starts chatui as its operator does, with a real model, and waits until the model is ready."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from chatui.chat import ModelStatus
from tests.browser.pages import Site, wait_until
from tests.fakes import FakeBackend
from tests.ports import reserved_port

ROOT = Path(__file__).parents[2]
READY_SECONDS = 240
STOP_SECONDS = 20


@contextmanager
def running_app(*flags: str, variables: dict[str, str] | None = None) -> Iterator[Site]:
    """Run `python app.py` with these flags and environment variables, on a free port, until the end of the block."""
    with reserved_port() as port:
        yield from _running_on(port, flags, variables or {})


def _running_on(port: int, flags: Sequence[str], variables: Mapping[str, str]) -> Iterator[Site]:
    site = Site(FakeBackend(), port=port)
    site.backend.status = ModelStatus("the real one", "ready")  # so the page is not compared with the fake one
    command = [sys.executable, "app.py", "--port", str(site.port), "--compile", "off", *flags]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables})

    def ready() -> bool:
        assert process.poll() is None, "the server has ended"
        time.sleep(0.1)  # each question takes CPU time from the server that starts
        try:
            return bool(httpx.get(f"{site.url}/healthz").json()["status"] == "ready")
        except httpx.HTTPError:
            return False

    try:
        wait_until(ready, READY_SECONDS, "the model's readiness")
        yield site
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()  # does nothing to a process that has ended
