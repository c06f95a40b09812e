"""Moves everything of one owner to another, and remembers whether the new owner accepted the offer."""

import contextlib
from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, exists, func, insert, literal, select, update

from chatui.errors import NotFoundError
from chatui.store import own_votes, persona_files, tables
from chatui.store.database import Database
from chatui.store.import_merge import pause, remove_in_batches
from chatui.store.notifications import notify_chat
from chatui.store.owner_store import OwnerStore
from chatui.store.quotas import add_size
from chatui.store.rows import now
from chatui.store.tables import adoptions, conversations, inspections, messages, personas

BATCH_CONVERSATIONS, BATCH_MESSAGES, BATCH_CHARACTERS = 50, 200, 200_000
"""The limits of one transaction, because moved titles and messages are indexed again."""
MAX_MOVED_MESSAGES = 1_000
"""A longer conversation is copied in batches, because its rows can only be moved together."""
BATCH_INSPECTIONS = 20


class Adoptions:
    """Adoptions from one owner to another. Thread-safe; methods may wait for the disk, and raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def adopt(self, source: str, target: str) -> None:
        """Move everything of `source` to `target`, a few conversations at a time, so that others can write in between.

        If it fails half way, the next call continues with the rest.
        """
        while batch := self._next_batch(source):
            copied = self._overlapping(source, target, batch) | self._long(source, batch)
            if moved := [id for id in batch if id not in copied]:
                with self._database.maintaining() as connection:
                    _move(connection, source, target, moved)
            for id in copied:
                self._copy(source, target, id)
            pause()
        with self._database.maintaining() as connection:
            moved_personas = personas.c.owner == source
            persona_files.copy_cards(
                connection, source, target, tables.cards.c.hash.in_(select(personas.c.card).where(moved_personas))
            )
            connection.execute(update(personas).where(moved_personas).values(owner=target))
            persona_files.remove_unused(connection, source)
            own_votes.move(connection, source, target)
            _save_answer(connection, source, target, accepted=True)
            notify_chat(connection, target, "")

    def decline(self, source: str, target: str) -> None:
        """Remember that `target` declined what `source` has now."""
        with self._database.writing() as connection:
            _save_answer(connection, source, target, accepted=False)

    def adopted(self, source: str, target: str) -> bool:
        """Whether `target` has adopted from `source`."""
        with self._database.reading() as connection:
            pair = (adoptions.c.source == source) & (adoptions.c.target == target)
            return bool(connection.scalar(select(adoptions.c.accepted).where(pair)))

    def offered(self, source: str, target: str) -> int:
        """The number of conversations that `target` could adopt; 0 if nothing is newer than its last decline."""
        table = conversations.c
        with self._database.reading() as connection:
            pair = (adoptions.c.source == source) & (adoptions.c.target == target) & ~adoptions.c.accepted
            declined = connection.scalar(select(adoptions.c.moment).where(pair))
            statement = select(func.count()).where(table.owner == source, table.deleted.is_(None))
            if declined is not None:
                statement = statement.where(table.updated > declined)
            return connection.scalar(statement) or 0

    def _next_batch(self, source: str) -> list[str]:
        """The first conversations of `source` within the limits of a batch, but at least one."""
        table, message = conversations.c, messages.c
        size = func.coalesce(func.sum(func.length(message.content)), 0)
        joined = and_(message.owner == source, message.conversation == table.id)
        counted = select(table.id, func.count(message.seq).label("messages"), size.label("characters"))
        counted = counted.select_from(conversations.outerjoin(messages, joined)).where(table.owner == source)
        counted = counted.group_by(table.seq, table.id).order_by(table.seq).limit(BATCH_CONVERSATIONS)
        with self._database.reading() as connection:
            rows = connection.execute(counted).all()
        batch: list[str] = []
        count = characters = 0
        for row in rows:
            count, characters = count + row.messages, characters + row.characters
            if batch and (count > BATCH_MESSAGES or characters > BATCH_CHARACTERS):
                break
            batch.append(row.id)
        return batch

    def _overlapping(self, source: str, target: str, ids: Sequence[str]) -> set[str]:
        """The conversations of which `target` has the id or a message already, as both have imported the same file."""
        their, own = conversations.alias("their"), messages.alias("own")
        of_source = and_(conversations.c.owner == source, conversations.c.id.in_(ids))
        same_id = select(conversations.c.id).join(
            their, and_(their.c.owner == target, their.c.id == conversations.c.id)
        )
        messages_of_source = and_(messages.c.owner == source, messages.c.conversation.in_(ids))
        same_message = select(messages.c.conversation).join(own, and_(own.c.owner == target, own.c.id == messages.c.id))
        with self._database.reading() as connection:
            return {
                *connection.scalars(same_id.where(of_source)),
                *connection.scalars(same_message.where(messages_of_source)),
            }

    def _long(self, source: str, ids: Sequence[str]) -> set[str]:
        """The conversations with more than MAX_MOVED_MESSAGES that are not deleted. Deleted ones are always moved."""
        message, table = messages.c, conversations.c
        selected = and_(table.owner == source, table.id.in_(ids), table.deleted.is_(None))
        joined = and_(message.owner == source, message.conversation == table.id)
        counted = select(table.id).select_from(conversations.join(messages, joined)).where(selected)
        counted = counted.group_by(table.id).having(func.count() > MAX_MOVED_MESSAGES)
        with self._database.reading() as connection:
            return set(connection.scalars(counted))

    def _copy(self, source: str, target: str, id: str) -> None:
        """Merge a conversation into those of `target` unless it is deleted, then remove it, in short transactions."""
        with contextlib.suppress(NotFoundError):
            for tree in OwnerStore(self._database, source).trees([id]):
                OwnerStore(self._database, target).merge_tree(tree)
                self._copy_inspections(source, target, id)
        remove_in_batches(self._database, source, id)

    def _copy_inspections(self, source: str, target: str, id: str) -> None:
        """Copy the inspections of messages that `target` has without one."""
        of_source = and_(inspections.c.owner == source, messages.c.owner == source, messages.c.conversation == id)
        joined = inspections.join(messages, inspections.c.message == messages.c.id)
        copied, existing = messages.alias("copied"), inspections.alias("existing")
        missing = and_(
            exists().where(copied.c.owner == target, copied.c.id == inspections.c.message),
            ~exists().where(existing.c.owner == target, existing.c.message == inspections.c.message),
        )
        batch = select(inspections).select_from(joined).where(of_source, missing).limit(BATCH_INSPECTIONS)
        while True:
            with self._database.maintaining() as connection:
                rows = [dict(row) for row in connection.execute(batch).mappings()]
                if not rows:
                    return
                connection.execute(insert(inspections), [{**row, "owner": target} for row in rows])
                add_size(connection, target, id, sum(len(row["data"]) for row in rows))
            pause()


def _save_answer(connection: Connection, source: str, target: str, accepted: bool) -> None:
    pair = (adoptions.c.source == source) & (adoptions.c.target == target)
    connection.execute(delete(adoptions).where(pair))
    values = {"source": source, "target": target, "accepted": accepted, "moment": now()}
    connection.execute(insert(adoptions).values(values))


def _move(connection: Connection, source: str, target: str, ids: Sequence[str]) -> None:
    """Change the owner of these conversations, their messages and inspections.

    The foreign keys contain the owner, so they hold again only when all rows have moved.
    """
    conversation_rows = and_(conversations.c.owner == source, conversations.c.id.in_(ids))
    message_rows = and_(messages.c.owner == source, messages.c.conversation.in_(ids))
    moved_messages = select(messages.c.id).where(message_rows)
    inspection_rows = and_(inspections.c.owner == source, inspections.c.message.in_(moved_messages))
    used_cards = tables.cards.c.hash.in_(select(conversations.c.card).where(conversation_rows))
    persona_files.copy_cards(connection, source, target, used_cards)
    moves = [(inspections, inspection_rows), (messages, message_rows), (conversations, conversation_rows)]
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        for table, rows in moves:
            connection.execute(update(table).where(rows).values(owner=target))
        return
    # PostgreSQL checks foreign keys at the end of each statement, so there is only one.
    ctes = [
        update(table).where(rows).values(owner=target).returning(table.c.owner).cte(f"in_{table}")
        for table, rows in moves
    ]
    connection.execute(select(literal(1)).add_cte(*ctes))
