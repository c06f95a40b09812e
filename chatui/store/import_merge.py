"""Puts a conversation from elsewhere beside what is there, or into the conversation that an earlier import made of it.

What is there stays: messages are only added, or grow where the file has more of their text.
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
from chatui.store.persona_files import StoredPersona
from chatui.store.quotas import UNLIMITED, Quotas, byte_length, conversation_size, grow, message_size
from chatui.store.records import Conversation, ConversationInfo, MergeResult, StoredMessage, Tree
from chatui.store.rows import (
    INFO_COLUMNS,
    MAX_TITLE_LENGTH,
    clock,
    derived_id,
    first_words,
    info_of,
    insert_conversation,
    insert_messages,
    pieces,
)
from chatui.store.tables import conversations, inspections, messages
from chatui.text_cleaning import one_line

OURS = re.compile(r"[A-Za-z0-9_-]{22}")
"""What our own ids look like, see rows.new_id()."""
AT_ONCE = 500
"""Ids that are asked for in one statement; databases limit them."""
PIECE_MESSAGES, PIECE_CHARACTERS = 50, 100_000
"""What is added at once; the words of each message are put into the index."""
TURN_SECONDS = 0.05
"""After so long a transaction ends with the piece it is at, for others wait for it, whatever the disk and the words."""
PAUSE_SECONDS = 0.005
"""Between two transactions, for other servers that wait for the same file: they are in no queue here."""


@dataclass
class Merge:
    """A conversation on its way in. It may come in pieces, and a new one is not there until finish().

    One that is never finished, as the server ended, is removed when nothing has come for a while.
    """

    owner: str
    conversation: ConversationInfo
    persona: StoredPersona
    placed: Sequence[StoredMessage]
    limits: Quotas
    new: int = 0
    grown: int = 0
    known: bool | None = None
    """None until its first piece is in."""

    @classmethod
    def of(cls, connection: Connection, owner: str, tree: Tree, limits: Quotas = UNLIMITED) -> Self:
        """Look where its messages belong; writes nothing. Raises TransferError where it is none."""
        conversation = _titled(tree)
        placed = _placed(conversation, tree.messages, _elsewhere(connection, owner, conversation.id, tree.messages))
        leaf = None if conversation.leaf is None else placed[conversation.leaf].id
        persona = StoredPersona.of(conversation.persona)
        return cls(owner, replace(conversation, leaf=leaf), persona, list(placed.values()), limits)

    def pieces(self) -> Iterator[Sequence[StoredMessage]]:
        """The messages, a few at a time; one piece at least."""
        return pieces(self.placed, PIECE_MESSAGES, PIECE_CHARACTERS)

    def add(self, connection: Connection, piece: Sequence[StoredMessage]) -> None:
        """Add what is new of a piece, each of which comes after its parents.

        Raises LimitError before it adds any, and TransferError where the conversation was removed meanwhile.
        """
        self.limits.wait(connection, self.owner)
        there = _there(connection, self.owner, piece)
        new = [message for message in piece if message.id not in there]
        growing = _growing(piece, there)
        size = sum(map(message_size, new)) + sum(byte_length(m.content) - byte_length(there[m.id][0]) for m in growing)
        row, moment = self._row(connection), clock(connection)
        if row is None and self.known is not None:
            raise self._removed()
        if row is None:
            hidden = replace(self.conversation, leaf=None)
            size += conversation_size(hidden, self.persona.persona)
            added = size + persona_files.new_bytes(connection, self.owner, self.persona)
            self.limits.check(connection, self.owner, added, conversations=1)
            insert_conversation(connection, self.owner, hidden, self.persona, size, arriving=moment)
        elif size:
            self.limits.check(connection, self.owner, size)
            grow(connection, self.owner, self.conversation.id, size)
        if row is not None and row.arriving is not None:
            self._change(connection, arriving=moment)
        if self.known is None:
            self.known = row is not None and row.deleted is None
        insert_messages(connection, self.owner, new)
        _grow(connection, self.owner, growing)
        self.new += len(new)
        self.grown += len(growing)

    def finish(self, connection: Connection) -> MergeResult:
        """Show the conversation, after its last piece. Raises TransferError."""
        row = self._row(connection)
        if row is None:
            raise self._removed()
        there, leaf = info_of(row), self.conversation.leaf
        values: dict[str, Any] = {"deleted": None, "arriving": None}
        if self.new:
            values |= {"updated": max(there.updated, self.conversation.updated)}
        if row.arriving is not None or (self.new and (there.leaf is None or there.leaf in _above(leaf, self.placed))):
            values |= {"leaf": leaf}
        if self.conversation.named and not there.named:
            values |= {"title": self.conversation.title, "named": True}
        self._change(connection, **values)
        changed = self._row(connection)
        return MergeResult(info_of(changed or row), self.new + self.grown, existed=bool(self.known))

    def _removed(self) -> TransferError:
        return _wrong(f"“{self.conversation.title}” was removed while it came in.")

    def _change(self, connection: Connection, **values: Any) -> None:
        mine = and_(conversations.c.owner == self.owner, conversations.c.id == self.conversation.id)
        connection.execute(update(conversations).where(mine).values(values))

    def _row(self, connection: Connection) -> Row[Any] | None:
        table = conversations.c
        mine = and_(table.owner == self.owner, table.id == self.conversation.id)
        found: Select[Any] = select(*INFO_COLUMNS, table.deleted, table.arriving).where(mine)
        return connection.execute(found.with_for_update()).first()


def merge(connection: Connection, owner: str, tree: Tree, limits: Quotas) -> MergeResult:
    """Add what is new of a conversation, all at once. Raises TransferError where it is none, or LimitError."""
    merging = Merge.of(connection, owner, tree, limits)
    for piece in merging.pieces():
        merging.add(connection, piece)
    return merging.finish(connection)


def merge_in_pieces(
    database: Database, owner: str, tree: Tree, limits: Quotas, wanted: Callable[[], bool]
) -> MergeResult | None:
    """The same in short transactions, so that others may write in between. Raises TransferError, or LimitError.

    None where it is not `wanted` any more before it is whole; of a new conversation nothing is left then.
    """
    with database.reading() as connection:
        merging = Merge.of(connection, owner, tree, limits)
    left, merged = merging.pieces(), None
    try:
        while merged is None and wanted():
            with database.writing() as connection:
                merged = _take_a_turn(connection, merging, left)
            pause()
    except LimitError:
        remove_unfinished(database, owner, merging.conversation.id)
        raise
    if merged is None:
        remove_unfinished(database, owner, merging.conversation.id)
    return merged


def _take_a_turn(connection: Connection, merging: Merge, left: Iterator[Sequence[StoredMessage]]) -> MergeResult | None:
    """Add some of the pieces that are `left`; what came of it where that were all."""
    until = time.monotonic() + TURN_SECONDS
    for piece in left:
        merging.add(connection, piece)
        if time.monotonic() >= until:
            return None
    return merging.finish(connection)


def remove_unfinished(database: Database, owner: str, id: str) -> None:
    """Remove a conversation that is not whole, the last messages first, in short transactions as it came."""
    arriving = and_(conversations.c.owner == owner, conversations.c.id == id, conversations.c.arriving.is_not(None))
    mine = and_(messages.c.owner == owner, messages.c.conversation == id)
    last = select(messages.c.seq).where(mine).order_by(messages.c.seq.desc()).limit(AT_ONCE)
    inspected = inspections.c.message.in_(select(messages.c.id).where(mine, messages.c.seq.in_(last)))
    removed = AT_ONCE
    while removed:
        with database.writing() as connection:
            if connection.execute(select(conversations.c.id).where(arriving).with_for_update()).first() is None:
                return
            connection.execute(delete(inspections).where(inspections.c.owner == owner, inspected))
            removed = connection.execute(delete(messages).where(mine, messages.c.seq.in_(last))).rowcount
            if not removed:
                connection.execute(delete(conversations).where(arriving))
                persona_files.remove_unused(connection, owner)
        pause()


def remove_in_pieces(database: Database, owner: str, id: str) -> None:
    """Really remove a conversation of any length in short transactions. It is hidden from the first one on.

    If the server ends in between, remove_unfinished() goes on.
    """
    mine = and_(conversations.c.owner == owner, conversations.c.id == id)
    with database.writing() as connection:
        moment = clock(connection)
        hidden = update(conversations).where(mine).values(deleted=moment, arriving=moment, leaf=None)
        connection.execute(hidden)
    remove_unfinished(database, owner, id)


def pause() -> None:
    """Let others write, of other servers too."""
    time.sleep(PAUSE_SECONDS)


def _titled(tree: Tree) -> Conversation:
    """The conversation with an id and a title that can be kept."""
    conversation = tree.conversation
    title = one_line(conversation.title, MAX_TITLE_LENGTH)
    if not title:
        asked = next((message.content for message in tree.messages if message.role == "user"), "")
        conversation = replace(conversation, named=False)
        title = first_words(asked)
    id = conversation.id if OURS.fullmatch(conversation.id) else derived_id("conversation", conversation.id)
    return replace(conversation, id=id, title=title)


def _elsewhere(connection: Connection, owner: str, conversation: str, told: Iterable[StoredMessage]) -> set[str]:
    """The ids of these messages that messages of other conversations have."""
    table = messages.c
    ids = list(dict.fromkeys(message.id for message in told))
    found: set[str] = set()
    for start in range(0, len(ids), AT_ONCE):
        some = and_(table.id.in_(ids[start : start + AT_ONCE]), table.conversation != conversation)
        found |= set(connection.scalars(select(table.id).where(table.owner == owner, some)))
    return found


def _there(connection: Connection, owner: str, piece: Sequence[StoredMessage]) -> dict[str, tuple[str, bool]]:
    """Of those that are there already: the text, and whether a model here wrote it."""
    columns = (messages.c.id, messages.c.content, messages.c.author.is_not(None))
    some = messages.c.id.in_([message.id for message in piece])
    rows = connection.execute(select(*columns).where(messages.c.owner == owner, some))
    return {id: (content, bool(ours)) for id, content, ours in rows}


def _derived(conversation: str, message: str) -> str:
    return derived_id("message", conversation, message)


def _placed(conversation: Conversation, told: Iterable[StoredMessage], elsewhere: set[str]) -> dict[str, StoredMessage]:
    """The messages by their ids in the file, under those that they have here. Raises TransferError."""
    placed: dict[str, StoredMessage] = {}
    for message in told:
        id = message.id
        if not OURS.fullmatch(id) or id in elsewhere:
            id = _derived(conversation.id, message.id)
        if message.id in placed:
            raise _wrong(f"Two messages of “{conversation.title}” have the same id.")
        if message.parent is not None and message.parent not in placed:
            raise _wrong(f"A message of the conversation “{conversation.title}” refers to one that is not there.")
        parent = None if message.parent is None else placed[message.parent].id
        state = "interrupted" if message.state == "running" else message.state
        placed[message.id] = replace(message, id=id, conversation=conversation.id, parent=parent, state=state)
    if conversation.leaf is not None and conversation.leaf not in placed:
        raise _wrong(f"A message of the conversation “{conversation.title}” refers to one that is not there.")
    return placed


def _wrong(reason: str) -> TransferError:
    return TransferError(reason, "This conversation was not imported.")


def _growing(placed: Iterable[StoredMessage], known: dict[str, tuple[str, bool]]) -> list[StoredMessage]:
    """Those of the known messages that have more text now, as they were exported too early before."""
    found = []
    for message in placed:
        content, ours = known.get(message.id, ("", True))
        if not ours and message.content != content and message.content.startswith(content):
            found.append(message)
    return found


def _grow(connection: Connection, owner: str, growing: Iterable[StoredMessage]) -> None:
    """Give messages the rest of their text."""
    for message in growing:
        mine = and_(messages.c.owner == owner, messages.c.id == message.id)
        connection.execute(update(messages).where(mine).values(content=message.content))


def _above(leaf: str | None, placed: Iterable[StoredMessage]) -> set[str]:
    """The leaf and all that it answers."""
    parents = {message.id: message.parent for message in placed}
    path = set()
    while leaf is not None:
        path.add(leaf)
        leaf = parents.get(leaf)
    return path
