"""Starts a turn: adds a question and an empty running reply, and the conversation if it is new.

Every function takes the owner and runs in the caller's write transaction.
"""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, and_, update

from chatui.chat import Role
from chatui.errors import NotFoundError
from chatui.store import persona_files
from chatui.store.persona_files import StoredPersona
from chatui.store.quotas import Quotas, add_size, conversation_size, turn_size
from chatui.store.records import Author, ConversationInfo, NewTurn, StoredMessage
from chatui.store.rows import (
    database_time,
    find_conversation,
    find_message,
    first_words,
    info_of,
    insert_conversation,
    insert_messages,
    new_id,
)
from chatui.store.tables import conversations, messages


def start(
    connection: Connection, owner: str, limits: Quotas, turn: NewTurn, persona: StoredPersona, lease: str | None
) -> tuple[ConversationInfo, str]:
    """Insert the rows of a turn; see OwnerStore.start_turn(). Returns the conversation and the id of the reply.

    `persona` is the persona of a new conversation. Raises NotFoundError, LimitError or OverloadError.
    """
    limits.check_running(connection, owner)
    moment = database_time(connection)
    id, size = turn.conversation, turn_size(turn)
    if id is None:
        id = _insert_conversation(connection, owner, limits, turn, persona, moment, size)
        turn = replace(turn, parent=_insert_greetings(connection, owner, id, turn, moment))
    else:
        limits.check(connection, owner, size)
        find_conversation(connection, owner, id, lock=True)
        add_size(connection, owner, id, size)
    parent = _insert_question(connection, owner, id, turn, moment)
    reply = _running_reply(id, parent, turn.author, moment)
    insert_messages(connection, owner, [reply], lease)
    connection.execute(
        update(conversations)
        .where(and_(conversations.c.owner == owner, conversations.c.id == id))
        .values(leaf=reply.id, updated=reply.created)
    )
    return info_of(find_conversation(connection, owner, id)), reply.id


def _insert_conversation(
    connection: Connection,
    owner: str,
    limits: Quotas,
    turn: NewTurn,
    persona: StoredPersona,
    moment: datetime,
    size: int,
) -> str:
    """Insert the conversation of a turn with `size` bytes of messages. Returns its id."""
    title = first_words(turn.question or "")
    conversation_id = turn.new_conversation_id or new_id()
    conversation = ConversationInfo(conversation_id, title, False, None, False, False, moment, moment)
    size += conversation_size(conversation, persona.persona)
    added = size + persona_files.new_bytes(connection, owner, persona)
    limits.check(connection, owner, added, conversations=1)
    insert_conversation(connection, owner, conversation, persona, size)
    return conversation.id


def _insert_greetings(
    connection: Connection, owner: str, conversation: str, turn: NewTurn, moment: datetime
) -> str | None:
    """Insert the greetings of a new conversation. Returns the id of the chosen one, else the turn's parent."""
    greetings = [
        _message(conversation, None, "assistant", text, moment)
        for text in (turn.greetings if turn.question is not None else ())
    ]
    insert_messages(connection, owner, greetings)
    return greetings[turn.greeting].id if greetings else turn.parent


def _insert_question(connection: Connection, owner: str, conversation: str, turn: NewTurn, moment: datetime) -> str:
    """Insert the question if the turn has one. Returns the id of the message to reply to. Raises NotFoundError."""
    parent = None
    if turn.parent is not None:
        parent = find_message(connection, owner, turn.parent, messages.c.conversation, messages.c.role)
        if parent.conversation != conversation:
            raise NotFoundError("message")
    if turn.question is not None:
        question = _message(conversation, turn.parent, "user", turn.question, moment)
        insert_messages(connection, owner, [question])
        return question.id
    if turn.parent is None or parent is None or parent.role != "user":
        raise NotFoundError("question")
    return turn.parent


def _message(conversation: str, parent: str | None, role: Role, content: str, created: datetime) -> StoredMessage:
    return StoredMessage(new_id(), conversation, parent, role, content, created)


def _running_reply(conversation: str, parent: str, author: Author, created: datetime) -> StoredMessage:
    """A running reply that has only its author's prefix."""
    return replace(
        _message(conversation, parent, "assistant", author.prefix, created),
        state="running",
        reasoning=author.prefix_reasoning,
        author=author,
    )
