"""Copies the path to a message into a new conversation."""

from dataclasses import replace

from sqlalchemy import Connection

from chatui.errors import ChatError
from chatui.personas import Persona
from chatui.store.persona_files import StoredPersona
from chatui.store.quotas import Quotas, conversation_size, inspections_size, message_size
from chatui.store.records import ConversationInfo
from chatui.store.rows import (
    PERSONA_COLUMNS,
    copy_inspections,
    database_time,
    find_conversation,
    find_message,
    info_of,
    insert_conversation,
    insert_messages,
    path_end,
    with_fresh_ids,
)
from chatui.store.tables import messages


def branch(connection: Connection, owner: str, limits: Quotas, message: str) -> ConversationInfo:
    """See OwnerStore.branch(); runs in the caller's write transaction."""
    id = find_message(connection, owner, message, messages.c.conversation).conversation
    row = find_conversation(connection, owner, id, *PERSONA_COLUMNS)
    path = path_end(connection, owner, id, message).messages
    if any(one.state == "running" for one in path):
        raise ChatError("A reply that is still being written cannot be branched.", "Stop it or let it end.")
    moment = database_time(connection)
    original = replace(info_of(row), leaf=message, pinned=False, archived=False, created=moment, updated=moment)
    conversation, copies = with_fresh_ids(original, path)
    persona = StoredPersona(row.persona or Persona(name=""), row.card)
    size = conversation_size(conversation, persona.persona) + sum(map(message_size, copies))
    size += inspections_size(connection, owner, [one.id for one in path])
    limits.check(connection, owner, size, conversations=1)
    insert_conversation(connection, owner, conversation, persona, size)
    insert_messages(connection, owner, copies)
    copy_inspections(connection, owner, dict(zip((one.id for one in path), copies, strict=True)))
    return conversation
