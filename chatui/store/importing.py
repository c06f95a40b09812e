"""Reads conversations from a file: our own format, or those of other programs, see formats. Knows no store.

`read` is all that others need; it finds out the format, gives what can be read, and says of the rest why it cannot.
"""

import io
import json
import logging
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from chatui import personas
from chatui.errors import SettingsError, TransferError
from chatui.store import checks, formats
from chatui.store.checks import refusal, shown
from chatui.store.exporting import FORMAT, VERSION
from chatui.store.formats import FORMATS, common
from chatui.store.records import StoredMessage, Tree

log = logging.getLogger(__name__)

TREE = TypeAdapter(Tree)
LARGEST_NUMBER = 2**63
"""What a column for whole numbers keeps."""
WRAPPERS = ("conversations", "chats", "data", "items", "history", "threads")
"""Names of the list of all conversations, where there is one around it."""
ENDS = (".json", ".jsonl", ".ndjson")
MOST_LEFT = 100
"""A file may have millions of values that are no conversations."""
_KNOWN = f"chatui, {', '.join(format.name for format in FORMATS)}"


@dataclass(frozen=True)
class Left:
    """A conversation, or a part of one, that did not come in: what it is called, and why, in a whole sentence."""

    title: str
    reason: str

    def __str__(self) -> str:
        """Both, on one line."""
        return f"{self.title}: {self.reason}"


@dataclass
class Source:
    """Conversations on their way in, one after the other.

    `done` of `total` have been looked at, None while that is not known. What did not come in is `left`, of which no
    more than MOST_LEFT are named and `unnamed` are only counted.
    """

    left: list[Left] = field(default_factory=list, init=False)
    unnamed: int = field(default=0, init=False)
    done: int = field(default=0, init=False)
    total: int | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[Tree]:
        """Raises TransferError where there is nothing that can be read at all."""
        raise NotImplementedError

    def stop(self) -> None:
        """Called in any thread: no more of them are wanted."""

    def leave(self, title: str, reason: str) -> None:
        """Note what did not come in."""
        if len(self.left) < MOST_LEFT:
            self.left.append(Left(title, reason))
        else:
            self.unnamed += 1


