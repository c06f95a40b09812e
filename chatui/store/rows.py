"""Converts rows to records and holds the queries that the modules of the store share, each for one owner."""

import base64
import hashlib
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, delete, func, insert, literal, select

from chatui.errors import NotFoundError
from chatui.store import persona_files
from chatui.store.persona_files import StoredPersona
from chatui.store.records import Conversation, ConversationInfo, Path, StoredMessage
from chatui.store.tables import Time, conversations, inspections, messages
from chatui.text_cleaning import one_line

FIRST_WORDS_LIMIT = 60
MAX_TITLE_LENGTH = 200
UNTITLED = "New chat"
RUNNING_COLUMNS = ("heartbeat", "lease", "stop_requested")
"""Columns that are set for running replies only."""
INFO = tuple(field.name for field in fields(ConversationInfo))
INFO_COLUMNS = tuple(conversations.c[name] for name in INFO)
PERSONA_COLUMNS = (conversations.c.persona, conversations.c.card)
FIRST_BATCH, MAX_BATCH = 10, 500
"""Messages of a path that one statement reads: few at first, as they may be long, and then twice as many each time."""


def new_id() -> str:
    """A random id that cannot be guessed."""
    return secrets.token_urlsafe(16)


def derived_id(*parts: str) -> str:
    """An id in the format of new_id() that is the same for the same parts."""
    digest = hashlib.sha256("\0".join(f"{len(part)} {part}" for part in parts).encode(errors="replace")).digest()
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()


def now() -> datetime:
    """The time of this computer, in UTC."""
    return datetime.now(UTC)


def database_time(connection: Connection) -> datetime:
    """The time of the database server, which all chatui servers share; for SQLite the time of this computer."""
    if connection.dialect.name == "sqlite":
        return now()
    time: datetime = connection.execute(select(func.clock_timestamp(type_=Time()))).scalar_one()
    return time


def first_words(text: str, limit: int = FIRST_WORDS_LIMIT) -> str:
    """The start of a text on one line, cut between words; UNTITLED for an empty text."""
    line = one_line(text)
    if len(line) <= limit:
        return line or UNTITLED
    cut = line[: limit - 1]
    if not line[limit - 1].isspace() and " " in cut:
        cut = cut.rpartition(" ")[0]
    return cut.rstrip() + "…"


def info_of(row: Row[Any]) -> ConversationInfo:
    """Convert the row of a conversation."""
    return ConversationInfo(**{name: getattr(row, name) for name in INFO})


def message_of(row: Row[Any], versions: tuple[str, ...]) -> StoredMessage:
    """Convert the row of a message; `versions` are the ids of all its versions."""
    return StoredMessage(
        id=row.id,
        conversation=row.conversation,
        parent=row.parent,
        role=row.role,
        content=row.content,
        created=row.created,
        state=row.state,
        reasoning=row.reasoning,
        author=row.author,
        finish=row.finish,
        dropped=row.dropped,
        error=row.error,
        rating=row.rating,
        note=row.note,
        versions=versions,
    )


def select_conversations(owner: str, *columns: Any) -> Select[Any]:
    """Select the owner's conversations that are not deleted: the columns for info_of() and more `columns`."""
    return select(*INFO_COLUMNS, *columns).where(conversations.c.owner == owner, conversations.c.deleted.is_(None))


def find_conversation(connection: Connection, owner: str, id: str, *columns: Any, lock: bool = False) -> Row[Any]:
    """The row of a conversation with more `columns`, for update with `lock`. Raises NotFoundError."""
    statement = select_conversations(owner, *columns).where(conversations.c.id == id)
    row = connection.execute(statement.with_for_update() if lock else statement).first()
    if row is None:
        raise NotFoundError("conversation")
    return row


def load_conversation(connection: Connection, owner: str, id: str) -> Conversation:
    """A conversation with its persona. Raises NotFoundError."""
    row = find_conversation(connection, owner, id, *PERSONA_COLUMNS)
    (persona,) = persona_files.load_personas(connection, owner, [row])
    return Conversation(**vars(info_of(row)), persona=persona)


