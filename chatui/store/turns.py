"""Starts a turn: adds a question and an empty running reply, and the conversation if it is new.

A turn with the id and the text of an earlier one is that one, sent again: the page did not know that it had arrived.
"""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, and_, select, update

from chatui.chat import Role
from chatui.errors import NotFoundError, StoreError
from chatui.personas import Persona
from chatui.store import persona_files
from chatui.store.database import Database
from chatui.store.notifications import notify_chat
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
from chatui.text_cleaning import clean


class RepeatedTurnError(Exception):
    """The turn was sent again. `conversation` and `reply` are those of the first time."""

    def __init__(self, conversation: str, reply: str) -> None:
        super().__init__(conversation, reply)
        self.conversation, self.reply = conversation, reply


def check_repeated(
    connection: Connection, owner: str, id: str, conversation: str | None, parent: str | None, question: str | None
) -> bool:
    """Raise RepeatedTurnError if a NewTurn of these values was started before. Returns whether its id is free."""
    asked = messages.alias("asked")
    columns = (messages.c.conversation, asked.c.id, asked.c.parent, asked.c.content)
    joined = and_(asked.c.owner == owner, asked.c.id == messages.c.parent)
    of_reply = select(*columns).select_from(messages.outerjoin(asked, joined))
    reply = connection.execute(of_reply.where(messages.c.owner == owner, messages.c.id == id)).first()
    if reply is None:
        return True
    is_same = conversation in (None, reply.conversation)
    if question is None:
        is_same &= reply.id == parent
    else:
        is_same &= reply.content == clean(question) and (conversation is None or reply.parent == parent)
    if is_same:
        raise RepeatedTurnError(reply.conversation, id)
    return False


def start(
    database: Database, owner: str, limits: Quotas, turn: NewTurn, lease: str | None
) -> tuple[ConversationInfo, str]:
    """Insert the rows of a turn; see OwnerStore.start_turn(). Returns the conversation and the id of the reply.

    Raises RepeatedTurnError, NotFoundError, LimitError or OverloadError.
    """
    persona = StoredPersona.of(turn.persona if turn.conversation is None else Persona(name=""))
    id, identity = turn.id, (turn.conversation, turn.parent, turn.question)
    try:
        with database.writing() as connection:
            if id is not None and not check_repeated(connection, owner, id, *identity):
                turn = replace(turn, id=None)
            conversation, reply = _start(connection, owner, limits, turn, persona, lease)
            notify_chat(connection, owner, conversation.id)
            return conversation, reply
    except StoreError:  # perhaps because another server has just inserted a reply with this id
        if id is not None:
            with database.reading() as connection:
                check_repeated(connection, owner, id, *identity)
        raise


def _start(
    connection: Connection, owner: str, limits: Quotas, turn: NewTurn, persona: StoredPersona, lease: str | None
) -> tuple[ConversationInfo, str]:
    """Insert the rows. `persona` is the persona of a new conversation."""
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
    reply = _running_reply(id, parent, turn.author, moment, turn.id)
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


def _running_reply(conversation: str, parent: str, author: Author, created: datetime, id: str | None) -> StoredMessage:
    """A running reply that has only its author's prefix."""
    reply = _message(conversation, parent, "assistant", author.prefix, created)
    return replace(
        reply,
        id=id or reply.id,
        state="running",
        reasoning=author.prefix_reasoning,
        author=author,
    )
