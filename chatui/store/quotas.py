"""How much one owner may keep. It is asked for in the transaction that adds something, and only sums of rows are read.

Each conversation, persona and card has its `size` in its row: bytes of text, pictures and inspections, and some for
every row. So a sum needs no message, and what is removed or goes to another owner takes its size along.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import TypeAdapter
from sqlalchemy import Connection, Table, and_, func, literal, literal_column, select, update

from chatui.errors import LimitError, OverloadError
from chatui.personas import Persona
from chatui.settings import AppSettings
from chatui.store import tables
from chatui.store.free_space import MB, NO_LIMIT, FreeSpace, used_bytes
from chatui.store.records import Author, ConversationInfo, NewTurn, ReplyUpdate, StoredMessage
from chatui.store.tables import conversations, inspections, messages

ROW_BYTES = 300
"""What a row and its places in the indexes take beside its texts, about."""
TEMPORARY_CHATS, TEMPORARY_BYTES = 50, 20 * MB
TEMPORARY_TOTAL = 1000 * MB
"""What the temporary chats of all users may take: they are in memory."""

PERSONA = TypeAdapter(Persona)


@dataclass(frozen=True)
class Quotas:
    """The most that one owner may keep; 0 is no limit. `size` is in bytes. `room` is what all have together."""

    conversations: int = 0
    personas: int = 0
    size: int = 0
    replies: int = 0
    temporary: bool = False
    room: FreeSpace = NO_LIMIT

    @classmethod
    def of(cls, settings: AppSettings) -> Self:
        """Those that the settings name."""
        size = settings.max_storage * MB
        room = FreeSpace(settings.min_free_disk * MB, settings.max_total_storage * MB)
        return cls(settings.max_conversations, settings.max_personas, size, settings.max_replies, room=room)

    @classmethod
    def of_temporary(cls, settings: AppSettings) -> Self:
        """Those of temporary chats, which are in memory."""
        return cls(TEMPORARY_CHATS, 0, TEMPORARY_BYTES, settings.max_replies, temporary=True)

    def wait(self, connection: Connection, owner: str) -> None:
        """Wait until no other transaction adds to this owner's, before a row is locked: or two may wait for ever."""
        if self != UNLIMITED:
            _alone(connection, owner)

    def check_running(self, connection: Connection, owner: str) -> None:
        """Whether one more reply may be written, by whichever server. Raises OverloadError."""
        if not self.replies:
            return
        _alone(connection, owner)
        # Not a parameter: the index has only those that are running.
        running = select(func.count()).where(messages.c.owner == owner, messages.c.state == literal_column("'running'"))
        if (count := connection.scalar(running) or 0) >= self.replies:
            raise OverloadError(
                f"The most replies that one user may wait for at once is {self.replies:,}, and you wait for {count:,}, "
                "so no other can be begun.",
                "Wait until one is finished or stop one, and try again.",
            )

    def check(self, connection: Connection, owner: str, size: int, conversations: int = 0, personas: int = 0) -> None:
        """Whether the owner may add so much. Raises LimitError.

        What was deleted counts as long as it is kept. Raises FullError where all have no room left.
        """
        self.room.check(connection, owner, size, new=conversations + personas > 0)
        if not (self.size or (self.conversations and conversations) or (self.personas and personas)):
            return
        _alone(connection, owner)
        (chats, chat_bytes), (own, own_bytes), (_, card_bytes) = (
            _kept(connection, owner, table) for table in (tables.conversations, tables.personas, tables.cards)
        )
        have = chat_bytes + own_bytes + card_bytes
        if self.temporary and used_bytes(connection) + size > TEMPORARY_TOTAL:
            raise LimitError(
                "The temporary chats of all users take as much memory as they may, so nothing can be added to them.",
                "Try again later, or go on in a chat that is kept.",
            )
        if self.temporary and (chats + conversations > self.conversations or have + size > self.size):
            raise LimitError(
                "Your temporary chats take as much memory as one user may have, so nothing can be added to them.",
                "Leave a temporary chat, or go on in one that is kept.",
            )
        if self.conversations and conversations and chats + conversations > self.conversations:
            raise LimitError(
                f"The most chats that one user may keep here is {self.conversations:,}, and you have {chats:,}, so "
                "no other can be added.",
                "Delete chats that you no longer need and empty “Recently deleted”, or ask whoever runs this server "
                "for more (--max-conversations).",
            )
        if self.personas and personas and own + personas > self.personas:
            raise LimitError(
                f"The most personas that one user may keep here is {self.personas:,}, and you have {own:,}, so no "
                "other can be added.",
                "Delete one that you no longer need, or ask whoever runs this server for more (--max-personas).",
            )
        if self.size and have + size > self.size:
            raise LimitError(
                f"What you keep here takes {have / MB:,.1f} MB of the {self.size / MB:,.1f} MB that one user may have, "
                f"and this would be {size / MB:,.1f} MB more, so it cannot be saved.",
                "Delete chats that you no longer need and empty “Recently deleted”, or ask whoever runs this server "
                "for more (--max-storage).",
            )


