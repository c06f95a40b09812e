"""Limits the disk space and the age of uploaded files that wait to be read. Knows no page.

Gradio's `delete_cache` goes by age alone, and does not know files of uploads that were broken off.
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

MAX_AGE_SECONDS = 3600.0
"""Files older than this are deleted."""
MIN_AGE_SECONDS = 60.0
"""Younger files are kept even if the space is needed, so that their sender can use them."""
SWEEP_SECONDS = 300.0
MIN_FILE_BYTES = 4096
"""Bytes that the smallest file takes: a block of the disk."""
MB = 10**6

_read: set[Path] = set()
"""Files that are being read."""


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Context manager that protects a file from sweep()."""
    file = file.resolve()
    _read.add(file)
    try:
        yield
    finally:
        _read.discard(file)


class _File(NamedTuple):
    changed: float
    size: int
    path: Path


class UploadFolder:
    """The folder in which Gradio stores uploads, with at most `most` bytes; 0 is no limit."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._kept = self._coming = 0

    async def expect(self, size: int) -> None:
        """Free space for an upload of about `size` bytes. Raises RefusedError if there is not enough."""
        if self._most and size > self._most:
            raise self._refusal(413)
        await asyncio.to_thread(self.sweep, size)
        self._check(size)

    def add(self, size: int) -> None:
        """Count `size` more bytes of an upload. Raises RefusedError if there is no space for them."""
        self._coming += size
        self._check(0)

    def end(self, size: int, stays: bool) -> None:
        """End an upload of which `size` bytes came. `stays` tells whether its file is kept."""
        self._coming -= size
        if stays:
            self._kept += size  # until the next sweep measures the files

    def sweep(self, needed: int = 0) -> None:
        """Delete old files and then, the oldest first, as many as it takes to free `needed` bytes."""
        now, coming = time.time(), self._coming
        files = sorted(self._files())
        kept = max(0, sum(file.size for file in files) - coming)
        for file in files:
            age = now - file.changed
            too_much = self._most and kept + coming + needed > self._most and age > MIN_AGE_SECONDS
            if (age > MAX_AGE_SECONDS or too_much) and file.path.resolve() not in _read:
                with contextlib.suppress(OSError):
                    file.path.unlink()
                    kept -= file.size
        self._kept = kept
        self._remove_empty_folders(now)

    async def sweep_periodically(self) -> None:
        """Sweep every SWEEP_SECONDS, until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.sweep)
            await asyncio.sleep(SWEEP_SECONDS)

    def _check(self, needed: int) -> None:
        if self._most and self._kept + self._coming + needed > self._most:
            raise self._refusal(507)

    def _refusal(self, status: int) -> RefusedError:
        most = self._most // MB
        if status == 413:
            return RefusedError(
                status,
                N_(
                    f"The file is larger than the {most:,} MB that uploads may take here. Send it in parts, or ask "
                    "whoever runs this server for more (--max-uploads)."
                ),
            )
        return RefusedError(
            status,
            N_(
                f"Files that wait to be read take the {most:,} MB that uploads may take here. Try again in a few "
                "minutes, or ask whoever runs this server for more (--max-uploads)."
            ),
        )

    def _files(self) -> Iterator[_File]:
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(OSError):  # it has just been read
                    found = path.lstat()
                    yield _File(found.st_mtime, max(found.st_size, MIN_FILE_BYTES), path)

    def _remove_empty_folders(self, now: float) -> None:
        """Delete the folders that Gradio made for files that are gone."""
        for folder, _, _ in os.walk(self._folder, topdown=False):
            path = Path(folder)
            with contextlib.suppress(OSError):
                if path != self._folder and now - path.stat().st_mtime > MIN_AGE_SECONDS:
                    path.rmdir()
