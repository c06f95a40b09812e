"""Folders of files that were built here: complete or absent after a crash, and checked before they are loaded."""

import hashlib
import json
import os
import shutil
from pathlib import Path

CHECKSUMS = "checksums.json"
"""SHA-256 of each other file in the folder, by its name."""


def publish(made: Path, target: Path) -> None:
    """Move the folder `made` to `target` on the same disk. A folder that is there already is replaced.

    Everything is on the disk before it has its name: a rename alone may survive a power failure that the contents do
    not, see https://man7.org/linux/man-pages/man2/fsync.2.html.
    """
    sums = {file.name: _sha256(file) for file in sorted(made.iterdir()) if file.is_file()}
    (made / CHECKSUMS).write_text(json.dumps(sums))
    for path in (*made.iterdir(), made):
        _sync(path)
    if target.exists():
        shutil.rmtree(target)
    made.replace(target)
    _sync(target.parent)


def is_whole(folder: Path) -> bool:
    """Whether the folder is there, and its files are those that were published."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_bytes())
        return all(_sha256(folder / name) == expected for name, expected in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def discard_damaged(folder: Path) -> None:
    """Remove a folder that is not whole, so that it is built anew."""
    if folder.is_dir() and not is_whole(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():  # only POSIX opens folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
