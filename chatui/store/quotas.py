"""Limits what one owner may store. The check runs in the transaction that adds something, and reads only sums.

Each row of a conversation, persona, card or vote has its `size` in bytes: texts, pictures, inspections, and ROW_BYTES
for every row. So a sum reads no messages, and removing a row or giving it to another owner keeps the sums right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import TypeAdapter
from sqlalchemy import Connection, Table, and_, func, literal, literal_column, select, update

from chatui.errors import LimitError, OverloadError
from chatui.personas import Persona
from chatui.settings import MB, AppSettings
from chatui.store import tables
from chatui.store.free_space import NO_LIMIT, SpaceLimits, used_bytes
from chatui.store.records import Author, ConversationInfo, NewTurn, ReplyUpdate, StoredMessage
from chatui.store.tables import conversations, inspections, messages

ROW_BYTES = 300
"""The approximate bytes of a row and its index entries, without its texts."""
TEMPORARY_CHATS, TEMPORARY_BYTES = 50, 20 * MB
TEMPORARY_TOTAL = 1000 * MB
"""The bytes that the temporary chats of all users may take together. They are in memory."""

PERSONA = TypeAdapter(Persona)


@dataclass(frozen=True)
class Quotas:
    """The limits of one owner; 0 is no limit. `size` is in bytes, `replies` counts running ones.

    `space` are the limits of all owners together.
    """

    conversations: int = 0
    personas: int = 0
    size: int = 0
    replies: int = 0
    temporary: bool = False
    space: SpaceLimits = NO_LIMIT

    @classmethod
    def from_settings(cls, settings: AppSettings) -> Self:
        """The limits of saved chats."""
        size = settings.max_storage * MB
        space = SpaceLimits(settings.min_free_disk * MB, settings.max_total_storage * MB)
        return cls(settings.max_conversations, settings.max_personas, size, settings.max_replies, space=space)

    @classmethod
    def for_temporary_chats(cls, settings: AppSettings) -> Self:
        """The limits of temporary chats, which are in memory."""
        return cls(TEMPORARY_CHATS, 0, TEMPORARY_BYTES, settings.max_replies, temporary=True)

    def lock_owner(self, connection: Connection, owner: str) -> None:
        """Wait for other transactions that add something for this owner. Call it before locking rows: no deadlock."""
        if self != UNLIMITED:
            _lock_owner(connection, owner)

    def check_running(self, connection: Connection, owner: str) -> None:
        """Check that one more reply may run, on all servers together. Raises OverloadError."""
        if not self.replies:
            return
        _lock_owner(connection, owner)
        # Not a parameter: the partial index is used only for the literal state.
        running = select(func.count()).where(messages.c.owner == owner, messages.c.state == literal_column("'running'"))
        if (count := connection.scalar(running) or 0) >= self.replies:
            raise OverloadError(
                f"The most replies that one user may wait for at once is {self.replies:,}, and you wait for {count:,}, "
                "so no other can be begun.",
                "Wait until one is finished or stop one, and try again.",
            )

    def check(self, connection: Connection, owner: str, size: int, conversations: int = 0, personas: int = 0) -> None:
        """Check that the owner may add `size` bytes and so many conversations and personas.

        Deleted conversations count until they are purged. Raises LimitError, or FullError if the limits of all owners
        together are reached.
        """
        self.space.check(connection, owner, size, new=conversations + personas > 0)
        if not (self.size or (self.conversations and conversations) or (self.personas and personas)):
            return
        _lock_owner(connection, owner)
        chats, chat_bytes = _usage(connection, owner, tables.conversations)
        own, own_bytes = _usage(connection, owner, tables.personas)
        _, card_bytes = _usage(connection, owner, tables.cards)
        _, vote_bytes = _usage(connection, owner, tables.votes)
        have = chat_bytes + own_bytes + card_bytes + vote_bytes
        if self.temporary:
            self._check_temporary(connection, chats + conversations, have, size)
        if conversations:
            self._check_conversations(chats, conversations)
        if personas:
            self._check_personas(own, personas)
        self._check_size(have, size)

    def _check_temporary(self, connection: Connection, chats: int, have: int, size: int) -> None:
        """Check the limits of temporary chats: `chats` in total, and `size` bytes more than `have`."""
        if used_bytes(connection) + size > TEMPORARY_TOTAL:
            raise LimitError(
                "The temporary chats of all users take as much memory as they may, so nothing can be added to them.",
                "Try again later, or go on in a chat that is kept.",
            )
        if chats > self.conversations or have + size > self.size:
            raise LimitError(
                "Your temporary chats take as much memory as one user may have, so nothing can be added to them.",
                "Leave a temporary chat, or go on in one that is kept.",
            )

    def _check_conversations(self, chats: int, added: int) -> None:
        if self.conversations and chats + added > self.conversations:
            raise LimitError(
                f"The most chats that one user may keep here is {self.conversations:,}, and you have {chats:,}, so "
                "no other can be added.",
                "Delete chats that you no longer need and empty “Recently deleted”, or ask whoever runs this server "
                "for more (--max-conversations).",
            )

    def _check_personas(self, own: int, added: int) -> None:
        if self.personas and own + added > self.personas:
            raise LimitError(
                f"The most personas that one user may keep here is {self.personas:,}, and you have {own:,}, so no "
                "other can be added.",
                "Delete one that you no longer need, or ask whoever runs this server for more (--max-personas).",
            )

    def _check_size(self, have: int, size: int) -> None:
        if self.size and have + size > self.size:
            raise LimitError(
                f"What you keep here takes {have / MB:,.1f} MB of the {self.size / MB:,.1f} MB that one user may have, "
                f"and this would be {size / MB:,.1f} MB more, so it cannot be saved.",
                "Delete chats that you no longer need and empty “Recently deleted”, or ask whoever runs this server "
                "for more (--max-storage).",
            )


UNLIMITED = Quotas()


def _lock_owner(connection: Connection, owner: str) -> None:
    """Lock the quotas of this owner until the transaction ends. SQLite has a single writer and needs no lock."""
    if connection.dialect.name != "sqlite":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(owner, 0))))


def _usage(connection: Connection, owner: str, table: Table) -> tuple[int, int]:
    """The number of the owner's rows in a table, and their bytes."""
    sums = select(func.count(), func.coalesce(func.sum(table.c.size), literal(0))).where(table.c.owner == owner)
    count, size = connection.execute(sums).one()
    return count, int(size)


