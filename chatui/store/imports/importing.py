"""Reads conversations from a file in our own format or in one of other programs, see formats. Knows no store.

read() detects the format, yields the conversations that can be read, and lists the others with their reasons.
"""

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from chatui import personas
from chatui.errors import SettingsError, TransferError
from chatui.i18n import N_
from chatui.store import formats, import_limits
from chatui.store.exporting import FORMAT, TREE, VERSION
from chatui.store.formats import FORMATS, common
from chatui.store.import_limits import refusal, short_repr
from chatui.store.imports import archives, lenient_json
from chatui.store.imports.archives import SkippedItem
from chatui.store.imports.lenient_json import WRAPPERS
from chatui.store.records import StoredMessage, Tree
from chatui.store.rows import MAX_TITLE_LENGTH
from chatui.text_cleaning import one_line

log = logging.getLogger(__name__)

MAX_NUMBER = 2**63
"""The limit of an integer column."""
SESSION = "session:"
"""The prefix of the names of conversations in a full export of Chatbox."""
MAX_SKIPPED = 100
"""The maximum of listed items: a file may have millions of values that are not conversations."""
_KNOWN = f"chatui, {', '.join(format.name for format in FORMATS)}"


@dataclass
class ImportSource:
    """An iterable of conversations to import.

    `done` of `total` have been read; `total` is None while it is unknown. `skipped` lists at most MAX_SKIPPED items
    that were not imported; `unlisted` counts the others.
    """

    skipped: list[SkippedItem] = field(default_factory=list, init=False)
    unlisted: int = field(default=0, init=False)
    done: int = field(default=0, init=False)
    total: int | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[Tree]:
        """Yield the conversations; this base class has none. Raises TransferError if nothing can be read."""
        return iter(())

    def stop(self) -> None:
        """End the iteration early; may be called in any thread."""

    def skip(self, title: str, reason: str, file: str = "") -> None:
        """List something that was not imported."""
        if len(self.skipped) < MAX_SKIPPED:
            self.skipped.append(SkippedItem(title, reason, file))
        else:
            self.unlisted += 1


@dataclass
class FileSource(ImportSource):
    """The conversations of a file.

    Reading a conversation again gives the same ids. A reply that was running is "interrupted". `now` is the time of
    conversations without one.
    """

    data: bytes
    now: datetime
    _file_name: str = field(default="", init=False)
    _is_last_file: bool = field(default=True, init=False)
    _found_count: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Tree]:
        """Raises TransferError if nothing of the file can be read."""
        not_unpacked: list[SkippedItem] = []
        files = archives.unpacked(self.data, not_unpacked)
        for item in not_unpacked:
            self.skip(item.title, item.reason)
        recognised = False
        for number, (self._file_name, data) in enumerate(files.items(), 1):
            self._is_last_file = number == len(files)
            not_parsed: list[SkippedItem] = []
            try:
                value = lenient_json.parse(data, _is_recognised, not_parsed)
                if len(files) > 1 and not _is_recognised(value):
                    continue
                recognised = True
                yield from self._trees(value)
            except TransferError as error:
                if len(files) == 1 and not not_unpacked:
                    raise
                self.skip(self._file_name, error.message)
            for item in not_parsed:
                self.skip(item.title, item.reason, self._file_name)
        if not recognised and not self.skipped:
            raise refusal(f"The .zip has no conversations in a format that is known: {_KNOWN}.")

    def _trees(self, value: object) -> Iterator[Tree]:
        """Yield the conversations of one JSON file."""
        is_own = isinstance(value, dict) and value.get("format") == FORMAT
        items = _own_conversations(value) if is_own and isinstance(value, dict) else _foreign_conversations(value)
        self._found_count += len(items)
        self.total = self._found_count if self._is_last_file else None
        for number, item in enumerate(items, 1):
            self.done += 1
            title = f"“{title}”" if (title := common.find_title(item)) else N_(f"Conversation {number:,}")
            skipped: list[str] = []
            try:
                yield _own_tree(item) if is_own else _foreign_tree(item, self.now, skipped)
            except TransferError as error:
                self.skip(title, error.message, self._file_name)
            else:
                if skipped:
                    self.skip(title, _partly_imported(skipped), self._file_name)


def too_large(size: int) -> TransferError:
    """The error for a file of `size` bytes."""
    return refusal(f"The file has {size:,} bytes; at most {import_limits.MAX_BYTES:,} are allowed.")


def read(data: bytes, now: datetime | None = None) -> FileSource:
    """The conversations of a file; those without a time get `now`, by default the present. Raises TransferError."""
    if len(data) > import_limits.MAX_BYTES:
        raise too_large(len(data))
    return FileSource(data, now or datetime.now(UTC))


def _partly_imported(skipped: list[str]) -> str:
    """The reason for a conversation that was imported without some messages, or with changed ones."""
    if len(skipped) == 1:
        return N_(f"One of its messages could not be taken as it is: {skipped[0]}.")
    return N_(f"Some of its messages, {len(skipped):,}, could not be taken as they are; the first: {skipped[0]}.")


def _is_recognised(value: object) -> bool:
    """Whether a value has conversations in a known format."""
    try:
        items = _foreign_conversations(value)
    except TransferError:
        return False
    is_own = isinstance(value, dict) and value.get("format") == FORMAT
    return is_own or any(formats.find(item) is not None for item in items[:100])


