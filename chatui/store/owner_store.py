"""Reads and writes the conversations, personas and votes of one owner. Rows of other owners count as not found."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Boolean, Connection, and_, literal, select, tuple_, update

from chatui.errors import ChatError, NotFoundError
from chatui.personas import Persona
from chatui.store import branching, import_merge, own_personas, reply_updates, search, turns
from chatui.store.database import Database
from chatui.store.notifications import notify_chat
from chatui.store.own_votes import OwnVotes
from chatui.store.persona_files import StoredPersona
from chatui.store.quotas import UNLIMITED, Quotas, add_size, byte_length
from chatui.store.records import (
    ConversationInfo,
    MergeResult,
    NewTurn,
    OwnPersona,
    PageTimes,
    Path,
    Rating,
    SearchHit,
    StartedTurn,
    StoredInspection,
    StoredMessage,
    Tree,
)
from chatui.store.rows import (
    INFO_COLUMNS,
    MAX_TITLE_LENGTH,
    database_time,
    displayed_size,
    find_conversation,
    find_message,
    first_words,
    info_of,
    load_conversation,
    load_messages,
    message_of,
    newest_leaf,
    path_end,
    select_conversations,
)
from chatui.store.tables import SEQ_TYPE, Time, conversations, inspections, messages
from chatui.text_cleaning import clean, one_line

NOTE_LIMIT = 2000


class OwnerStore:
    """The conversations and personas of one owner. Methods may wait for the disk, and raise StoreError."""

    def __init__(self, database: Database, owner: str, limits: Quotas = UNLIMITED) -> None:
        """`owner` is not empty and needs no cleaning. Methods that add something raise LimitError over the `limits`."""
        if not owner or clean(owner) != owner:
            raise ValueError("an owner needs a name without NUL or broken characters")
        self._database, self._owner, self._limits = database, owner, limits

    def conversations(
        self, limit: int = 50, after: str | None = None, archived: bool = False
    ) -> list[ConversationInfo]:
        """List conversations, pinned ones first, then the newest. `after` is the id of the last one listed so far.

        Raises NotFoundError if `after` does not exist.
        """
        table = conversations.c
        order = (table.pinned, table.updated, table.seq)
        statement = select_conversations(self._owner).where(table.archived == archived)
        with self._database.reading() as connection:
            if after is not None:
                last = connection.execute(select(*order).where(table.owner == self._owner, table.id == after)).first()
                if last is None:
                    raise NotFoundError("conversation")
                cursor = tuple_(literal(last.pinned, Boolean), literal(last.updated, Time), literal(last.seq, SEQ_TYPE))
                statement = statement.where(tuple_(*order) < cursor)
            statement = statement.order_by(*(column.desc() for column in order)).limit(limit)
            return [info_of(row) for row in connection.execute(statement)]

    def deleted(self, limit: int = 50) -> list[ConversationInfo]:
        """The conversations that restore() can bring back, the last deleted first."""
        table = conversations.c
        statement = (
            select(*INFO_COLUMNS)
            .where(table.owner == self._owner, table.deleted.is_not(None), table.arriving.is_(None))
            .order_by(table.deleted.desc(), table.seq.desc())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [info_of(row) for row in connection.execute(statement)]

    def conversation(self, id: str) -> ConversationInfo:
        """The conversation with this id. Raises NotFoundError."""
        with self._database.reading() as connection:
            return info_of(find_conversation(connection, self._owner, id))

    def initial_persona(self, id: str) -> Persona:
        """The copy of the persona with which a conversation started. Raises NotFoundError."""
        with self._database.reading() as connection:
            return load_conversation(connection, self._owner, id).persona

    def path(self, id: str, leaf: str | None = None) -> tuple[StoredMessage, ...]:
        """The messages from the root to `leaf`, the conversation's own by default. Raises NotFoundError."""
        with self._database.reading() as connection:
            row = find_conversation(connection, self._owner, id)
            return path_end(connection, self._owner, id, row.leaf if leaf is None else leaf).messages

    def visible_path(self, id: str, messages: int, characters: int) -> Path:
        """The last messages of the path to the conversation's leaf, within both limits. Raises NotFoundError."""
        with self._database.reading() as connection:
            leaf = find_conversation(connection, self._owner, id).leaf
            return path_end(connection, self._owner, id, leaf, messages, characters, displayed_size)

    def context_path(self, id: str, characters: int | None, leaf: str | None = None) -> Path:
        """The last messages of the path to `leaf`, the conversation's own by default, for the context of a model.

        `characters` is their limit, None for no limit. Raises NotFoundError.
        """
        with self._database.reading() as connection:
            row = find_conversation(connection, self._owner, id)
            return path_end(connection, self._owner, id, row.leaf if leaf is None else leaf, max_size=characters)

    def message(self, id: str) -> StoredMessage:
        """The message with this id. Raises NotFoundError."""
        with self._database.reading() as connection:
            row = find_message(connection, self._owner, id)
            parent = messages.c.parent.is_(None) if row.parent is None else messages.c.parent == row.parent
            versions = connection.scalars(
                select(messages.c.id)
                .where(messages.c.owner == self._owner, messages.c.conversation == row.conversation)
                .where(parent, messages.c.role == row.role)
                .order_by(messages.c.seq)
            )
            return message_of(row, tuple(versions))

    def start_turn(self, turn: NewTurn, lease: str | None = None, characters: int | None = None) -> StartedTurn:
        """Add the question, if the turn has one, and an empty running reply.

        Only the holder of `lease` may update the reply, see Store.update_replies(). The returned path has at most about
        `characters` characters, None for no limit; it is read after the write transaction.

        Raises RepeatedTurnError, see check_repeated(), NotFoundError, LimitError, or OverloadError where too many
        replies of this owner are running.
        """
        conversation, reply = turns.start(self._database, self._owner, self._limits, turn, lease)
        with self._database.reading() as connection:
            path = path_end(connection, self._owner, conversation.id, reply, max_size=characters)
        return StartedTurn(conversation, path.messages, path.earlier)

    def check_repeated(self, id: str, conversation: str | None, parent: str | None, question: str | None) -> None:
        """Raise RepeatedTurnError if a NewTurn of these values was started before."""
        with self._database.reading() as connection:
            turns.check_repeated(connection, self._owner, id, conversation, parent, question)

    def select(self, message: str) -> ConversationInfo:
        """Show this version of a message and the path to its newest descendant. Raises NotFoundError."""
        with self._database.writing() as connection:
            id = find_message(connection, self._owner, message, messages.c.conversation).conversation
            find_conversation(connection, self._owner, id, lock=True)
            self._change(connection, id, leaf=newest_leaf(connection, self._owner, message))
            return info_of(find_conversation(connection, self._owner, id))

    def rewind(self, message: str) -> ConversationInfo:
        """Show the path up to the parent of this message, which stays in the tree. Raises NotFoundError."""
        with self._database.writing() as connection:
            row = find_message(connection, self._owner, message)
            find_conversation(connection, self._owner, row.conversation, lock=True)
            self._change(connection, row.conversation, leaf=row.parent)
            return info_of(find_conversation(connection, self._owner, row.conversation))

    def rename(self, id: str, title: str) -> None:
        """Set the title, cut to 200 characters; an empty one restores the first words. Raises NotFoundError."""
        line = one_line(title, MAX_TITLE_LENGTH)
        with self._database.writing() as connection:
            find_conversation(connection, self._owner, id, lock=True)
            self._change(connection, id, title=line or self._first_words(connection, id), named=bool(line))

    def pin(self, id: str, on: bool) -> None:
        """Pin a conversation to the top of the list, or unpin it. Raises NotFoundError."""
        self._set(id, pinned=on)

    def archive(self, id: str, on: bool) -> None:
        """Move a conversation to the archive, or back to the list. Raises NotFoundError."""
        self._set(id, archived=on)

    def delete(self, id: str) -> None:
        """Move a conversation to the trash and stop its running replies; restore() works until it is purged.

        Raises NotFoundError.
        """
        with self._database.writing() as connection:
            find_conversation(connection, self._owner, id, lock=True)
            self._change(connection, id, deleted=database_time(connection))
            reply_updates.request_stop(connection, self._owner, id)

    def running_replies(self, id: str) -> list[str]:
        """The ids of the running replies of a conversation, on all servers."""
        with self._database.reading() as connection:
            return reply_updates.running(connection, self._owner, id)

    def request_stop(self, id: str) -> None:
        """Request that the running replies of a conversation stop; their servers see it within a second."""
        with self._database.writing() as connection:
            reply_updates.request_stop(connection, self._owner, id)

    def restore(self, id: str) -> ConversationInfo:
        """Restore a deleted conversation. Raises NotFoundError if it is purged."""
        table = conversations.c
        in_trash = and_(table.owner == self._owner, table.id == id, table.arriving.is_(None))
        with self._database.writing() as connection:
            connection.execute(update(conversations).where(in_trash).values(deleted=None))
            notify_chat(connection, self._owner, id)
            return info_of(find_conversation(connection, self._owner, id))

    def branch(self, message: str) -> ConversationInfo:
        """Copy the messages from the root to this one into a new conversation. Raises NotFoundError, ChatError."""
        with self._database.writing() as connection:
            conversation = branching.branch(connection, self._owner, self._limits, message)
            notify_chat(connection, self._owner, conversation.id)
            return conversation

    def inspection(self, message: str) -> StoredInspection | None:
        """The stored inspection of a reply, or None. Raises NotFoundError."""
        with self._database.reading() as connection:
            find_message(connection, self._owner, message, messages.c.role)
            selected = and_(inspections.c.owner == self._owner, inspections.c.message == message)
            row = connection.execute(select(inspections).where(selected)).one_or_none()
        if row is None:
            return None
        return StoredInspection(
            bytes(row.data), None if row.page_last is None else PageTimes(row.page_first, row.page_last)
        )

    def set_page_times(self, message: str, times: PageTimes) -> bool:
        """Store when the page showed a reply. Returns False if the reply has no stored inspection."""
        with self._database.writing() as connection:
            selected = and_(inspections.c.owner == self._owner, inspections.c.message == message)
            values = {"page_first": times.first, "page_last": times.last}
            return connection.execute(update(inspections).where(selected).values(values)).rowcount == 1

    def rate(self, message: str, rating: Rating | None, note: str = "") -> None:
        """Store the user's rating of a reply. Raises NotFoundError, or ChatError for a question or a long note."""
        if len(note) > NOTE_LIMIT:
            raise ChatError(
                f"The note is too long: {len(note):,} characters.", f"Shorten it to {NOTE_LIMIT:,} characters."
            )
        with self._database.writing() as connection:
            row = find_message(
                connection, self._owner, message, messages.c.role, messages.c.conversation, messages.c.note
            )
            if row.role != "assistant":
                raise ChatError("Only replies can be rated.")
            size = byte_length(note) - byte_length(row.note)
            if size > 0:
                self._limits.check(connection, self._owner, size)
            add_size(connection, self._owner, row.conversation, size)
            connection.execute(
                update(messages)
                .where(messages.c.owner == self._owner, messages.c.id == message)
                .values(rating=rating, note=note)
            )

    def search(self, text: str, limit: int = 30) -> list[SearchHit]:
        """The conversations with all words in the title or in one message, those with the newest match first."""
        with self._database.reading() as connection:
            return search.search(connection, self._owner, text, limit)

    def trees(self, ids: Sequence[str] | None = None) -> Iterator[Tree]:
        """Load these conversations, or all of them, one at a time. Raises NotFoundError."""
        if ids is None:
            listed = select(conversations.c.id).where(
                conversations.c.owner == self._owner, conversations.c.deleted.is_(None)
            )
            with self._database.reading() as connection:
                ids = connection.scalars(listed.order_by(conversations.c.seq)).all()
        for id in ids:
            with self._database.reading() as connection:
                conversation = load_conversation(connection, self._owner, id)
                tree = Tree(conversation, tuple(load_messages(connection, self._owner, id)))
            yield tree

    def add_trees(self, trees: Iterable[Tree]) -> list[ConversationInfo]:
        """Import conversations in one transaction, see merge_tree(). Raises TransferError, or LimitError."""
        listed = list(trees)
        with self._database.writing() as connection:
            return [import_merge.merge(connection, self._owner, tree, self._limits).conversation for tree in listed]

    def merge_tree(self, tree: Tree, should_continue: Callable[[], bool] = lambda: True) -> MergeResult | None:
        """Import a conversation; where an earlier import made it, only add what is new.

        It is written in several short transactions and becomes visible with the last one. Returns None where
        `should_continue` returned False before that. Raises TransferError, or LimitError where not all of it fits.
        """
        return import_merge.merge_in_batches(self._database, self._owner, tree, self._limits, should_continue)

    def personas(self) -> list[OwnPersona]:
        """The owner's personas, the oldest first."""
        with self._database.reading() as connection:
            return own_personas.list_personas(connection, self._owner)

    def persona_summaries(self) -> list[OwnPersona]:
        """The owner's personas without their cards and pictures, which are slow to read."""
        with self._database.reading() as connection:
            return own_personas.list_summaries(connection, self._owner)

    def persona(self, id: str) -> Persona:
        """The owner's persona with this id. Raises NotFoundError."""
        with self._database.reading() as connection:
            return own_personas.get(connection, self._owner, id)

    def save_persona(self, persona: Persona, id: str | None = None) -> OwnPersona:
        """Add a persona, or replace the one with this id. Raises NotFoundError, or LimitError."""
        stored = StoredPersona.of(persona)
        with self._database.writing() as connection:
            self._limits.lock_owner(connection, self._owner)
            if id is None:
                id = own_personas.add(connection, self._owner, self._limits, stored)
            else:
                own_personas.replace(connection, self._owner, self._limits, stored, id)
        return OwnPersona(id, persona)

    def delete_persona(self, id: str) -> None:
        """Delete a persona; conversations that started with it keep their copy. Raises NotFoundError."""
        with self._database.writing() as connection:
            own_personas.delete(connection, self._owner, id)

    @property
    def votes(self) -> OwnVotes:
        """The owner's votes on pairs of replies."""
        return OwnVotes(self._database, self._owner, self._limits)

    def _first_words(self, connection: Connection, id: str) -> str:
        question = connection.scalar(
            select(messages.c.content)
            .where(messages.c.owner == self._owner, messages.c.conversation == id, messages.c.role == "user")
            .order_by(messages.c.seq)
            .limit(1)
        )
        return first_words(question or "")

    def _set(self, id: str, **values: Any) -> None:
        with self._database.writing() as connection:
            find_conversation(connection, self._owner, id, lock=True)
            self._change(connection, id, **values)

    def _change(self, connection: Connection, id: str, **values: Any) -> None:
        selected = and_(conversations.c.owner == self._owner, conversations.c.id == id)
        connection.execute(update(conversations).where(selected).values(**values))
        notify_chat(connection, self._owner, id)
