"""Writes the progress of running replies to their rows, and requests that they stop.

Only the server with a reply's lease may write it.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, insert, select, update

from chatui.store.notifications import notify
from chatui.store.quotas import add_size, reply_size
from chatui.store.records import ReplyUpdate, UpdateResult
from chatui.store.rows import database_time, message_of
from chatui.store.tables import conversations, inspections, messages


def write(connection: Connection, updates: Sequence[ReplyUpdate]) -> list[UpdateResult]:
    """Write all updates and their heartbeats, and notify other servers. Returns the result of each."""
    _lock_conversations(connection, [one for one in updates if one.state != "running"])
    moment = database_time(connection)
    # All servers lock the messages in this order, so no deadlock.
    ordered = sorted(updates, key=lambda one: (one.owner, one.message))
    results = {(one.owner, one.message): _write_one(connection, one, moment) for one in ordered}
    notify(connection, "reply", [one.message for one in updates])
    return [results[one.owner, one.message] for one in updates]


def running(connection: Connection, owner: str, conversation: str) -> list[str]:
    """The ids of the running replies of a conversation, on all servers."""
    return list(connection.scalars(select(messages.c.id).where(_is_running(owner, conversation))))


def request_stop(connection: Connection, owner: str, conversation: str) -> None:
    """Request that the running replies of a conversation stop, and notify their servers."""
    statement = update(messages).where(_is_running(owner, conversation)).values(stop_requested=True)
    notify(connection, "stop", list(connection.scalars(statement.returning(messages.c.id))))


def _is_running(owner: str, conversation: str) -> ColumnElement[bool]:
    return and_(messages.c.owner == owner, messages.c.conversation == conversation, messages.c.state == "running")


def _lock_conversations(connection: Connection, ended: Sequence[ReplyUpdate]) -> None:
    """Lock the conversations of ended replies, whose sizes change: before the messages and sorted, so no deadlock."""
    if connection.dialect.name == "sqlite":  # has one writer
        return
    keys: set[tuple[str, str]] = set()
    for one in ended:
        selected = and_(messages.c.owner == one.owner, messages.c.id == one.message)
        keys.update((row.owner, row.conversation) for row in connection.execute(select(messages).where(selected)))
    for owner, id in sorted(keys):
        table = conversations.c
        connection.execute(select(table.id).where(table.owner == owner, table.id == id).with_for_update())


def _write_one(connection: Connection, one: ReplyUpdate, moment: datetime) -> UpdateResult:
    selected = and_(messages.c.owner == one.owner, messages.c.id == one.message)
    updated = connection.execute(
        update(messages)
        .where(selected, messages.c.state == "running", messages.c.lease.is_not_distinct_from(one.lease))
        .values(
            content=one.content,
            reasoning=one.reasoning,
            state=one.state,
            finish=one.finish,
            dropped=one.dropped,
            error=one.error,
            heartbeat=moment,
        )
        .returning(messages.c.stop_requested, messages.c.conversation)
    ).all()
    if not updated:
        return _rejected(connection, one)
    if one.state != "running":
        add_size(connection, one.owner, updated[0].conversation, reply_size(one))
    if one.inspection is not None:
        values = {"owner": one.owner, "message": one.message, "data": one.inspection}
        connection.execute(insert(inspections).values(values))
    return UpdateResult(stop_requested=bool(updated[0].stop_requested))


def _rejected(connection: Connection, one: ReplyUpdate) -> UpdateResult:
    """The result of an update that changed no row."""
    selected = and_(messages.c.owner == one.owner, messages.c.id == one.message)
    row = connection.execute(select(messages).where(selected)).first()
    if row is not None and row.state != "running" and row.lease is not None and row.lease == one.lease:
        return UpdateResult()  # written by an earlier transaction whose commit could not be confirmed
    return UpdateResult(lease_lost=True, stored=None if row is None else message_of(row, ()))
