"""Reads large files of conversations in a process of its own: while JSON is parsed, all threads of a process wait.

The file is that process's standard input. What it reads comes back through its standard output a few messages at a
time, and no faster than it is taken. Where memory runs out, the system ends that process and not the server.
"""

import contextlib
import os
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
from chatui.store.rows import pieces

IN_PROCESS_BYTES = 1_000_000
"""Bytes that are parsed within some ten milliseconds, for which no process is worth its start."""
PIECE_MESSAGES, PIECE_CHARACTERS = 200, 200_000
ROOT = Path(__file__).parents[3]
FIRST_TO_END = "1000"
"""In Linux, of all processes this one is ended where memory runs out."""


def open_import(file: Path) -> ImportSource:
    """The conversations of a file; those of a large one, or of a packed one, are read in a process of their own.

    Raises TransferError where it is too large.
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
    """The conversations of a file, which is read by another process."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def __iter__(self) -> Iterator[Tree]:
        """Raises TransferError where the file is none that can be read at all, or the process was ended."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-P", "-m", __name__]
        environment = {**os.environ, "PYTHONPATH": path}
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
        """End the process; what it was at is not given any more."""
        self._stopped.set()
        if self._process is not None:
            self._process.kill()

    def _trees(self, sent: IO[bytes]) -> Iterator[Tree]:
        try:
            while (head := _received(sent)) is not None:
                conversation, self.done, self.total, count = head
                yield Tree(conversation, tuple(message for _ in range(count) for message in _received(sent)))
            self.skipped, self.unlisted, self.done, self.total, refused = _received(sent)
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


def _received(sent: IO[bytes]) -> Any:
    """The next thing that the process sent, which runs this same file."""
    return pickle.load(sent)  # noqa: S301


def main(file: IO[bytes], out: IO[bytes]) -> None:
    """What the process does: send each conversation, its messages in pieces, then None and what is left of the file."""

    def send(value: object) -> None:
        pickle.dump(value, out, pickle.HIGHEST_PROTOCOL)

    refused: tuple[str, str] | None = None
    source = ImportSource()
    try:
        source = importing.read(file.read(import_limits.MAX_BYTES + 1))
        for tree in source:
            parts = list(pieces(tree.messages, PIECE_MESSAGES, PIECE_CHARACTERS))
            send((tree.conversation, source.done, source.total, len(parts)))
            for part in parts:
                send(part)
            out.flush()
    except TransferError as error:
        refused = (error.message, error.remedy)
    send(None)
    send((source.skipped, source.unlisted, source.done, source.total, refused))
    out.flush()


def _stand_back() -> None:
    """Let the model and the server come first, and leave it to them to be ended by Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    priority.lower_priority(priority.ASIDE)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(FIRST_TO_END)


if __name__ == "__main__":
    _stand_back()
    results, sys.stdout = sys.stdout.buffer, sys.stderr
    with contextlib.suppress(BrokenPipeError):  # nobody wants more
        main(sys.stdin.buffer, results)
