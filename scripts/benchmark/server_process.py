"""A server's process for the time of a measurement, with its output."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.2
STOP_SECONDS = 10.0

Process = subprocess.Popen[str]


@contextmanager
def started_process(
    command: Sequence[str], environment: Mapping[str, str], log: IO[str], stdin: int = subprocess.DEVNULL
) -> Iterator[Process]:
    """The process, its output in `log`; it is stopped at the end."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=stdin, stdout=log, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def log_text(log: IO[str]) -> str:
    """What the process has written so far."""
    # The file's position is shared with the process: pread leaves it alone.
    return os.pread(log.fileno(), 1_000_000, 0).decode(errors="replace")
