"""Puts a conversation from elsewhere beside what is there, or into the conversation that an earlier import made of it.

What is there stays: messages are only added, or grow where the file has more of their text.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, select, update

from chatui.errors import TransferError
from chatui.store.records import Conversation, Merged, StoredMessage, Tree
from chatui.store.rows import (
    conversation_of,
    derived_id,
    first_words,
    insert_conversation,
    insert_messages,
    one_line,
)
from chatui.store.tables import conversations, messages

OURS = re.compile(r"[A-Za-z0-9_-]{22}")
"""What our own ids look like, see rows.new_id()."""
AT_ONCE = 500
"""Ids that are asked for in one statement; databases limit them."""


def merge(connection: Connection, owner: str, tree: Tree) -> Merged:
    """Add what is new of a conversation. Raises TransferError where it is none."""
    conversation = _titled(tree)
    row = connection.execute(
        select(conversations)
        .where(conversations.c.owner == owner, conversations.c.id == conversation.id)
        .with_for_update()
    ).first()
    known = _known(connection, owner, conversation.id, tree.messages)
    placed = _placed(conversation, tree.messages, known)
    leaf = None if conversation.leaf is None else placed[conversation.leaf].id
    new = [message for message in placed.values() if message.id not in known]
    if row is None:
        conversation = replace(conversation, leaf=leaf)
        # The leaf is no foreign key, so that it may come before its message.
        insert_conversation(connection, owner, conversation)
        insert_messages(connection, owner, new)
        return Merged(conversation, len(new), known=False)
    insert_messages(connection, owner, new)
    grown = _grow(connection, owner, placed.values(), known)
    there = conversation_of(row)
    values: dict[str, Any] = {"deleted": None}
    if new:
        values |= {"updated": max(there.updated, conversation.updated)}
        if there.leaf is None or there.leaf in _above(leaf, placed.values()):
            values |= {"leaf": leaf}
    if conversation.named and not there.named:
        values |= {"title": conversation.title, "named": True}
    mine = and_(conversations.c.owner == owner, conversations.c.id == there.id)
    connection.execute(update(conversations).where(mine).values(values))
    changed = connection.execute(select(conversations).where(mine)).one()
    return Merged(conversation_of(changed), len(new) + grown, known=row.deleted is None)


def _titled(tree: Tree) -> Conversation:
    """The conversation with an id and a title that can be kept."""
    conversation = tree.conversation
    title = one_line(conversation.title)
    if not title:
        asked = next((message.content for message in tree.messages if message.role == "user"), "")
        conversation = replace(conversation, named=False)
        title = first_words(asked)
    id = conversation.id if OURS.fullmatch(conversation.id) else derived_id("conversation", conversation.id)
    return replace(conversation, id=id, title=title)


def _known(
    connection: Connection, owner: str, conversation: str, told: Iterable[StoredMessage]
) -> dict[str, tuple[str, str, bool]]:
    """Of the ids that these messages may have: conversation, text, and whether a model here wrote it."""
    ids = list(dict.fromkeys(id for message in told for id in (message.id, _derived(conversation, message.id))))
    columns = (messages.c.id, messages.c.conversation, messages.c.content, messages.c.author.is_not(None))
    found = {}
    for start in range(0, len(ids), AT_ONCE):
        some = messages.c.id.in_(ids[start : start + AT_ONCE])
        for id, its, content, ours in connection.execute(select(*columns).where(messages.c.owner == owner, some)):
            found[id] = (its, content, bool(ours))
    return found


def _derived(conversation: str, message: str) -> str:
    return derived_id("message", conversation, message)


def _placed(
    conversation: Conversation, told: Iterable[StoredMessage], known: dict[str, tuple[str, str, bool]]
) -> dict[str, StoredMessage]:
    """The messages by their ids in the file, under those that they have here. Raises TransferError."""
    placed: dict[str, StoredMessage] = {}
    for message in told:
        id = message.id
        if not OURS.fullmatch(id) or known.get(id, (conversation.id,))[0] != conversation.id:
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


def _grow(
    connection: Connection,
    owner: str,
    placed: Iterable[StoredMessage],
    known: dict[str, tuple[str, str, bool]],
) -> int:
    """Give known messages the rest of their text, where they were exported too early. Returns how many."""
    grown = 0
    for message in placed:
        _, content, ours = known.get(message.id, ("", "", True))
        if not ours and message.content != content and message.content.startswith(content):
            mine = and_(messages.c.owner == owner, messages.c.id == message.id)
            connection.execute(update(messages).where(mine).values(content=message.content))
            grown += 1
    return grown


def _above(leaf: str | None, placed: Iterable[StoredMessage]) -> set[str]:
    """The leaf and all that it answers."""
    parents = {message.id: message.parent for message in placed}
    path = set()
    while leaf is not None:
        path.add(leaf)
        leaf = parents.get(leaf)
    return path