def _foreign_conversations(value: object) -> list[Any]:
    """The conversations in a file of another program, as JSON values of its format. Raises TransferError."""
    if formats.find(value) is not None:
        return [value]
    while isinstance(value, dict) and formats.find(value) is None:
        if sessions := [one for key, one in value.items() if key.startswith(SESSION)]:
            return sessions
        value = next((inner for name in WRAPPERS if isinstance(inner := value.get(name), list | dict)), [value])
    if not isinstance(value, list):
        raise refusal(f"The file has no conversations in a format that is known: {_KNOWN}.")
    return [item for each in value for item in (each if _is_nested_list(each) else [each])]


def _is_nested_list(value: object) -> bool:
    """Whether this is a list of conversations within the list of all."""
    return isinstance(value, list) and formats.find(value) is None and any(formats.find(one) for one in value[:100])


def _foreign_tree(item: object, now: datetime, skipped: list[str]) -> Tree:
    """A conversation of another program. Raises TransferError."""
    format = formats.find(item)
    if format is None:
        raise refusal("It is in no format that is known.")
    try:
        return format.conversation(item, now, skipped)
    except TransferError:
        raise
    except Exception:  # an unknown variant of a format must not end the import of the others
        log.exception("a conversation of %s could not be read", format.name)
        raise refusal(f"It looks like one of {format.name}, but is written otherwise than those.") from None


def _own_conversations(value: dict[str, Any]) -> list[Any]:
    """The conversations in a file of our own format, as JSON values. Raises TransferError."""
    version, conversations = value.get("version"), value.get("conversations")
    if type(version) is not int or version < 1:
        raise refusal(f"The file's version is {short_repr(version)}, which there is not.")
    if version > VERSION:
        raise refusal(f"The file is from a newer chatui: its version is {version}, and this one reads up to {VERSION}.")
    if not isinstance(conversations, list):
        raise refusal("The file's conversations are not a list.")
    return conversations


def _own_tree(item: object) -> Tree:
    """A conversation of our own format. Raises TransferError."""
    try:
        tree = TREE.validate_json(json.dumps(_clean(item)), strict=True)
    except ValidationError as error:
        raise _validation_error(error, item) from None
    import_limits.check_count(len(tree.messages))
    conversation = tree.conversation
    try:
        personas.validate(personas.Persona(name="any", avatar=conversation.persona.avatar))
    except SettingsError as error:
        raise refusal(f"Its persona: {error.message}") from None
    conversation = replace(
        conversation,
        title=one_line(conversation.title, MAX_TITLE_LENGTH),
        created=import_limits.validate_time(conversation.created, N_("Its time “created”")),
        updated=import_limits.validate_time(conversation.updated, N_("Its time “updated”")),
    )
    ids = {message.id for message in tree.messages}
    seen: set[str] = set()
    messages = []
    for message in tree.messages:
        try:
            messages.append(_own_message(message, conversation.id, ids, seen))
        except TransferError as error:
            where = short_repr(message.id)
            raise refusal(f"Message {where}: {error.message}") from None
        seen.add(message.id)
    if conversation.leaf is not None and conversation.leaf not in seen:
        raise refusal(f"Its leaf {short_repr(conversation.leaf)} is not there.")
    return Tree(conversation, tuple(messages))


def _own_message(message: StoredMessage, conversation: str, ids: set[str], seen: set[str]) -> StoredMessage:
    """A checked message. `ids` are those of all messages, `seen` those of the ones before it. Raises TransferError."""
    if message.id in seen:
        raise refusal("Its id is that of another message too.")
    if message.parent is not None and message.parent not in seen:
        if message.parent in ids:
            raise refusal(f"Its parent {short_repr(message.parent)} does not come before it.")
        raise refusal(f"Its parent {short_repr(message.parent)} is not there.")
    if message.conversation != conversation:
        raise refusal(f"Its conversation {short_repr(message.conversation)} is another one.")
    if message.role == "system":
        raise refusal("Its role is “system”; user and assistant are allowed.")
    if not ids.issuperset(message.versions):
        raise refusal("One of its versions is not there.")
    created = import_limits.validate_time(message.created, N_("Its time “created”"))
    return replace(message, created=created, state="interrupted" if message.state == "running" else message.state)


def _clean(value: Any, depth: int = 0) -> Any:
    """A JSON value with cleaned texts. Raises TransferError if it cannot be stored."""
    if depth > import_limits.MAX_DEPTH:
        raise refusal("It has brackets within brackets too deep to keep.")
    if isinstance(value, str):
        return import_limits.parse_text(value, N_("One of its texts"))
    if isinstance(value, dict):
        return {
            import_limits.parse_text(key, N_("One of its names")): _clean(inner, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_clean(inner, depth + 1) for inner in value]
    too_large = isinstance(value, int) and not -MAX_NUMBER <= value < MAX_NUMBER
    if too_large or (isinstance(value, float) and not math.isfinite(value)):
        raise refusal(f"It has a number that cannot be kept ({short_repr(value)}).")
    return value


def _validation_error(error: ValidationError, item: Any) -> TransferError:
    """The first problem, with the message that has it."""
    problem = error.errors(include_url=False)[0]
    path = list(problem["loc"])
    where: str | int | None = None
    if path[:1] == ["messages"] and len(path) > 1:
        index = int(path[1])
        message = item["messages"][index]
        id = message.get("id") if isinstance(message, dict) else None
        where = short_repr(id) if isinstance(id, str) else index + 1
        path = path[2:]
    name = ".".join(str(part) for part in path)
    got = short_repr(problem["input"])
    if problem["type"] == "missing":
        result = refusal(f"Its “{name}” is missing.")
    else:
        result = refusal(f"Its “{name}” cannot be {got}.") if name else refusal(f"It cannot be {got}.")
    return result if where is None else refusal(f"Message {where}: {result.message}")
