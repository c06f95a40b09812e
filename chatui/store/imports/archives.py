"""Unpacks the files with conversations from .zip, .gz and .tar archives, nested ones included. Knows no format."""

import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from chatui.errors import TransferError
from chatui.i18n import N_
from chatui.store import import_limits
from chatui.store.import_limits import refusal

TEXTS = (".json", ".jsonl", ".ndjson")
PACKED = (".zip", ".gz", ".tgz", ".tar")
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
GZIP = b"\x1f\x8b\x08"
MAX_DEPTH = 3
"""Archives within archives: cloud and mail programs pack an export again."""


@dataclass(frozen=True)
class SkippedItem:
    """A conversation, or a part of one, that was not imported: its title, and the reason as a sentence."""

    title: str
    reason: str
    file: str = ""

    def __str__(self) -> str:
        """All fields on one line."""
        return f"{', '.join(filter(None, (self.file, self.title)))}: {self.reason}"


def is_packed(data: bytes) -> bool:
    """Whether a file that starts with `data` is a .zip or a .gz."""
    return data.startswith((*ZIP, GZIP))


def unpacked(data: bytes, skipped: list[SkippedItem]) -> dict[str, bytes]:
    """The files that may have conversations, by name; the file itself, with the name "", if it is not an archive.

    Files that cannot be unpacked are added to `skipped`. Raises TransferError if none can, or if a limit is exceeded.
    """
    unpacker = _Unpacker(skipped)
    unpacker.add("", data, 0)
    if not unpacker.files:
        if skipped:
            raise refusal(skipped[0].reason)
        raise refusal("The .zip has no conversations: no file in it ends in .json or .jsonl.")
    return unpacker.files


@dataclass
class _Unpacker:
    """Unpacks an archive and those in it. `bytes_left` and `entries_left` are what remains of the limits."""

    skipped: list[SkippedItem]
    files: dict[str, bytes] = field(default_factory=dict)
    bytes_left: int = field(default_factory=lambda: import_limits.MAX_BYTES)
    entries_left: int = field(default_factory=lambda: import_limits.MAX_FILES)

    def add(self, name: str, data: bytes, depth: int) -> None:
        """Add a file to `files`, or the files in it if it is an archive."""
        if depth > MAX_DEPTH:
            self.skipped.append(SkippedItem(name, "There are archives within archives too deep to read."))
        elif data.startswith(GZIP):
            self.add(name, self._gunzip(data), depth + 1)
        elif data.startswith(ZIP):
            self._add_members(name, self._unzip(name, data), depth)
        elif data[257:262] == b"ustar":
            self._add_members(name, self._untar(name, data), depth)
        else:
            self.files[name] = data

    def _add_members(self, name: str, members: Iterator[tuple[str, bytes]], depth: int) -> None:
        for inner, content in members:
            path = f"{name}/{inner}" if name else inner
            try:
                self.add(path, content, depth + 1)
            except _LimitExceededError:
                raise
            except TransferError as error:
                self.skipped.append(SkippedItem(path, error.message))

    def _count_entries(self, entries: int) -> None:
        self.entries_left -= entries
        if self.entries_left < 0:
            raise _LimitExceededError(
                N_(f"The .zip has more than {import_limits.MAX_FILES:,} files."), "Nothing was imported."
            )

    def _count_bytes(self, size: int) -> None:
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise _LimitExceededError(
                N_(f"The .zip unpacks to more than {import_limits.MAX_BYTES:,} bytes."), "Nothing was imported."
            )

    def _gunzip(self, data: bytes) -> bytes:
        """The content of a .gz, up to the point where it is damaged."""
        content = bytearray()
        try:
            while data.startswith(GZIP):
                decompressor = zlib.decompressobj(31)
                member = decompressor.decompress(data, self.bytes_left + 1)
                self._count_bytes(len(member))
                content += member
                data = decompressor.unused_data
        except zlib.error:
            if not content:
                raise refusal("The .gz file cannot be read: it is damaged.") from None
        return bytes(content)

    def _unzip(self, name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The names and contents of the files of a .zip that may have conversations. Skips files with an error."""
        self._count_entries(data.count(b"PK\x01\x02"))
        try:
            archive = zipfile.ZipFile(io.BytesIO(data))
        except Exception:  # zipfile raises errors of many types for a damaged file
            raise refusal("The .zip cannot be read: it is damaged or has a password.") from None
        with archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            for entry in map(entries.__getitem__, _relevant_names(entries)):
                try:
                    yield entry.filename, self._read_entry(archive, entry)
                except _LimitExceededError:
                    raise
                except TransferError as error:
                    self.skipped.append(SkippedItem("/".join(filter(None, (name, entry.filename))), error.message))

    def _read_entry(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
        if entry.flag_bits & 1:
            raise refusal("It has a password: unpack it, and choose what comes out.")
        # Other compression methods may take gigabytes of memory before the first byte.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refusal("It is compressed in an unusual way: unpack it, and choose what comes out.")
        try:
            with archive.open(entry) as file:
                content = file.read(self.bytes_left + 1)
        except Exception:
            raise refusal("It is damaged and cannot be unpacked.") from None
        self._count_bytes(len(content))
        return content

    def _untar(self, name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The names and contents of the files of a .tar that may have conversations, up to where it is damaged."""
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                entries = {}
                while entry := archive.next():
                    self._count_entries(1)
                    if entry.isreg():
                        entries[entry.name] = entry
                for inner in _relevant_names(entries):
                    content = archive.extractfile(entries[inner]).read(self.bytes_left + 1)  # type: ignore[union-attr]
                    self._count_bytes(len(content))
                    yield inner, content
        except _LimitExceededError:
            raise
        except Exception:
            self.skipped.append(
                SkippedItem(name or N_("The rest of the file"), "It is damaged and cannot be unpacked.")
            )


class _LimitExceededError(TransferError):
    """The archive exceeds a limit as a whole, so nothing of it is imported."""


def _relevant_names(names: Iterable[str]) -> list[str]:
    """The sorted names with a known suffix; if some start with "conversations", only those. Without macOS metadata."""
    paths = {name: PurePosixPath(name) for name in sorted(names)}
    selected = [
        name
        for name, path in paths.items()
        if path.name.lower().endswith((*TEXTS, *PACKED))
        and "__MACOSX" not in path.parts
        and not path.name.startswith("._")
    ]
    return [name for name in selected if paths[name].name.lower().startswith("conversations")] or selected
