"""Between rows and records, and what several queries have in common. Every function here asks for the owner."""

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
NAMELESS = "New chat"
OF_RUNNING = ("heartbeat", "lease", "stop_requested")
"""Columns that say something of running replies only."""
INFO = tuple(field.name for field in fields(ConversationInfo))
INFO_COLUMNS = tuple(conversations.c[name] for name in INFO)
PERSONA_COLUMNS = (conversations.c.persona, conversations.c.card)
READ_AT_FIRST, READ_AT_ONCE = 10, 500
"""Messages of a path that are read with one statement: few at first, as they may be long."""


def new_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_urlsafe(16)


def derived_id(*parts: str) -> str:
    """An id that looks like any other, and is the same for the same parts."""
    digest = hashlib.sha256("\0".join(f"{len(part)} {part}" for part in parts).encode(errors="replace")).digest()
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def clock(connection: Connection) -> datetime:
    """The time by the clock that all servers of this database share: its own, or for SQLite this computer's."""
    if connection.dialect.name == "sqlite":
        return now()
    moment: datetime = connection.execute(select(func.clock_timestamp(type_=Time()))).scalar_one()
    return moment


def first_words(text: str, limit: int = FIRST_WORDS_LIMIT) -> str:
    """The beginning of a text on one line, cut at a word."""
    line = one_line(text)
    if len(line) <= limit:
        return line or NAMELESS
    cut = line[: limit - 1]
    if not line[limit - 1].isspace() and " " in cut:
        cut = cut.rpartition(" ")[0]
    return cut.rstrip() + "…"


def info_of(row: Row[Any]) -> ConversationInfo:
    """A conversation from its row, without its persona."""
    return ConversationInfo(**{name: getattr(row, name) for name in INFO})


def message_of(row: Row[Any], versions: tuple[str, ...]) -> StoredMessage:
    """A message from its row."""
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
        error=row.error,
        rating=row.rating,
        note=row.note,
        versions=versions,
    )


def there(owner: str, *more: Any) -> Select[Any]:
    """The owner's conversations that are not deleted: what info_of() needs of them, and `more` columns."""
    return select(*INFO_COLUMNS, *more).where(conversations.c.owner == owner, conversations.c.deleted.is_(None))


def find_conversation(connection: Connection, owner: str, id: str, *more: Any, change: bool = False) -> Row[Any]:
    """Its row with `more` columns, locked where it is about to change. Raises NotFoundError."""
    statement = there(owner, *more).where(conversations.c.id == id)
    row = connection.execute(statement.with_for_update() if change else statement).first()
    if row is None:
        raise NotFoundError("conversation")
    return row


def whole_conversation(connection: Connection, owner: str, id: str) -> Conversation:
    """With its persona. Raises NotFoundError."""
    row = find_conversation(connection, owner, id, *PERSONA_COLUMNS)
    (persona,) = persona_files.whole(connection, owner, [row])
    return Conversation(**vars(info_of(row)), persona=persona)


def find_message(connection: Connection, owner: str, id: str, *columns: Any) -> Row[Any]:
    """Columns of a message, all by default, where its conversation is not deleted. Raises NotFoundError."""
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


def whole_tree(connection: Connection, owner: str, conversation: str) -> list[StoredMessage]:
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
    most: int | None = None,
    room: int | None = None,
    size: Callable[[StoredMessage], int] = lambda message: len(message.content),
) -> Path:
    """The end of the path to `leaf`: at most so many messages, and of such a `size` together, but always the leaf.

    None is no limit. Nothing else of the conversation is read. Raises NotFoundError where it has no such message.
    """
    ids = _ids_up_from(connection, owner, conversation, leaf)
    found: list[StoredMessage] = []
    wanted, at_once = ids[:most], READ_AT_FIRST
    while wanted:
        some, wanted, at_once = wanted[:at_once], wanted[at_once:], min(2 * at_once, READ_AT_ONCE)
        for message in _in_order(connection, owner, conversation, some):
            room = None if room is None else room - size(message)
            if found and room is not None and room < 0:
                return Path(tuple(reversed(found)), len(ids) - len(found))
            found.append(message)
    return Path(tuple(reversed(found)), len(ids) - len(found))


def _ids_up_from(connection: Connection, owner: str, conversation: str, leaf: str | None) -> Sequence[str]:
    """The ids of the path, the leaf's first."""
    if leaf is None:
        return ()
    table = messages.c
    start = select(table.id, table.parent, literal(0).label("steps"))
    way = start.where(table.owner == owner, table.conversation == conversation, table.id == leaf).cte("way", True)
    above = select(table.id, table.parent, way.c.steps + 1).select_from(
        way.join(messages, and_(table.owner == owner, table.id == way.c.parent))
    )
    way = way.union_all(above)
    ids = connection.scalars(select(way.c.id).order_by(way.c.steps)).all()
    if not ids:
        raise NotFoundError("message")
    return ids


def _in_order(connection: Connection, owner: str, conversation: str, ids: Sequence[str]) -> Iterator[StoredMessage]:
    """These messages of one conversation."""
    table = messages.c
    mine = select(messages).where(table.owner == owner, table.id.in_(ids))
    rows = {row.id: row for row in connection.execute(mine)}
    beside = select(table.id, table.parent, table.role).where(table.owner == owner)
    parents = [row.parent for row in rows.values() if row.parent is not None]
    versions = _versions(connection.execute(beside.where(table.parent.in_(parents)).order_by(table.seq)).all())
    if len(parents) < len(rows):
        roots = beside.where(table.conversation == conversation, table.parent.is_(None)).order_by(table.seq)
        versions |= _versions(connection.execute(roots).all())
    for id in ids:
        yield message_of(rows[id], versions[rows[id].parent, rows[id].role])


