"""The JSON in a file as far as it can be read: in lines, cut off, in any encoding. Knows no format."""

import json
import re
from collections.abc import Callable
from json.decoder import JSONDecodeError as NotJSONError
from json.decoder import JSONDecoder
from typing import Any

from chatui.errors import TransferError
from chatui.i18n import N_
from chatui.store import import_limits
from chatui.store.import_limits import refusal
from chatui.store.imports.archives import SkippedItem

WRAPPERS = ("conversations", "chats", "chat-sessions", "sessions", "data", "items", "history", "threads")
"""Names of the list of all conversations, where there is one around it."""
PICTURE, ARCHIVE = N_("a picture"), N_("an archive of another kind than .zip, .gz and .tar")
OTHERS = {
    b"\x89PNG": PICTURE,
    b"\xff\xd8\xff": PICTURE,
    b"GIF8": PICTURE,
    b"RIFF": PICTURE,
    b"%PDF": N_("a PDF document"),
    b"SQLite format 3": N_("a database"),
    b"GGUF": N_("a model"),
    b"BZh": ARCHIVE,
    b"7z\xbc\xaf": ARCHIVE,
    b"Rar!": ARCHIVE,
    b"\xfd7zXZ": ARCHIVE,
    b"(\xb5/\xfd": ARCHIVE,
    b"<": N_("a web page"),
}
"""What files that are no export of chats begin with."""
BLANK = re.compile(r"[\s\0]*")
COMMA = re.compile(r"\s*,\s*")
LINE = re.compile(r"\r\n?|\n")
DEEP = N_("There are brackets within brackets too deep to read.")
MAX_DIGITS = 4000
MAX_ERRORS = 10_000
"""Lines that may be no JSON in a file of which the others are."""
WRAPPED = re.compile(rf'"(?:{"|".join(WRAPPERS)})"\s*:\s*\[')

IsConversation = Callable[[object], bool]
"""Whether a value is a conversation, or some."""


class _BrokenError(Exception):
    """What a file has at `place` cannot be read on."""

    def __init__(self, place: int, why: str) -> None:
        self.place, self.why = place, why


def values(data: bytes, known: IsConversation, skipped: list[SkippedItem]) -> object:
    """The file's JSON; that of several lines, or of several values, as a list. What is no JSON is in `skipped`."""
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > import_limits.MAX_VALUES:
        raise refusal(f"The file has more than {import_limits.MAX_VALUES:,} values.")
    start = data[:100].lstrip(b"\xef\xbb\xbf \t\r\n")
    if kind := next((kind for magic, kind in OTHERS.items() if start.startswith(magic)), ""):
        raise _other(kind)
    text = _decoded(data, skipped).lstrip("\ufeff").strip("\0 \t\r\n")
    if not text:
        raise refusal("The file is empty.")
    begins = None
    try:
        begins, end = _value(text, 0)
        if end == len(text):
            return begins
        broken = _BrokenError(end, _place(text, end))
    except _BrokenError as error:
        broken = error
    cut = _cut_list(text, 0, known, skipped) if text.startswith("[") else None
    found = cut or _series(text, known) or _lines(text, known, skipped) or _cut_wrapped(text, known, skipped)
    if found is None and begins is not None and known(begins):
        skipped.append(SkippedItem("The rest of the file", broken.why))
        return begins
    if found is None:
        raise refusal(broken.why)
    return found


def _value(text: str, start: int) -> tuple[Any, int]:
    """The value that stands there, and where what follows it begins."""
    try:
        value, end = JSONDecoder(parse_int=_number).raw_decode(text, start)
    except NotJSONError as error:
        raise _BrokenError(error.pos, _place(text, error.pos)) from None
    except RecursionError:
        raise _BrokenError(start, DEEP) from None
    return value, BLANK.match(text, end).end()  # type: ignore[union-attr]


def _number(digits: str) -> float:
    """A number; one that Python would not read is too large for everything."""
    return int(digits) if len(digits) < MAX_DIGITS else float("inf")


