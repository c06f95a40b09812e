"""Reads large import files in a subprocess, because parsing JSON holds the interpreter lock.

The file is the subprocess's standard input. Its standard output sends the conversations in batches of messages, no
faster than they are consumed. If memory runs out, the system kills the subprocess and not the server.
"""

import contextlib
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from chatui import priority
from chatui.errors import TransferError
from chatui.store import import_limits
from chatui.store.imports import archives, importing
from chatui.store.imports.importing import ImportSource
from chatui.store.records import Tree
from chatui.store.rows import batches
from chatui.subprocesses import module_command, module_environment

IN_PROCESS_BYTES = 1_000_000
"""Smaller files are parsed in about ten milliseconds, less than a subprocess takes to start."""
BATCH_MESSAGES, BATCH_CHARACTERS = 200, 200_000
OOM_SCORE = "1000"
"""Linux kills the process with the highest score first if memory runs out."""


def open_import(file: Path) -> ImportSource:
    """The conversations of a file. Large files and archives are read in a subprocess.

    Raises TransferError if the file is too large.
    """
    size = file.stat().st_size
    if size > import_limits.MAX_BYTES:
        raise importing.too_large(size)
    with file.open("rb") as opened:
        if size <= IN_PROCESS_BYTES and not archives.is_packed(opened.read(4)):
            opened.seek(0)
            return importing.read(opened.read())
    return ImportProcess(file)


class ImportProcess(ImportSource):
    """The conversations of a file that a subprocess reads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def __iter__(self) -> Iterator[Tree]:
        """Raises TransferError if nothing of the file can be read, or if the subprocess was killed."""
        command, environment = module_command(__name__), module_environment()
        with (
            self._file.open("rb") as file,
            subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, env=environment) as process,  # noqa: S603
        ):
            self._process = process
            if self._stopped.is_set():
                process.kill()
            try:
                yield from self._trees(process.stdout)  # type: ignore[arg-type]  # it is a pipe
            finally:
                process.kill()

    def stop(self) -> None:
        """Kill the subprocess and end the iteration."""
        self._stopped.set()
        if self._process is not None:
            self._process.kill()

    def _trees(self, output: IO[bytes]) -> Iterator[Tree]:
        try:
            while (head := _receive(output)) is not None:
                conversation, self.done, self.total, count = head
                yield Tree(conversation, tuple(message for _ in range(count) for message in _receive(output)))
            self.skipped, self.unlisted, self.done, self.total, refused = _receive(output)
        except (EOFError, pickle.UnpicklingError):
            if self._stopped.is_set():
                return
            raise TransferError(
                "The file could not be read to its end: the process that reads it was ended, most likely as it needs "
                "more memory than there is.",
                "What came before that is here. Import the file in parts, or where there is more memory.",
            ) from None
        if refused:
            raise TransferError(*refused)


def _receive(output: IO[bytes]) -> Any:
    """The next value from the subprocess. Unpickling it is safe: the subprocess runs main() of this module."""
    return pickle.load(output)  # noqa: S301


def main(file: IO[bytes], out: IO[bytes]) -> None:
    """Run the subprocess: send each conversation, then its messages in batches; at the end None and the final state."""

    def send(value: object) -> None:
        pickle.dump(value, out, pickle.HIGHEST_PROTOCOL)

    refused: tuple[str, str] | None = None
    source = ImportSource()
    try:
        source = importing.read(file.read(import_limits.MAX_BYTES + 1))
        for tree in source:
            parts = list(batches(tree.messages, BATCH_MESSAGES, BATCH_CHARACTERS))
            send((tree.conversation, source.done, source.total, len(parts)))
            for part in parts:
                send(part)
            out.flush()
    except TransferError as error:
        refused = (error.message, error.remedy)
    send(None)
    send((source.skipped, source.unlisted, source.done, source.total, refused))
    out.flush()


def _lower_priorities() -> None:
    """Give way to the model and the server for CPU and memory, and leave Ctrl-C to the server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    priority.lower_priority(priority.ASIDE)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)


if __name__ == "__main__":
    _lower_priorities()
    results, sys.stdout = sys.stdout.buffer, sys.stderr
    with contextlib.suppress(BrokenPipeError):  # the server has stopped reading
        main(sys.stdin.buffer, results)
