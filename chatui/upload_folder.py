"""The room that uploaded files may take on the disk until they are read: by their age and all together.

Knows no page. Gradio's own `delete_cache` goes by age alone, and knows no file whose upload was broken off.
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
"""Nobody comes for a file that has waited for so long."""
MIN_AGE_SECONDS = 60.0
"""A file that has just come is left to whoever sent it, even where the room is needed."""
SWEEP_SECONDS = 300.0
MIN_FILE_BYTES = 4096
"""Bytes that the smallest file takes: a block of the disk."""
MB = 10**6

_read: set[Path] = set()
"""Files that are being read."""


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Within this, the file is not swept."""
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
    """The folder in which Gradio puts uploads; together they may have `most` bytes, 0 is no limit."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._kept = self._coming = 0

    async def expect(self, size: int) -> None:
        """Make room for an upload of about this size. Raises RefusedError where there is none."""
        if self._most and size > self._most:
            raise self._refusal(413)
        await asyncio.to_thread(self.sweep, size)
        self._check(size)

    def add(self, size: int) -> None:
        """So many bytes more of an upload have come. Raises RefusedError where there is no room for them."""
        self._coming += size
        self._check(0)

    def end(self, size: int, stays: bool) -> None:
        """An upload is over, of which so many bytes had come; its file is removed unless it `stays`."""
        self._coming -= size
        if stays:
            self._kept += size  # until the next sweep, which looks

    def sweep(self, wanted: int = 0) -> None:
        """Remove what is old and, the oldest first, what stands in the way of so many bytes more."""
        now, coming = time.time(), self._coming
        files = sorted(self._files())
        kept = max(0, sum(file.size for file in files) - coming)
        for file in files:
            age = now - file.changed
            too_much = self._most and kept + coming + wanted > self._most and age > MIN_AGE_SECONDS
            if (age > MAX_AGE_SECONDS or too_much) and file.path.resolve() not in _read:
                with contextlib.suppress(OSError):
                    file.path.unlink()
                    kept -= file.size
        self._kept = kept
        self._remove_empty_folders(now)

    async def keep_house(self) -> None:
        """Sweep from time to time."""
        while True:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self.sweep)
            await asyncio.sleep(SWEEP_SECONDS)

    def _check(self, wanted: int) -> None:
        if self._most and self._kept + self._coming + wanted > self._most:
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
        """Gradio makes a folder for each file."""
        for folder, _, _ in os.walk(self._folder, topdown=False):
            path = Path(folder)
            with contextlib.suppress(OSError):
                if path != self._folder and now - path.stat().st_mtime > MIN_AGE_SECONDS:
                    path.rmdir()