def _versions(rows: Sequence[Any]) -> dict[tuple[str | None, str], tuple[str, ...]]:
    """The ids of the messages with the same parent and role: one tuple for all of them, or it would be quadratic."""
    ids = defaultdict(list)
    for row in rows:
        ids[row.parent, row.role].append(row.id)
    return {place: tuple(versions) for place, versions in ids.items()}


def path_to(tree: Sequence[StoredMessage], leaf: str | None) -> tuple[StoredMessage, ...]:
    """From the root to `leaf`, () for None. Raises NotFoundError where the tree has no such message."""
    by_id = {message.id: message for message in tree}
    path = []
    while leaf is not None:
        if leaf not in by_id:
            raise NotFoundError("message")
        path.append(by_id[leaf])
        leaf = by_id[leaf].parent
    return tuple(reversed(path))


def newest_leaf(connection: Connection, owner: str, message: str) -> str:
    """The newest of the messages below this one, which no other can be below; itself where there is none."""
    table = messages.c
    below = select(table.id, table.seq).where(table.owner == owner, table.id == message).cte("below", True)
    next_ones = select(table.id, table.seq).select_from(
        below.join(messages, and_(table.owner == owner, table.parent == below.c.id))
    )
    below = below.union_all(next_ones)
    newest = connection.scalar(select(below.c.id).order_by(below.c.seq.desc()).limit(1))
    return newest or message


def shown_size(message: StoredMessage) -> int:
    """The characters that a page shows of a message."""
    return len(message.content) + len(message.reasoning)


def pieces(messages: Iterable[StoredMessage], most: int, characters: int) -> Iterator[list[StoredMessage]]:
    """The messages, a few at a time: at most so many, and of so many characters together or one alone."""
    piece: list[StoredMessage] = []
    room = characters
    for message in messages:
        room -= shown_size(message)
        if piece and (len(piece) == most or room < 0):
            yield piece
            piece, room = [], characters - shown_size(message)
        piece.append(message)
    yield piece


def insert_conversation(
    connection: Connection,
    owner: str,
    conversation: ConversationInfo,
    persona: StoredPersona,
    size: int,
    arriving: datetime | None = None,
) -> None:
    """Add a conversation's row, which with the messages that come with it has this `size`, and its persona's card.

    One that is `arriving` since then is as good as deleted.
    """
    persona_files.keep(connection, owner, persona)
    values = {name: getattr(conversation, name) for name in INFO} | persona.columns
    hidden = {"deleted": arriving, "arriving": arriving}
    connection.execute(insert(conversations).values(owner=owner, size=size, **hidden, **values))


def insert_messages(
    connection: Connection, owner: str, added: Sequence[StoredMessage], lease: str | None = None
) -> None:
    """Add messages, each after its parent; who has the `lease` writes those that are running."""
    names = [column.name for column in messages.c if column.name not in ("seq", "owner", *OF_RUNNING)]
    moment = clock(connection)
    alive = {"heartbeat": moment, "lease": lease}
    rows = [
        {name: getattr(message, name) for name in names}
        | {"owner": owner, **dict.fromkeys(OF_RUNNING), **(alive if message.state == "running" else {})}
        for message in added
    ]
    if rows:
        connection.execute(insert(messages), rows)


def remove_conversation(connection: Connection, owner: str, id: str) -> None:
    """Really remove it, all but the card of its persona: that may be another's too, see cards.remove_unused()."""
    mine = and_(messages.c.owner == owner, messages.c.conversation == id)
    inspected = inspections.c.message.in_(select(messages.c.id).where(mine))
    connection.execute(delete(inspections).where(inspections.c.owner == owner, inspected))
    connection.execute(delete(messages).where(mine))
    connection.execute(delete(conversations).where(conversations.c.owner == owner, conversations.c.id == id))


def copy_inspections(connection: Connection, owner: str, copies: Mapping[str, StoredMessage]) -> None:
    """Give the copies of messages, by the ids of the originals, what is kept of how those came about."""
    mine = and_(inspections.c.owner == owner, inspections.c.message.in_(list(copies)))
    rows = connection.execute(select(inspections).where(mine)).mappings().all()
    if rows:
        connection.execute(insert(inspections), [{**row, "message": copies[row["message"]].id} for row in rows])


def with_fresh_ids(
    conversation: ConversationInfo, tree: Sequence[StoredMessage]
) -> tuple[ConversationInfo, list[StoredMessage]]:
    """The same under new ids. Raises KeyError where a parent does not come first, or the leaf is not there."""
    own = new_id()
    ids: dict[str, str] = {}
    copies = []
    for message in tree:
        parent = None if message.parent is None else ids[message.parent]
        ids[message.id] = new_id()
        copies.append(replace(message, id=ids[message.id], conversation=own, parent=parent))
    leaf = None if conversation.leaf is None else ids[conversation.leaf]
    return replace(conversation, id=own, leaf=leaf), copies