def _place(text: str, place: int) -> str:
    line = text.count("\n", 0, place) + 1
    column = place - text.rfind("\n", 0, place)
    return N_(f"The file is not JSON from line {line:,}, column {column:,} on.")


def _series(text: str, known: IsConversation) -> list[Any] | None:
    """Values that stand one behind the other; None where not all can be read, or none of them is a conversation."""
    found: list[Any] = []
    place = 0
    while place < len(text):
        try:
            value, place = _value(text, place)
        except _BrokenError:
            return None
        found.append(value)
    return found if known(found) or any(map(known, found)) else None


def _lines(text: str, known: IsConversation, skipped: list[SkippedItem]) -> list[Any] | None:
    """JSON Lines, or None where none of them is a conversation. One that is no JSON is skipped."""
    found: list[Any] = []
    wrong: list[SkippedItem] = []
    for number, line in enumerate(LINE.split(text), 1):
        if line := line.strip():
            try:
                value, end = _value(line, 0)
            except _BrokenError as error:
                why = error.why if error.why == DEEP else "It is not JSON."
                wrong.append(SkippedItem(f"Line number {number:,}", why))
                if len(wrong) > MAX_ERRORS:
                    return None
                continue
            found.append(value)
            if end < len(line):
                wrong.append(SkippedItem(f"Line number {number:,}", "It is not JSON."))
    if not known(found) and not any(map(known, found)):
        return None
    skipped += wrong
    return found


def _cut_list(text: str, start: int, known: IsConversation, skipped: list[SkippedItem]) -> list[Any] | None:
    """The values of a list of which the rest is missing or damaged; None where none of them can be read."""
    found: list[Any] = []
    place = BLANK.match(text, start + 1).end()  # type: ignore[union-attr]
    why = ""
    while text[place : place + 1] != "]":
        try:
            value, place = _value(text, place)
        except _BrokenError as error:
            why = error.why
            break
        found.append(value)
        comma = COMMA.match(text, place)
        if comma is None and text[place : place + 1] != "]":
            why = _place(text, place)
            break
        place = comma.end() if comma else place
    if not why and BLANK.match(text, place + 1).end() < len(text):  # type: ignore[union-attr]
        return None  # something follows the whole list
    if not known(found) and not any(map(known, found)):
        return None
    if why:
        skipped.append(SkippedItem("The rest of the file", why))
    return found


def _cut_wrapped(text: str, known: IsConversation, skipped: list[SkippedItem]) -> object:
    """The same of a list in an object, with what stands before it there."""
    start = WRAPPED.search(text)
    if start is None or not text.startswith("{"):
        return None
    try:
        head, _ = _value(text[: start.end()] + "]}", 0)
    except _BrokenError:
        return None
    name = next(reversed(head))
    return _cut_list(text, start.end() - 1, lambda value: known({**head, name: value}), skipped) and {
        **head,
        name: _cut_list(text, start.end() - 1, lambda _: True, []),
    }


def _decoded(data: bytes, skipped: list[SkippedItem]) -> str:
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding, "surrogatepass")
    except UnicodeDecodeError as error:
        start = data[:100].lstrip()
        if encoding != "utf-8" or start[:1] not in (b"[", b"{"):
            raise refusal(f"The file is no text: byte {error.start:,} is not {encoding.upper()}.") from None
    text = data.decode("utf-8", "replace")
    if re.search("[\x80-\ufffc\U00010000-\U0010ffff]", text) is None:
        skipped.append(SkippedItem("The file", "It is not in UTF-8, and was read as Windows-1252."))
        return data.decode("cp1252", "replace")
    skipped.append(
        SkippedItem(
            "The file", f"Some of its characters, {text.count(chr(0xFFFD)):,}, are damaged: “�” stands for them."
        )
    )
    return text


def _other(kind: str) -> TransferError:
    return refusal(f"The file is {kind}: choose the .json, .jsonl or .zip file that the other program has exported.")
