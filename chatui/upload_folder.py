"""Limits the disk space and the age of uploaded files until they are read.

Gradio's `delete_cache` limits the age only, and misses the files of aborted uploads.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from chatui.body_limit import RefusedError
from chatui.i18n import N_
from chatui.settings import MB

MAX_AGE_SECONDS = 3600.0
"""Files older than this are deleted."""
MIN_AGE_SECONDS = 60.0
"""Younger files are kept even if the space is needed, so that their sender can use them."""
SWEEP_SECONDS = 300.0
MIN_FILE_BYTES = 4096
"""Bytes that the smallest file takes on the disk: one block."""

_files_being_read: set[Path] = set()
"""Files that are being read. They are not deleted."""


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Context manager that protects a file from sweep()."""
    file = file.resolve()
    _files_being_read.add(file)
    try:
        yield
    finally:
        _files_being_read.discard(file)


class _File(NamedTuple):
    modified: float
    size: int
    path: Path


class UploadFolder:
    """The folder in which Gradio stores uploads, with at most `max_bytes` bytes; 0 is no limit."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._stored_bytes = self._incoming_bytes = 0

    async def expect(self, size: int) -> None:
        """Free space for an upload of about `size` bytes. Raises RefusedError if there is not enough."""
        if self._max_bytes and size > self._max_bytes:
            raise self._refusal(413)
        await asyncio.to_thread(self.sweep, size)
        self._check(size)

    def add(self, size: int) -> None:
        """Count `size` more bytes of an upload. Raises RefusedError if there is no space for them."""
        self._incoming_bytes += size
        self._check(0)

    def end(self, size: int, complete: bool) -> None:
        """End an upload of which `size` bytes came. The file of a `complete` one is kept."""
        self._incoming_bytes -= size
        if complete:
            self._stored_bytes += size  # until the next sweep measures the files

    def sweep(self, needed: int = 0) -> None:
        """Delete old files and then, the oldest first, as many as it takes to free `needed` bytes."""
        now, incoming = time.time(), self._incoming_bytes
        files = sorted(self._files())
        stored = max(0, sum(file.size for file in files) - incoming)
        for file in files:
            age = now - file.modified
            over_limit = self._max_bytes and stored + incoming + needed > self._max_bytes and age > MIN_AGE_SECONDS
            if (age > MAX_AGE_SECONDS or over_limit) and file.path.resolve() not in _files_being_read:
                with contextlib.suppress(OSError):
                    file.path.unlink()
                    stored -= file.size
        self._stored_bytes = stored
        self._remove_empty_folders(now)

    async def sweep_periodically(self) -> None:
        """Sweep every SWEEP_SECONDS, until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.sweep)
            await asyncio.sleep(SWEEP_SECONDS)

    def _check(self, needed: int) -> None:
        if self._max_bytes and self._stored_bytes + self._incoming_bytes + needed > self._max_bytes:
            raise self._refusal(507)

    def _refusal(self, status: int) -> RefusedError:
        max_mb = self._max_bytes // MB
        if status == 413:
            return RefusedError(
                status,
                N_(
                    f"The file is larger than the {max_mb:,} MB that uploads may take here. Send it in parts, or ask "
                    "whoever runs this server for more (--max-uploads)."
                ),
            )
        return RefusedError(
            status,
            N_(
                f"Files that wait to be read take the {max_mb:,} MB that uploads may take here. Try again in a few "
                "minutes, or ask whoever runs this server for more (--max-uploads)."
            ),
        )

    def _files(self) -> Iterator[_File]:
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):  # deleted meanwhile, after it was read
                    stat = path.lstat()
                    yield _File(stat.st_mtime, max(stat.st_size, MIN_FILE_BYTES), path)

    def _remove_empty_folders(self, now: float) -> None:
        """Delete the folders that Gradio made for files that are gone."""
        for folder, _, _ in os.walk(self._folder, topdown=False):
            path = Path(folder)
            with contextlib.suppress(OSError):
                if path != self._folder and now - path.stat().st_mtime > MIN_AGE_SECONDS:
                    path.rmdir()
