"""Imports a conversation: as a new one, or into the conversation that an earlier import of it created.

Existing messages stay. New ones are added, and an imported one is extended if the file has more of its text.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from sqlalchemy import Connection, Row, Select, and_, delete, select, update

from chatui.errors import LimitError, TransferError
from chatui.store import persona_files
from chatui.store.database import Database
from chatui.store.notifications import notify_chat
from chatui.store.persona_files import StoredPersona
from chatui.store.quotas import UNLIMITED, Quotas, add_size, byte_length, conversation_size, message_size
from chatui.store.records import Conversation, ConversationInfo, MergeResult, StoredMessage, Tree
from chatui.store.rows import (
    INFO_COLUMNS,
    MAX_TITLE_LENGTH,
    batches,
    database_time,
    derived_id,
    first_words,
    info_of,
    insert_conversation,
    insert_messages,
)
from chatui.store.tables import conversations, inspections, messages
from chatui.text_cleaning import one_line

OWN_ID = re.compile(r"[A-Za-z0-9_-]{22}")
"""The format of our own ids, see rows.new_id()."""
MAX_IDS = 500
"""Ids in one statement; databases limit them."""
BATCH_MESSAGES, BATCH_CHARACTERS = 50, 100_000
"""The limits of a batch, whose words are indexed in one go."""
TRANSACTION_SECONDS = 0.05
"""A transaction ends with the batch that takes it over this time, because other writers wait for it."""
PAUSE_SECONDS = 0.005
"""Sleep between two transactions, so that other servers can lock the same file: the lock has no queue for them."""


@dataclass
class Merge:
    """The import of one conversation in batches. A new conversation is hidden until finish().

    If the server stops before that, the conversation is removed later, see Store.remove_unfinished_imports().
    """

    owner: str
    conversation: ConversationInfo
    persona: StoredPersona
    messages: Sequence[StoredMessage]
    limits: Quotas
    added: int = 0
    extended: int = 0
    existed: bool | None = None
    """None until the first batch is written."""

    @classmethod
    def prepare(cls, connection: Connection, owner: str, tree: Tree, limits: Quotas = UNLIMITED) -> Self:
        """Give the conversation and its messages their ids; writes nothing. Raises TransferError if it is invalid."""
        conversation = _with_id_and_title(tree)
        other_ids = _ids_of_others(connection, owner, conversation.id, tree.messages)
        by_file_id = _with_ids(conversation, tree.messages, other_ids)
        leaf = None if conversation.leaf is None else by_file_id[conversation.leaf].id
        persona = StoredPersona.of(conversation.persona)
        return cls(owner, replace(conversation, leaf=leaf), persona, list(by_file_id.values()), limits)

    def batches(self) -> Iterator[Sequence[StoredMessage]]:
        """The messages in batches; at least one."""
        return batches(self.messages, BATCH_MESSAGES, BATCH_CHARACTERS)

    def add(self, connection: Connection, batch: Sequence[StoredMessage]) -> None:
        """Write the new and extended messages of a batch; parents come before their children.

        Raises LimitError before it writes any, and TransferError if the conversation was removed meanwhile.
        """
        self.limits.lock_owner(connection, self.owner)
        stored = _stored(connection, self.owner, batch)
        new = [message for message in batch if message.id not in stored]
        longer = _longer(batch, stored)
        size = sum(map(message_size, new)) + sum(byte_length(m.content) - byte_length(stored[m.id][0]) for m in longer)
        row, moment = self._row(connection), database_time(connection)
        if row is None and self.existed is not None:
            raise self._removed()
        if row is None:
            hidden = replace(self.conversation, leaf=None)
            size += conversation_size(hidden, self.persona.persona)
            total = size + persona_files.new_bytes(connection, self.owner, self.persona)
            self.limits.check(connection, self.owner, total, conversations=1)
            insert_conversation(connection, self.owner, hidden, self.persona, size, arriving=moment)
        elif size:
            self.limits.check(connection, self.owner, size)
            add_size(connection, self.owner, self.conversation.id, size)
        if row is not None and row.arriving is not None:
            self._change(connection, arriving=moment)
        if self.existed is None:
            self.existed = row is not None and row.deleted is None
        insert_messages(connection, self.owner, new)
        _update_contents(connection, self.owner, longer)
        self.added += len(new)
        self.extended += len(longer)

    def finish(self, connection: Connection) -> MergeResult:
        """Show the conversation, after its last batch. Raises TransferError."""
        row = self._row(connection)
        if row is None:
            raise self._removed()
        stored, leaf = info_of(row), self.conversation.leaf
        values: dict[str, Any] = {"deleted": None, "arriving": None}
        if self.added:
            values |= {"updated": max(stored.updated, self.conversation.updated)}
        if row.arriving is not None or (self.added and self._extends(stored.leaf)):
            values |= {"leaf": leaf}
        if self.conversation.named and not stored.named:
            values |= {"title": self.conversation.title, "named": True}
        self._change(connection, **values)
        notify_chat(connection, self.owner, self.conversation.id)
        changed = self._row(connection)
        return MergeResult(info_of(changed or row), self.added + self.extended, existed=bool(self.existed))

    def _extends(self, stored_leaf: str | None) -> bool:
        """Whether the imported path continues the one that is shown."""
        return stored_leaf is None or stored_leaf in _path_ids(self.conversation.leaf, self.messages)

    def _removed(self) -> TransferError:
        return _error(f"“{self.conversation.title}” was removed while it came in.")

    def _change(self, connection: Connection, **values: Any) -> None:
        selected = and_(conversations.c.owner == self.owner, conversations.c.id == self.conversation.id)
        connection.execute(update(conversations).where(selected).values(values))

    def _row(self, connection: Connection) -> Row[Any] | None:
        table = conversations.c
        selected = and_(table.owner == self.owner, table.id == self.conversation.id)
        locked_row: Select[Any] = select(*INFO_COLUMNS, table.deleted, table.arriving).where(selected)
        return connection.execute(locked_row.with_for_update()).first()


def merge(connection: Connection, owner: str, tree: Tree, limits: Quotas) -> MergeResult:
    """Import a conversation in the caller's transaction. Raises TransferError if it is invalid, or LimitError."""
    merging = Merge.prepare(connection, owner, tree, limits)
    for batch in merging.batches():
        merging.add(connection, batch)
    return merging.finish(connection)