def byte_length(text: str) -> int:
    """The bytes of a text in UTF-8, as a database stores it."""
    return len(text.encode(errors="replace"))


def persona_size(persona: Persona) -> int:
    """The bytes of a persona without its card and picture, which are in a row of their own."""
    return ROW_BYTES + byte_length(PERSONA.dump_json(persona).decode())


def conversation_size(conversation: ConversationInfo, persona: Persona) -> int:
    """The bytes of a conversation without its messages."""
    return persona_size(persona) + byte_length(conversation.title)


def message_size(message: StoredMessage) -> int:
    """The bytes of a message."""
    texts = (message.content, message.reasoning, message.error, message.note)
    return ROW_BYTES + sum(map(byte_length, texts)) + (author_size(message.author) if message.author else 0)


def author_size(author: Author) -> int:
    """The bytes of what is stored about a reply's request."""
    insertions = (insertion.content for insertion in author.insertions)
    texts = (author.system_prompt, author.prefix, author.prefix_reasoning, *insertions)
    return ROW_BYTES + sum(map(byte_length, texts))


def turn_size(turn: NewTurn) -> int:
    """The bytes that a turn adds when it starts. The text of its reply is added when the reply ends."""
    texts = [] if turn.question is None else [turn.question]
    if turn.conversation is None and turn.question is not None:
        texts += turn.greetings
    return sum(ROW_BYTES + byte_length(text) for text in texts) + ROW_BYTES + author_size(turn.author)


def reply_size(final: ReplyUpdate) -> int:
    """The bytes that the `final` update of a reply adds to its row."""
    texts = (final.content, final.reasoning, final.error)
    return sum(map(byte_length, texts)) + len(final.inspection or b"")


def add_size(connection: Connection, owner: str, conversation: str, size: int) -> None:
    """Add bytes to the stored size of a conversation; `size` may be negative."""
    selected = and_(conversations.c.owner == owner, conversations.c.id == conversation)
    connection.execute(update(conversations).where(selected).values(size=conversations.c.size + size))


def inspections_size(connection: Connection, owner: str, ids: Sequence[str]) -> int:
    """The bytes of the stored inspections of these replies."""
    selected = and_(inspections.c.owner == owner, inspections.c.message.in_(ids))
    return connection.scalar(select(func.sum(func.length(inspections.c.data))).where(selected)) or 0
