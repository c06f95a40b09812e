"""The files in a .zip, .gz or .tar that may have conversations, also in one within another. Knows no format."""

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
"""Archives within archives: an export within what a cloud or a mail program has packed again."""


@dataclass(frozen=True)
class SkippedItem:
    """A conversation, or a part of one, that did not come in: what it is called, and why, in a whole sentence."""

    title: str
    reason: str
    file: str = ""

    def __str__(self) -> str:
        """All of it, on one line."""
        return f"{', '.join(filter(None, (self.file, self.title)))}: {self.reason}"


def is_packed(data: bytes) -> bool:
    """Whether a file that begins so is a .zip or a .gz."""
    return data.startswith((*ZIP, GZIP))


def unpacked(data: bytes, skipped: list[SkippedItem]) -> dict[str, bytes]:
    """The files that may have conversations, by name; the file itself, which has none, where it is no archive.

    What cannot be unpacked is in `skipped`. Raises TransferError where nothing can, or where it is too much.
    """
    opening = _Opening(skipped)
    opening.open("", data, 0)
    if not opening.files:
        if skipped:
            raise refusal(skipped[0].reason)
        raise refusal("The .zip has no conversations: no file in it ends in .json or .jsonl.")
    return opening.files


@dataclass
class _Opening:
    """An archive that is being opened, with those in it: how much may come yet, and what has come."""

    skipped: list[SkippedItem]
    files: dict[str, bytes] = field(default_factory=dict)
    room: int = field(default_factory=lambda: import_limits.MAX_BYTES)
    entries: int = field(default_factory=lambda: import_limits.MAX_FILES)

    def open(self, name: str, data: bytes, depth: int) -> None:
        """Take in a file, or what is in it."""
        if depth > MAX_DEPTH:
            self.skipped.append(SkippedItem(name, "There are archives within archives too deep to read."))
        elif data.startswith(GZIP):
            self.open(name, self._gunzipped(data), depth + 1)
        elif data.startswith(ZIP):
            self._take(name, self._unzipped(name, data), depth)
        elif data[257:262] == b"ustar":
            self._take(name, self._untarred(name, data), depth)
        else:
            self.files[name] = data

    def _take(self, name: str, members: Iterator[tuple[str, bytes]], depth: int) -> None:
        for inner, content in members:
            where = f"{name}/{inner}" if name else inner
            try:
                self.open(where, content, depth + 1)
            except _TooMuchError:
                raise
            except TransferError as error:
                self.skipped.append(SkippedItem(where, error.message))

    def _count(self, entries: int) -> None:
        self.entries -= entries
        if self.entries < 0:
            raise _TooMuchError(
                N_(f"The .zip has more than {import_limits.MAX_FILES:,} files."), "Nothing was imported."
            )

    def _spend(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            raise _TooMuchError(
                N_(f"The .zip unpacks to more than {import_limits.MAX_BYTES:,} bytes."), "Nothing was imported."
            )

    def _gunzipped(self, data: bytes) -> bytes:
        """What a .gz has, as far as it is whole."""
        made = bytearray()
        try:
            while data.startswith(GZIP):
                inflating = zlib.decompressobj(31)
                piece = inflating.decompress(data, self.room + 1)
                self._spend(len(piece))
                made += piece
                data = inflating.unused_data
        except zlib.error:
            if not made:
                raise refusal("The .gz file cannot be read: it is damaged.") from None
        return bytes(made)

    def _unzipped(self, name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The files of a .zip that may have conversations; of one that cannot be read, nothing but the reason."""
        self._count(data.count(b"PK\x01\x02"))
        try:
            archive = zipfile.ZipFile(io.BytesIO(data))
        except Exception:  # zipfile lets through whatever a damaged file makes happen inside it
            raise refusal("The .zip cannot be read: it is damaged or has a password.") from None
        with archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            for entry in map(entries.__getitem__, _wanted(entries)):
                try:
                    yield entry.filename, self._member(archive, entry)
                except _TooMuchError:
                    raise
                except TransferError as error:
                    self.skipped.append(SkippedItem("/".join(filter(None, (name, entry.filename))), error.message))

    def _member(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
        if entry.flag_bits & 1:
            raise refusal("It has a password: unpack it, and choose what comes out.")
        # Other ways to compress may take gigabytes of memory before they give the first byte.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refusal("It is compressed in an unusual way: unpack it, and choose what comes out.")
        try:
            with archive.open(entry) as file:
                content = file.read(self.room + 1)
        except Exception:
            raise refusal("It is damaged and cannot be unpacked.") from None
        self._spend(len(content))
        return content

    def _untarred(self, name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
        """The files of a .tar that may have conversations, as far as it is whole."""
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                entries = {}
                while entry := archive.next():
                    self._count(1)
                    if entry.isreg():
                        entries[entry.name] = entry
                for name_inside in _wanted(entries):
                    content = archive.extractfile(entries[name_inside]).read(self.room + 1)  # type: ignore[union-attr]
                    self._spend(len(content))
                    yield name_inside, content
        except _TooMuchError:
            raise
        except Exception:
            self.skipped.append(
                SkippedItem(name or N_("The rest of the file"), "It is damaged and cannot be unpacked.")
            )


class _TooMuchError(TransferError):
    """What there is in all is more than may be, so that nothing of it is taken."""


def _wanted(names: Iterable[str]) -> list[str]:
    """Those named conversations.json, conversations-000.json and so on, else all that may have some, in order.

    What macOS puts beside a file has none.
    """
    paths = {name: PurePosixPath(name) for name in sorted(names)}
    found = [
        name
        for name, path in paths.items()
        if path.name.lower().endswith((*TEXTS, *PACKED))
        and "__MACOSX" not in path.parts
        and not path.name.startswith("._")
    ]
    return [name for name in found if paths[name].name.lower().startswith("conversations")] or found
