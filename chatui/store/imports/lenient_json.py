"""Parses JSON as far as possible: also JSON Lines, truncated files and other encodings. Knows no format."""

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
"""Names of the list of conversations in an object around it."""
PICTURE, ARCHIVE = N_("a picture"), N_("an archive of another kind than .zip, .gz and .tar")
OTHER_KINDS = {
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
"""The first bytes of files that are not an export of chats."""
BLANK = re.compile(r"[\s\0]*")
COMMA = re.compile(r"\s*,\s*")
LINE = re.compile(r"\r\n?|\n")
TOO_DEEP = N_("There are brackets within brackets too deep to read.")
MAX_DIGITS = 4000
MAX_ERRORS = 10_000
"""The maximum of invalid lines in a file that is read as JSON Lines."""
WRAPPED = re.compile(rf'"(?:{"|".join(WRAPPERS)})"\s*:\s*\[')

IsConversation = Callable[[object], bool]
"""Whether a value is a conversation or contains some."""


class _ParseError(Exception):
    """The text is not JSON, for a `reason`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def parse(data: bytes, is_conversation: IsConversation, skipped: list[SkippedItem]) -> object:
    """The JSON value of a file; a list for several values or lines. Invalid parts are added to `skipped`.

    Raises TransferError if nothing can be parsed or a limit is exceeded.
    """
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > import_limits.MAX_VALUES:
        raise refusal(f"The file has more than {import_limits.MAX_VALUES:,} values.")
    start = data[:100].lstrip(b"\xef\xbb\xbf \t\r\n")
    if kind := next((kind for magic, kind in OTHER_KINDS.items() if start.startswith(magic)), ""):
        raise _wrong_kind(kind)
    text = _decode(data, skipped).lstrip("\ufeff").strip("\0 \t\r\n")
    if not text:
        raise refusal("The file is empty.")
    first = None
    try:
        first, end = _parse_value(text, 0)
        if end == len(text):
            return first
        reason = _position(text, end)
    except _ParseError as error:
        reason = error.reason
    values = (
        (_truncated_list(text, 0, is_conversation, skipped) if text.startswith("[") else None)
        or _consecutive_values(text, is_conversation)
        or _json_lines(text, is_conversation, skipped)
        or _truncated_object(text, is_conversation, skipped)
    )
    if values is None and first is not None and is_conversation(first):
        skipped.append(SkippedItem("The rest of the file", reason))
        return first
    if values is None:
        raise refusal(reason)
    return values


def _parse_value(text: str, start: int) -> tuple[Any, int]:
    """The value at `start`, and the position of the next non-blank character after it."""
    try:
        value, end = JSONDecoder(parse_int=_parse_int).raw_decode(text, start)
    except NotJSONError as error:
        raise _ParseError(_position(text, error.pos)) from None
    except RecursionError:
        raise _ParseError(TOO_DEEP) from None
    return value, BLANK.match(text, end).end()  # type: ignore[union-attr]


def _parse_int(digits: str) -> float:
    """An integer; infinity if it has more digits than Python parses."""
    return int(digits) if len(digits) < MAX_DIGITS else float("inf")


def _position(text: str, position: int) -> str:
    """The reason that names the line and column of a syntax error."""
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return N_(f"The file is not JSON from line {line:,}, column {column:,} on.")


def _consecutive_values(text: str, is_conversation: IsConversation) -> list[Any] | None:
    """Several values in a row; None if one of them is invalid or none is a conversation."""
    values: list[Any] = []
    position = 0
    while position < len(text):
        try:
            value, position = _parse_value(text, position)
        except _ParseError:
            return None
        values.append(value)
    return values if is_conversation(values) or any(map(is_conversation, values)) else None


def _json_lines(text: str, is_conversation: IsConversation, skipped: list[SkippedItem]) -> list[Any] | None:
    """The values of JSON Lines without invalid lines; None if no value is a conversation."""
    values: list[Any] = []
    invalid: list[SkippedItem] = []
    for number, line in enumerate(LINE.split(text), 1):
        if line := line.strip():
            try:
                value, end = _parse_value(line, 0)
            except _ParseError as error:
                reason = error.reason if error.reason == TOO_DEEP else "It is not JSON."
                invalid.append(SkippedItem(f"Line number {number:,}", reason))
                if len(invalid) > MAX_ERRORS:
                    return None
                continue
            values.append(value)
            if end < len(line):
                invalid.append(SkippedItem(f"Line number {number:,}", "It is not JSON."))
    if not is_conversation(values) and not any(map(is_conversation, values)):
        return None
    skipped += invalid
    return values


def _truncated_list(
    text: str, start: int, is_conversation: IsConversation, skipped: list[SkippedItem]
) -> list[Any] | None:
    """The values of a list at `start` whose rest is missing or damaged; None if no value is a conversation."""
    values: list[Any] = []
    position = BLANK.match(text, start + 1).end()  # type: ignore[union-attr]
    reason = ""
    while text[position : position + 1] != "]":
        try:
            value, position = _parse_value(text, position)
        except _ParseError as error:
            reason = error.reason
            break
        values.append(value)
        comma = COMMA.match(text, position)
        if comma is None and text[position : position + 1] != "]":
            reason = _position(text, position)
            break
        position = comma.end() if comma else position
    if not reason and BLANK.match(text, position + 1).end() < len(text):  # type: ignore[union-attr]
        return None  # something follows a complete list
    if not is_conversation(values) and not any(map(is_conversation, values)):
        return None
    if reason:
        skipped.append(SkippedItem("The rest of the file", reason))
    return values


def _truncated_object(text: str, is_conversation: IsConversation, skipped: list[SkippedItem]) -> object:
    """An object around a truncated list of conversations, with the fields before the list; None if it is not one."""
    start = WRAPPED.search(text)
    if start is None or not text.startswith("{"):
        return None
    try:
        fields, _ = _parse_value(text[: start.end()] + "]}", 0)
    except _ParseError:
        return None
    name = next(reversed(fields))
    return _truncated_list(text, start.end() - 1, lambda value: is_conversation({**fields, name: value}), skipped) and {
        **fields,
        name: _truncated_list(text, start.end() - 1, lambda _: True, []),
    }


def _decode(data: bytes, skipped: list[SkippedItem]) -> str:
    """The text of the file. Damaged UTF-8 is read as Windows-1252 if it has no other non-ASCII characters."""
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


def _wrong_kind(kind: str) -> TransferError:
    return refusal(f"The file is {kind}: choose the .json, .jsonl or .zip file that the other program has exported.")
