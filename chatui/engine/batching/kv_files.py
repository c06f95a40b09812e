"""K/V blocks in files, one for each: written beside the model's thread, checked when they are read, and removed after a
while. Knows no torch.
"""

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from chatui import priority

log = logging.getLogger(__name__)

MAX_AGE_SECONDS = 7 * 24 * 3600
"""Files that nobody used for so long are removed: those of deleted chats among them."""
SWEEP_SECONDS = 3600
SWEPT_SHARE = 1 / 16
"""The share of the limit that is freed at once, and after which is looked again."""
FREE_BYTES = 2**30
"""What stays free on the disk."""
MAX_QUEUED_BYTES = 2**27
"""What waits to be written; each file waits in memory."""
READERS = 2
"""Threads: a checksum takes as long as reading the file from the system's cache."""
SUFFIX, UNFINISHED = ".kv", ".tmp"
PREFIX = "kv-"
CHECKSUM_BYTES = hashlib.sha256().digest_size


class KVFiles:
    """The blocks of one model, by name. All but `__init__` is quick: threads of its own read and write.

    To be called in one thread. Failures to write are logged, once.
    """

    def __init__(self, root: Path, fingerprint: str, limit: int) -> None:
        """In a folder in `root`, all of whose blocks take at most `limit` bytes. Raises OSError.

        The `fingerprint` is that of all that blocks depend on.
        """
        self._folder, self._fingerprint = root / f"{PREFIX}{fingerprint}", fingerprint
        _make_private(root, self._folder)
        self._names = {path.stem for path in self._folder.glob(f"*{SUFFIX}")}
        self._sweeper = _sweeper(root, limit)
        self._lock, self._queued, self._warned = threading.Lock(), 0, False
        self._writer = ThreadPoolExecutor(1, "chatui-kv-writer", priority.lower_priority, (priority.ASIDE,))
        self._readers = ThreadPoolExecutor(READERS, "chatui-kv-reader")

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @property
    def full(self) -> bool:
        """Whether nothing more may be written for the moment."""
        return self._queued >= MAX_QUEUED_BYTES

    def read(self, name: str, size: int) -> "Future[bytearray | None]":
        """The so many bytes of a block; None if it is gone or damaged."""
        return self._readers.submit(self._read, name, size)

    def write(self, name: str, data: memoryview) -> None:
        """Have a block written soon."""
        self._names.add(name)
        with self._lock:
            self._queued += data.nbytes
        self._writer.submit(self._write, name, data)

    def touch(self, names: list[str]) -> None:
        """These blocks are used; what is told first goes last."""
        self._writer.submit(self._touch, names)

    def remove(self, names: list[str]) -> None:
        """These blocks are no good."""
        self._names.difference_update(names)
        self._writer.submit(self._remove, names)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{SUFFIX}"

    def _checksum(self, name: str, data: bytearray | memoryview) -> bytes:
        """Tells a block from what was damaged, renamed, or put into the folder of another model."""
        digest = hashlib.sha256(f"{self._fingerprint} {name} ".encode())
        digest.update(data)
        return digest.digest()

    def _read(self, name: str, size: int) -> bytearray | None:
        path = self._path(name)
        try:
            data = bytearray(size)
            with path.open("rb", buffering=0) as file:
                whole = os.fstat(file.fileno()).st_size == CHECKSUM_BYTES + size
                expected = file.read(CHECKSUM_BYTES)
                whole = whole and file.readinto(data) == size and self._checksum(name, data) == expected
            if whole:
                return data
            log.warning("a file of keys and values is damaged, and removed: %s", path)
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except (OSError, MemoryError) as error:
            log.warning("a file of keys and values cannot be read: %r", error)
        self._names.discard(name)
        return None

    def _write(self, name: str, data: memoryview) -> None:
        scratch = self._folder / f"{name}-{secrets.token_hex(4)}{UNFINISHED}"
        try:
            if shutil.disk_usage(self._folder).free < FREE_BYTES + data.nbytes:
                raise OSError(f"less than {FREE_BYTES >> 30} GiB is free")
            try:
                with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(self._checksum(name, data))
                    file.write(data)
                scratch.replace(self._path(name))
            finally:
                scratch.unlink(missing_ok=True)
            self._sweeper.count(data.nbytes)
        except OSError as error:
            self._names.discard(name)
            if not self._warned:
                log.warning("keys and values are not kept in %s: %s", self._folder, error)
            self._warned = True
        finally:
            with self._lock:
                self._queued -= data.nbytes

    def _remove(self, names: list[str]) -> None:
        for name in names:
            with contextlib.suppress(OSError):
                self._path(name).unlink(missing_ok=True)

    def _touch(self, names: list[str]) -> None:
        now = time.time_ns()
        for at, name in enumerate(names):
            try:
                os.utime(self._path(name), ns=(now - 1000 * at, now - 1000 * at))
            except OSError:
                self._names.discard(name)


class _Sweeper(threading.Thread):
    """Removes blocks of all models and processes in a folder: those that are old, and those beyond the limit."""

    def __init__(self, root: Path, limit: int) -> None:
        super().__init__(name="chatui-kv-sweeper", daemon=True)
        self.limit = limit
        self._root, self._written, self._due = root, 0, threading.Event()

    def count(self, written: int) -> None:
        """So many bytes more were written."""
        self._written += written
        if self._written > self.limit * SWEPT_SHARE / 2:
            self._due.set()

    def run(self) -> None:
        """Now, after much was written, and each hour."""
        priority.lower_priority(priority.ASIDE)
        while True:
            self._written = 0
            try:
                sweep(self._root, self.limit)
            except OSError as error:
                log.warning("old keys and values cannot be removed: %s", error)
            self._due.wait(SWEEP_SECONDS)
            self._due.clear()


def sweep(root: Path, limit: int) -> None:
    """Remove blocks that were not used for MAX_AGE_SECONDS, and if the others take nearly `limit` bytes, the oldest.

    Raises OSError.
    """
    files, now = list[tuple[float, int, Path]](), time.time()
    for path in root.glob(f"{PREFIX}*/*"):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            oldest = now - (SWEEP_SECONDS if path.suffix == UNFINISHED else MAX_AGE_SECONDS)
            if path.suffix in (SUFFIX, UNFINISHED):
                files.append((found.st_mtime if found.st_mtime >= oldest else 0.0, found.st_size, path))
    total = sum(size for _, size, _ in files)
    goal = limit * (1 - SWEPT_SHARE) if total > limit * (1 - SWEPT_SHARE / 2) else limit
    for used, size, path in sorted(files):
        if used and total <= goal:
            return
        path.unlink(missing_ok=True)
        total -= size


_sweepers: dict[Path, _Sweeper] = {}
_sweepers_lock = threading.Lock()


def _sweeper(root: Path, limit: int) -> _Sweeper:
    """The one of this process that looks after this folder, whatever models there are."""
    with _sweepers_lock:
        if (found := _sweepers.get(root)) is None:
            found = _sweepers[root] = _Sweeper(root, limit)
            found.start()
        found.limit = limit
        return found


def _make_private(root: Path, folder: Path) -> None:
    """Make a folder that only this account may look into. Raises OSError."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
        raise PermissionError(f"{folder} belongs to another account")
    folder.chmod(0o700)