def find_message(connection: Connection, owner: str, id: str, *columns: Any) -> Row[Any]:
    """The row of a message, with all columns by default. Raises NotFoundError, also if its conversation is deleted."""
    joined = messages.join(
        conversations,
        and_(conversations.c.owner == owner, conversations.c.id == messages.c.conversation),
    )
    statement = (
        select(*(columns or messages.c))
        .select_from(joined)
        .where(messages.c.owner == owner, messages.c.id == id, conversations.c.deleted.is_(None))
    )
    row = connection.execute(statement).first()
    if row is None:
        raise NotFoundError("message")
    return row


def load_messages(connection: Connection, owner: str, conversation: str) -> list[StoredMessage]:
    """All messages of a conversation, each after its parent and after its older versions."""
    statement = (
        select(messages)
        .where(messages.c.owner == owner, messages.c.conversation == conversation)
        .order_by(messages.c.seq)
    )
    rows = connection.execute(statement).all()
    versions = _versions(rows)
    return [message_of(row, versions[row.parent, row.role]) for row in rows]


def path_end(
    connection: Connection,
    owner: str,
    conversation: str,
    leaf: str | None,
    max_messages: int | None = None,
    max_size: int | None = None,
    size: Callable[[StoredMessage], int] = lambda message: len(message.content),
) -> Path:
    """The end of the path to `leaf`: at most `max_messages`, with a total `size` of `max_size`, but always the leaf.

    None is no limit. Reads no other messages of the conversation. Raises NotFoundError if it has no such message.
    """
    ids = _path_ids(connection, owner, conversation, leaf)
    loaded: list[StoredMessage] = []
    unread, batch_size = ids[:max_messages], FIRST_BATCH
    remaining = max_size
    while unread:
        batch, unread, batch_size = unread[:batch_size], unread[batch_size:], min(2 * batch_size, MAX_BATCH)
        for message in _load_path_messages(connection, owner, conversation, batch):
            remaining = None if remaining is None else remaining - size(message)
            if loaded and remaining is not None and remaining < 0:
                return Path(tuple(reversed(loaded)), len(ids) - len(loaded))
            loaded.append(message)
    return Path(tuple(reversed(loaded)), len(ids) - len(loaded))


def _path_ids(connection: Connection, owner: str, conversation: str, leaf: str | None) -> Sequence[str]:
    """The ids of the path from `leaf` to the root."""
    if leaf is None:
        return ()
    table = messages.c
    start = select(table.id, table.parent, literal(0).label("steps"))
    path = start.where(table.owner == owner, table.conversation == conversation, table.id == leaf).cte("path", True)
    parents = select(table.id, table.parent, path.c.steps + 1).select_from(
        path.join(messages, and_(table.owner == owner, table.id == path.c.parent))
    )
    path = path.union_all(parents)
    ids = connection.scalars(select(path.c.id).order_by(path.c.steps)).all()
    if not ids:
        raise NotFoundError("message")
    return ids


def _load_path_messages(
    connection: Connection, owner: str, conversation: str, ids: Sequence[str]
) -> Iterator[StoredMessage]:
    """These messages of one conversation, in the order of `ids`."""
    table = messages.c
    selected = select(messages).where(table.owner == owner, table.id.in_(ids))
    rows = {row.id: row for row in connection.execute(selected)}
    siblings = select(table.id, table.parent, table.role).where(table.owner == owner)
    parents = [row.parent for row in rows.values() if row.parent is not None]
    versions = _versions(connection.execute(siblings.where(table.parent.in_(parents)).order_by(table.seq)).all())
    if len(parents) < len(rows):
        roots = siblings.where(table.conversation == conversation, table.parent.is_(None)).order_by(table.seq)
        versions |= _versions(connection.execute(roots).all())
    for id in ids:
        yield message_of(rows[id], versions[rows[id].parent, rows[id].role])


def _versions(rows: Sequence[Any]) -> dict[tuple[str | None, str], tuple[str, ...]]:
    """The ids of the messages by parent and role. All versions share one tuple, so memory stays linear."""
    ids = defaultdict(list)
    for row in rows:
        ids[row.parent, row.role].append(row.id)
    return {parent_and_role: tuple(versions) for parent_and_role, versions in ids.items()}


def path_to(tree: Sequence[StoredMessage], leaf: str | None) -> tuple[StoredMessage, ...]:
    """The messages from the root to `leaf`, () for None. Raises NotFoundError if the tree has no such message."""
    by_id = {message.id: message for message in tree}
    path = []
    while leaf is not None:
        if leaf not in by_id:
            raise NotFoundError("message")
        path.append(by_id[leaf])
        leaf = by_id[leaf].parent
    return tuple(reversed(path))


