"""Reads conversations from a file: our own format, ChatGPT's export, or lists of messages. Knows no store.

`read` is all that others need; it finds out the format, and takes all of a file or nothing.
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from chatui import personas
from chatui.errors import SettingsError, TransferError
from chatui.store import chatgpt, checks
from chatui.store.checks import Draft, Origin, refusal, shown
from chatui.store.exporting import FORMAT, VERSION
from chatui.store.records import StoredMessage, Tree

TREE = TypeAdapter(Tree)
LARGEST_NUMBER = 2**63
"""What a column for whole numbers keeps."""
# Large exports come as conversations-000.json, conversations-001.json and so on.
IN_A_ZIP = re.compile(r"(?:.*/)?conversations(?:-\d+)?\.json")


def read(data: bytes, now: datetime | None = None) -> list[Tree]:
    """The conversations of a file; what has no time gets `now`, by default the present. Raises TransferError.

    Their ids are those of the file, or made up; a reply that was still being written is "interrupted".
    """
    moment = now or datetime.now(UTC)
    if len(data) > checks.MOST_BYTES:
        raise refusal(f"The file has {len(data):,} bytes; at most {checks.MOST_BYTES:,} are allowed.")
    files = _unzipped(data) if data.startswith((b"PK\x03\x04", b"PK\x05\x06")) else [data]
    return [tree for file in files for tree in _trees(_parsed(file), moment)]


def _unzipped(data: bytes) -> list[bytes]:
    if data.count(b"PK\x01\x02") > checks.MOST_FILES:
        raise refusal(f"The .zip has more than {checks.MOST_FILES:,} files.")
    room = checks.MOST_BYTES
    files = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                if not IN_A_ZIP.fullmatch(entry.filename):
                    continue
                # Other ways to compress may take gigabytes of memory before they give the first byte.
                if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise refusal(f"In the .zip {entry.filename} is compressed in an unusual way.")
                with archive.open(entry) as file:
                    files.append(file.read(room + 1))
                room -= len(files[-1])
                if room < 0:
                    raise refusal(f"The .zip unpacks to more than {checks.MOST_BYTES:,} bytes.")
    except TransferError:
        raise
    except Exception as error:  # zipfile lets through whatever a damaged file makes happen inside it
        raise refusal(f"The .zip cannot be read ({type(error).__name__}): it is damaged or has a password.") from None
    if not files:
        raise refusal("The .zip has no conversations.json.")
    return files


def _parsed(data: bytes) -> object:
    """The file's JSON; that of several lines as a list."""
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > checks.MOST_VALUES:
        raise refusal(f"The file has more than {checks.MOST_VALUES:,} values.")
    try:
        text = data.decode(json.detect_encoding(data), "surrogatepass")
    except UnicodeDecodeError as error:
        raise refusal(f"The file is no text: byte {error.start:,} is not {error.encoding.upper()}.") from None
    if not text.strip():
        raise refusal("The file is empty.")
    try:
        return _loaded(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and (lines := _lines(text)) is not None:
            return lines
        raise refusal(f"The file is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).") from None


def _lines(text: str) -> list[object] | None:
    """JSON Lines, or None where the first line is no JSON on its own. Raises TransferError for a later one."""
    values: list[object] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values.append(_loaded(line))
        except json.JSONDecodeError as error:
            if not values:
                return None
            raise refusal(f"Line {number} is not JSON: {error.msg} (column {error.colno}).") from None
    return values


def _loaded(text: str) -> object:
    """Raises JSONDecodeError, and TransferError for what Python cannot hold."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise refusal("The file has brackets within brackets too deep to read.") from None
    except ValueError:
        raise refusal("The file has a number with too many digits.") from None


def _trees(value: object, now: datetime) -> Iterator[Tree]:
    if isinstance(value, dict) and value.get("format") == FORMAT:
        yield from _numbered(_our_conversations(value), _ours)
        return
    if isinstance(value, dict):
        value = [[value]] if "role" in value else [value]
    if not isinstance(value, list):
        raise refusal(f"The file has no conversations (got {shown(value)}).")
    if value and isinstance(value[0], dict) and "role" in value[0]:
        value = [value]
    yield from _numbered(value, lambda item: _theirs(item, now))


def _numbered(items: list[Any], make: Callable[[Any], Tree]) -> Iterator[Tree]:
    for number, item in enumerate(items, 1):
        try:
            yield make(item)
        except TransferError as error:
            # "Conversation 3, message 'abc': ...", but "Conversation 3: its title ...".
            link = "," if error.message.startswith("message ") else ":"
            raise refusal(f"Conversation {number}{link} {error.message}") from None


def _theirs(item: object, now: datetime) -> Tree:
    if isinstance(item, dict) and "mapping" in item:
        return chatgpt.conversation(item, now)
    if isinstance(item, dict) and "messages" in item:
        title = item.get("title")
        return _plain(item["messages"], now, "" if title is None else checks.text(title, "its title"))
    if isinstance(item, list):
        return _plain(item, now, "")
    raise refusal(f"it is neither ours nor ChatGPT's nor a list of messages (got {shown(item)}).")


def _plain(messages: object, now: datetime, title: str) -> Tree:
    """A list of role/content messages; the system message becomes the persona's."""
    if not isinstance(messages, list):
        raise refusal("its messages are not a list.")
    checks.check_count(len(messages))
    prompt = ""
    drafts: list[Draft] = []
    for number, message in enumerate(messages, 1):
        where = f"message {number}"
        if not isinstance(message, dict):
            raise refusal(f"{where}: it is not an object with role and content.")
        role, content = message.get("role"), _content(message.get("content"), where)
        if role == "system":
            if number > 1:
                raise refusal(f"{where}: only the first message may have the role 'system'.")
            prompt = content
        elif role == "user" or role == "assistant":
            thought = next((value for name in ("reasoning_content", "reasoning") if (value := message.get(name))), "")
            reasoning = checks.text(thought, f"{where}: its reasoning")
            parent = drafts[-1].id if drafts else None
            time = now + timedelta(microseconds=number)
            drafts.append(Draft(str(number), parent, role, [content], [reasoning], time))
        else:
            raise refusal(f"{where}: its role is {shown(role)}; system, user and assistant are allowed.")
    return checks.tree(Origin(now, title, system_prompt=prompt), drafts, drafts[-1].id if drafts else None)


def _content(content: object, where: str) -> str:
    """The text of a message's content; a part that is no text is named in brackets."""
    if not isinstance(content, list):
        return checks.text(content, f"{where}: its content")
    lines = []
    for part in content:
        fields = part if isinstance(part, dict) else {"type": "text", "text": part}
        if fields.get("type") == "text":
            lines.append(checks.text(fields.get("text"), f"{where}: a part of its content"))
        else:
            kind = checks.text(fields.get("type"), f"{where}: the type of a part of its content")
            lines.append(f"[{kind.removesuffix('_url').removeprefix('input_')}]")
    return checks.text("\n".join(lines), f"{where}: its content")


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