@dataclass
class Reading(Source):
    """The conversations of a file.

    Their ids are the same whenever the same conversation is read; a reply that was still being written is
    "interrupted". What has no time gets `now`.
    """

    data: bytes
    now: datetime
    _name: str = field(default="", init=False)
    _last: bool = field(default=True, init=False)
    _seen: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Tree]:
        if not is_zip(self.data):
            yield from self._trees(self._parsed(self.data))
            return
        files = _unzipped(self.data)
        recognised = False
        for number, (self._name, data) in enumerate(files.items(), 1):
            self._last = number == len(files)
            try:
                value = self._parsed(data)
                if len(files) > 1 and not _recognised(value):
                    continue
                recognised = True
                yield from self._trees(value)
            except TransferError as error:
                if len(files) == 1:
                    raise
                self.leave(self._name, error.message)
        if not recognised and not self.left:
            raise refusal(f"The .zip has no conversations in a format that is known: {_KNOWN}.")

    def _parsed(self, data: bytes) -> object:
        """The file's JSON; that of several lines as a list."""
        if sum(data.count(sign) for sign in (b",", b"[", b"{")) > checks.MOST_VALUES:
            raise refusal(f"The file has more than {checks.MOST_VALUES:,} values.")
        try:
            text = data.decode(json.detect_encoding(data), "surrogatepass")
        except UnicodeDecodeError as error:
            raise refusal(f"The file is no text: byte {error.start:,} is not {error.encoding.upper()}.") from None
        if not text.strip("\ufeff \t\r\n"):
            raise refusal("The file is empty.")
        try:
            return _loaded(text)
        except json.JSONDecodeError as error:
            if error.msg == "Extra data" and (lines := self._lines(text)) is not None:
                return lines
            raise refusal(f"The file is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None

    def _lines(self, text: str) -> list[object] | None:
        """JSON Lines, or None where the first line is no JSON on its own. A later one that is none is left."""
        values: list[object] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                values.append(_loaded(line))
            except (json.JSONDecodeError, TransferError) as error:
                if not values:
                    return None
                why = f"It is not JSON: {error.msg}." if isinstance(error, json.JSONDecodeError) else error.message
                self.leave(self._called(f"Line {number}"), why)
        return values

    def _trees(self, value: object) -> Iterator[Tree]:
        ours = isinstance(value, dict) and value.get("format") == FORMAT
        items = _our_conversations(value) if ours and isinstance(value, dict) else _items(value)
        self._seen += len(items)
        self.total = self._seen if self._last else None
        for number, item in enumerate(items, 1):
            self.done += 1
            title = self._called(f"“{title}”" if (title := common.title_of(item)) else f"Conversation {number}")
            skipped: list[str] = []
            try:
                yield _ours(item) if ours else _theirs(item, self.now, skipped)
            except TransferError as error:
                self.leave(title, _sentence(error.message))
            else:
                if skipped:
                    self.leave(title, _partly(skipped))

    def _called(self, what: str) -> str:
        return f"{self._name}, {what}" if self._name else what


def too_large(size: int) -> TransferError:
    """The error that says so of a file of so many bytes."""
    return refusal(f"The file has {size:,} bytes; at most {checks.MOST_BYTES:,} are allowed.")


def is_zip(data: bytes) -> bool:
    """Whether a file that begins so is a .zip."""
    return data.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def read(data: bytes, now: datetime | None = None) -> Reading:
    """The conversations of a file; what has no time gets `now`, by default the present. Raises TransferError."""
    if len(data) > checks.MOST_BYTES:
        raise too_large(len(data))
    return Reading(data, now or datetime.now(UTC))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _partly(skipped: list[str]) -> str:
    """What is said of a conversation that came in without some of its messages, or not as they were."""
    if len(skipped) == 1:
        return f"One of its messages could not be taken as it is: {skipped[0]}."
    return f"Some of its messages, {len(skipped):,}, could not be taken as they are; the first: {skipped[0]}."


def _unzipped(data: bytes) -> dict[str, bytes]:
    """The files of a .zip that may have conversations, by name."""
    if data.count(b"PK\x01\x02") > checks.MOST_FILES:
        raise refusal(f"The .zip has more than {checks.MOST_FILES:,} files.")
    room = checks.MOST_BYTES
    files = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in _wanted(archive.infolist()):
                # Other ways to compress may take gigabytes of memory before they give the first byte.
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise refusal(f"In the .zip {entry.filename} is compressed in an unusual way.")
                with archive.open(entry) as file:
                    files[entry.filename] = file.read(room + 1)
                room -= len(files[entry.filename])
                if room < 0:
                    raise refusal(f"The .zip unpacks to more than {checks.MOST_BYTES:,} bytes.")
    except TransferError:
        raise
    except Exception as error:  # zipfile lets through whatever a damaged file makes happen inside it
        raise refusal(f"The .zip cannot be read ({type(error).__name__}): it is damaged or has a password.") from None
    if not files:
        raise refusal("The .zip has no conversations: no file in it ends in .json or .jsonl.")
    return files


def _wanted(entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Those named conversations.json, conversations-000.json and so on, else all JSON."""
    found = [
        entry
        for entry in sorted(entries, key=lambda entry: entry.filename)
        if entry.filename.lower().endswith(ENDS) and not {"__MACOSX"} & set(PurePosixPath(entry.filename).parts)
    ]
    named = [entry for entry in found if PurePosixPath(entry.filename).name.startswith("conversations")]
    return named or found


def _loaded(text: str) -> object:
    """Raises JSONDecodeError, and TransferError for what Python cannot hold."""
    try:
        return json.loads(text.lstrip("\ufeff"))
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise refusal("The file has brackets within brackets too deep to read.") from None
    except ValueError:
        raise refusal("The file has a number with too many digits.") from None


def _recognised(value: object) -> bool:
    """Whether a file has conversations at all."""
    try:
        items = _items(value)
    except TransferError:
        return False
    ours = isinstance(value, dict) and value.get("format") == FORMAT
    return ours or any(formats.find(item) is not None for item in items[:100])


def _items(value: object) -> list[Any]:
    """The conversations of a file from elsewhere, each as its program wrote it. Raises TransferError."""
    if formats.find(value) is not None:
        return [value]
    if isinstance(value, dict):
        value = next((found for name in WRAPPERS if isinstance(found := value.get(name), list)), [value])
    if not isinstance(value, list):
        raise refusal(f"The file has no conversations in a format that is known: {_KNOWN}.")
    return value


def _theirs(item: object, now: datetime, skipped: list[str]) -> Tree:
    format = formats.find(item)
    if format is None:
        raise refusal(f"it is in no format that is known: {_KNOWN}.")
    try:
        return format.conversation(item, now, skipped)
    except TransferError:
        raise
    except Exception:  # of other programs' files nobody knows all; one must not refuse the others
        log.exception("a conversation of %s could not be read", format.name)
        raise refusal(f"it looks like one of {format.name}, but is written otherwise than those.") from None


def _our_conversations(value: dict[str, Any]) -> list[Any]:
    version, conversations = value.get("version"), value.get("conversations")
    if type(version) is not int or version < 1:
        raise refusal(f"The file's version is {shown(version)}, which there is not.")
    if version > VERSION:
        raise refusal(f"The file is from a newer chatui: its version is {version}, and this one reads up to {VERSION}.")
    if not isinstance(conversations, list):
        raise refusal("The file's conversations are not a list.")
    return conversations


def _ours(item: object) -> Tree:
    try:
        tree = TREE.validate_json(json.dumps(_clean(item)), strict=True)
    except ValidationError as error:
        raise _invalid(error, item) from None
    checks.check_count(len(tree.messages))
    conversation = tree.conversation
    try:
        personas.checked(personas.Persona(name="any", avatar=conversation.persona.avatar))
    except SettingsError as error:
        raise refusal(f"its persona: {error.message}") from None
    conversation = replace(
        conversation,
        title=checks.one_line(conversation.title),
        created=checks.checked_time(conversation.created, "its created"),
        updated=checks.checked_time(conversation.updated, "its updated"),
    )
    ids = {message.id for message in tree.messages}
    seen: set[str] = set()
    messages = []
    for message in tree.messages:
        try:
            messages.append(_our_message(message, conversation.id, ids, seen))
        except TransferError as error:
            raise refusal(f"message {shown(message.id)}: {error.message}") from None
        seen.add(message.id)
    if conversation.leaf is not None and conversation.leaf not in seen:
        raise refusal(f"its leaf {shown(conversation.leaf)} is not there.")
    return Tree(conversation, tuple(messages))


def _our_message(message: StoredMessage, conversation: str, ids: set[str], seen: set[str]) -> StoredMessage:
    if message.id in seen:
        raise refusal("its id is that of another message too.")
    if message.parent is not None and message.parent not in seen:
        wrong = "does not come before it" if message.parent in ids else "is not there"
        raise refusal(f"its parent {shown(message.parent)} {wrong}.")
    if message.conversation != conversation:
        raise refusal(f"its conversation {shown(message.conversation)} is another one.")
    if message.role == "system":
        raise refusal("its role is 'system'; user and assistant are allowed.")
    if not ids.issuperset(message.versions):
        raise refusal("one of its versions is not there.")
    created = checks.checked_time(message.created, "its created")
    return replace(message, created=created, state="interrupted" if message.state == "running" else message.state)


def _clean(value: Any, depth: int = 0) -> Any:
    """JSON whose texts and numbers can be kept. Raises TransferError."""
    if depth > checks.DEEPEST:
        raise refusal("it has brackets within brackets too deep to keep.")
    if isinstance(value, str):
        return checks.text(value, "one of its texts")
    if isinstance(value, dict):
        return {checks.text(key, "a name"): _clean(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner, depth + 1) for inner in value]
    too_large = isinstance(value, int) and not -LARGEST_NUMBER <= value < LARGEST_NUMBER
    if too_large or (isinstance(value, float) and not math.isfinite(value)):
        raise refusal(f"it has a number that cannot be kept ({shown(value)}).")
    return value


def _invalid(error: ValidationError, item: Any) -> TransferError:
    """The first problem, with the message that has it."""
    problem = error.errors(include_url=False)[0]
    path = list(problem["loc"])
    where = ""
    if path[:1] == ["messages"] and len(path) > 1:
        place = int(path[1])
        message = item["messages"][place]
        id = message.get("id") if isinstance(message, dict) else None
        where = f"message {shown(id) if isinstance(id, str) else place + 1}: "
        path = path[2:]
    name = ".".join(str(part) for part in path)
    got = "" if problem["type"] == "missing" else f" (got {shown(problem['input'])})"
    return refusal(f"{where}{name}{': ' if name else ''}{problem['msg']}{got}.")