def newest_leaf(connection: Connection, owner: str, message: str) -> str:
    """The newest descendant of a message, which is always a leaf; the message itself if it has none."""
    table = messages.c
    subtree = select(table.id, table.seq).where(table.owner == owner, table.id == message).cte("subtree", True)
    children = select(table.id, table.seq).select_from(
        subtree.join(messages, and_(table.owner == owner, table.parent == subtree.c.id))
    )
    subtree = subtree.union_all(children)
    newest = connection.scalar(select(subtree.c.id).order_by(subtree.c.seq.desc()).limit(1))
    return newest or message


def displayed_size(message: StoredMessage) -> int:
    """The number of characters of a message that the page shows."""
    return len(message.content) + len(message.reasoning)


def batches(messages: Iterable[StoredMessage], max_messages: int, max_characters: int) -> Iterator[list[StoredMessage]]:
    """Split messages into batches within both limits. A longer message is a batch of its own; yields at least one."""
    batch: list[StoredMessage] = []
    remaining = max_characters
    for message in messages:
        remaining -= displayed_size(message)
        if batch and (len(batch) == max_messages or remaining < 0):
            yield batch
            batch, remaining = [], max_characters - displayed_size(message)
        batch.append(message)
    yield batch


def insert_conversation(
    connection: Connection,
    owner: str,
    conversation: ConversationInfo,
    persona: StoredPersona,
    size: int,
    arriving: datetime | None = None,
) -> None:
    """Insert the row of a conversation and its persona's card; `size` is in bytes, with the first messages.

    With `arriving`, the time when its import started, it is hidden like a deleted one.
    """
    persona_files.save(connection, owner, persona)
    values = {name: getattr(conversation, name) for name in INFO} | persona.columns
    hidden = {"deleted": arriving, "arriving": arriving}
    connection.execute(insert(conversations).values(owner=owner, size=size, **hidden, **values))


def insert_messages(
    connection: Connection, owner: str, added: Sequence[StoredMessage], lease: str | None = None
) -> None:
    """Insert messages, each after its parent. Running ones get the `lease` of the server that writes them."""
    names = [column.name for column in messages.c if column.name not in ("seq", "owner", *RUNNING_COLUMNS)]
    running = {"heartbeat": database_time(connection), "lease": lease}
    rows = [
        {name: getattr(message, name) for name in names}
        | {"owner": owner, **dict.fromkeys(RUNNING_COLUMNS), **(running if message.state == "running" else {})}
        for message in added
    ]
    if rows:
        connection.execute(insert(messages), rows)


def remove_conversation(connection: Connection, owner: str, id: str) -> None:
    """Delete the rows of a conversation. Its persona's card may have other users, see persona_files.remove_unused()."""
    of_conversation = and_(messages.c.owner == owner, messages.c.conversation == id)
    inspected = inspections.c.message.in_(select(messages.c.id).where(of_conversation))
    connection.execute(delete(inspections).where(inspections.c.owner == owner, inspected))
    connection.execute(delete(messages).where(of_conversation))
    connection.execute(delete(conversations).where(conversations.c.owner == owner, conversations.c.id == id))


def copy_inspections(connection: Connection, owner: str, copies: Mapping[str, StoredMessage]) -> None:
    """Copy the inspections of messages to their `copies`, which are given by the ids of the originals."""
    originals = and_(inspections.c.owner == owner, inspections.c.message.in_(list(copies)))
    rows = connection.execute(select(inspections).where(originals)).mappings().all()
    if rows:
        connection.execute(insert(inspections), [{**row, "message": copies[row["message"]].id} for row in rows])


def with_fresh_ids(
    conversation: ConversationInfo, tree: Sequence[StoredMessage]
) -> tuple[ConversationInfo, list[StoredMessage]]:
    """Copy a conversation with new ids. Raises KeyError if a parent does not come first, or the leaf is missing."""
    conversation_id = new_id()
    ids: dict[str, str] = {}
    copies = []
    for message in tree:
        parent = None if message.parent is None else ids[message.parent]
        ids[message.id] = new_id()
        copies.append(replace(message, id=ids[message.id], conversation=conversation_id, parent=parent))
    leaf = None if conversation.leaf is None else ids[conversation.leaf]
    return replace(conversation, id=conversation_id, leaf=leaf), copies