def merge_in_batches(
    database: Database, owner: str, tree: Tree, limits: Quotas, should_continue: Callable[[], bool]
) -> MergeResult | None:
    """Import a conversation in short transactions, so that others can write in between.

    Returns None if `should_continue` returned False before the last batch; a new conversation is removed then. Raises
    TransferError, or LimitError.
    """
    with database.reading() as connection:
        merging = Merge.prepare(connection, owner, tree, limits)
    remaining, result = merging.batches(), None
    try:
        while result is None and should_continue():
            with database.writing() as connection:
                result = _add_some(connection, merging, remaining)
            pause()
    except LimitError:
        remove_unfinished(database, owner, merging.conversation.id)
        raise
    if result is None:
        remove_unfinished(database, owner, merging.conversation.id)
    return result


def _add_some(
    connection: Connection, merging: Merge, remaining: Iterator[Sequence[StoredMessage]]
) -> MergeResult | None:
    """Write batches for TRANSACTION_SECONDS. Returns the result if none remain, else None."""
    until = time.monotonic() + TRANSACTION_SECONDS
    for batch in remaining:
        merging.add(connection, batch)
        if time.monotonic() >= until:
            return None
    return merging.finish(connection)


def remove_unfinished(database: Database, owner: str, id: str) -> None:
    """Remove a conversation whose import is unfinished, in short transactions, the last messages first."""
    arriving = and_(conversations.c.owner == owner, conversations.c.id == id, conversations.c.arriving.is_not(None))
    of_conversation = and_(messages.c.owner == owner, messages.c.conversation == id)
    last = select(messages.c.seq).where(of_conversation).order_by(messages.c.seq.desc()).limit(MAX_IDS)
    inspected = inspections.c.message.in_(select(messages.c.id).where(of_conversation, messages.c.seq.in_(last)))
    removed = MAX_IDS
    while removed:
        with database.writing() as connection:
            if connection.execute(select(conversations.c.id).where(arriving).with_for_update()).first() is None:
                return
            connection.execute(delete(inspections).where(inspections.c.owner == owner, inspected))
            removed = connection.execute(delete(messages).where(of_conversation, messages.c.seq.in_(last))).rowcount
            if not removed:
                connection.execute(delete(conversations).where(arriving))
                persona_files.remove_unused(connection, owner)
        pause()