UNLIMITED = Quotas()


def _alone(connection: Connection, owner: str) -> None:
    """No other transaction asks for this owner until this one ends: SQLite has only one that writes."""
    if connection.dialect.name != "sqlite":
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(owner, 0))))


def _kept(connection: Connection, owner: str, table: Table) -> tuple[int, int]:
    """How many rows the owner has there, and their bytes."""
    sums = select(func.count(), func.coalesce(func.sum(table.c.size), literal(0))).where(table.c.owner == owner)
    count, size = connection.execute(sums).one()
    return count, int(size)


def byte_length(text: str) -> int:
    """The bytes of a text, as a database keeps it."""
    return len(text.encode(errors="replace"))


def persona_size(persona: Persona) -> int:
    """The bytes that a persona takes in a row, where its card and picture are in another."""
    return ROW_BYTES + byte_length(PERSONA.dump_json(persona).decode())


def conversation_size(conversation: ConversationInfo, persona: Persona) -> int:
    """The bytes that a conversation takes without its messages."""
    return persona_size(persona) + byte_length(conversation.title)


def message_size(message: StoredMessage) -> int:
    """The bytes that a message takes."""
    texts = (message.content, message.reasoning, message.error, message.note)
    return ROW_BYTES + sum(map(byte_length, texts)) + (author_size(message.author) if message.author else 0)


def author_size(author: Author) -> int:
    """The bytes that is kept of how a reply was asked for."""
    inserted = (insertion.content for insertion in author.insertions)
    texts = (author.system_prompt, author.prefix, author.prefix_reasoning, *inserted)
    return ROW_BYTES + sum(map(byte_length, texts))


def turn_size(turn: NewTurn) -> int:
    """The bytes that a turn adds at first; the text of its reply is added when that is over."""
    said = [] if turn.question is None else [turn.question]
    if turn.conversation is None and turn.question is not None:
        said += turn.greetings
    return sum(ROW_BYTES + byte_length(text) for text in said) + ROW_BYTES + author_size(turn.author)


def progress_size(progress: ReplyUpdate) -> int:
    """The bytes that a reply takes besides its row, once it is over."""
    texts = (progress.content, progress.reasoning, progress.error)
    return sum(map(byte_length, texts)) + len(progress.inspection or b"")


def grow(connection: Connection, owner: str, conversation: str, size: int) -> None:
    """Note that a conversation takes so many bytes more."""
    mine = and_(conversations.c.owner == owner, conversations.c.id == conversation)
    connection.execute(update(conversations).where(mine).values(size=conversations.c.size + size))


def inspections_size(connection: Connection, owner: str, ids: Sequence[str]) -> int:
    """The bytes that is kept of how these replies came about."""
    mine = and_(inspections.c.owner == owner, inspections.c.message.in_(ids))
    return connection.scalar(select(func.sum(func.length(inspections.c.data))).where(mine)) or 0