def remove_in_batches(database: Database, owner: str, id: str) -> None:
    """Delete the rows of a conversation of any length in short transactions. The first one hides the conversation.

    If the server stops in between, remove_unfinished() continues.
    """
    selected = and_(conversations.c.owner == owner, conversations.c.id == id)
    with database.writing() as connection:
        moment = database_time(connection)
        hidden = update(conversations).where(selected).values(deleted=moment, arriving=moment, leaf=None)
        connection.execute(hidden)
    remove_unfinished(database, owner, id)


def pause() -> None:
    """Sleep between two transactions, see PAUSE_SECONDS."""
    time.sleep(PAUSE_SECONDS)


def _with_id_and_title(tree: Tree) -> Conversation:
    """The conversation with an id in our format and a title."""
    conversation = tree.conversation
    title = one_line(conversation.title, MAX_TITLE_LENGTH)
    if not title:
        question = next((message.content for message in tree.messages if message.role == "user"), "")
        conversation = replace(conversation, named=False)
        title = first_words(question)
    id = conversation.id if OWN_ID.fullmatch(conversation.id) else derived_id("conversation", conversation.id)
    return replace(conversation, id=id, title=title)


def _ids_of_others(
    connection: Connection, owner: str, conversation: str, imported: Iterable[StoredMessage]
) -> set[str]:
    """The ids of imported messages that messages of the owner's other conversations have."""
    table = messages.c
    ids = list(dict.fromkeys(message.id for message in imported))
    used_ids: set[str] = set()
    for start in range(0, len(ids), MAX_IDS):
        others = and_(table.id.in_(ids[start : start + MAX_IDS]), table.conversation != conversation)
        used_ids |= set(connection.scalars(select(table.id).where(table.owner == owner, others)))
    return used_ids


def _stored(connection: Connection, owner: str, batch: Sequence[StoredMessage]) -> dict[str, tuple[str, bool]]:
    """The text of each message that is stored already, and whether a model generated it here, by id."""
    columns = (messages.c.id, messages.c.content, messages.c.author.is_not(None))
    selected = messages.c.id.in_([message.id for message in batch])
    rows = connection.execute(select(*columns).where(messages.c.owner == owner, selected))
    return {id: (content, bool(generated)) for id, content, generated in rows}


def _with_ids(
    conversation: Conversation, imported: Iterable[StoredMessage], other_ids: set[str]
) -> dict[str, StoredMessage]:
    """The messages with the ids that they have here, by their ids in the file. Raises TransferError."""
    by_file_id: dict[str, StoredMessage] = {}
    for message in imported:
        id = message.id
        if not OWN_ID.fullmatch(id) or id in other_ids:
            id = derived_id("message", conversation.id, message.id)
        if message.id in by_file_id:
            raise _error(f"Two messages of “{conversation.title}” have the same id.")
        if message.parent is not None and message.parent not in by_file_id:
            raise _error(f"A message of the conversation “{conversation.title}” refers to one that is not there.")
        parent = None if message.parent is None else by_file_id[message.parent].id
        state = "interrupted" if message.state == "running" else message.state
        by_file_id[message.id] = replace(message, id=id, conversation=conversation.id, parent=parent, state=state)
    if conversation.leaf is not None and conversation.leaf not in by_file_id:
        raise _error(f"A message of the conversation “{conversation.title}” refers to one that is not there.")
    return by_file_id


def _error(reason: str) -> TransferError:
    return TransferError(reason, "This conversation was not imported.")


def _longer(batch: Iterable[StoredMessage], stored: dict[str, tuple[str, bool]]) -> list[StoredMessage]:
    """The stored messages that have more text now, because an earlier file was exported before they were complete."""
    longer = []
    for message in batch:
        content, generated = stored.get(message.id, ("", True))
        if not generated and message.content != content and message.content.startswith(content):
            longer.append(message)
    return longer


def _update_contents(connection: Connection, owner: str, longer: Iterable[StoredMessage]) -> None:
    for message in longer:
        selected = and_(messages.c.owner == owner, messages.c.id == message.id)
        connection.execute(update(messages).where(selected).values(content=message.content))


def _path_ids(leaf: str | None, tree: Iterable[StoredMessage]) -> set[str]:
    """The ids of the leaf and its ancestors."""
    parents = {message.id: message.parent for message in tree}
    path = set()
    while leaf is not None:
        path.add(leaf)
        leaf = parents.get(leaf)
    return path
