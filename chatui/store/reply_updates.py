"""How far running replies have come, into their rows; only who has a reply's lease writes it."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, and_, insert, select, update

from chatui.store.quotas import grow, progress_size
from chatui.store.records import ReplyUpdate, UpdateResult
from chatui.store.rows import clock, message_of
from chatui.store.tables import conversations, inspections, messages


def write(connection: Connection, progress: Sequence[ReplyUpdate]) -> list[UpdateResult]:
    """Write all of these, which is also their sign of life, and tell what became of each."""
    _lock_conversations(connection, [one for one in progress if one.state != "running"])
    moment = clock(connection)
    return [_write_one(connection, one, moment) for one in progress]


def _lock_conversations(connection: Connection, ended: Sequence[ReplyUpdate]) -> None:
    """Before their messages, and in one order, as all others lock them: they will take more bytes."""
    if connection.dialect.name == "sqlite":  # has one writer
        return
    places: set[tuple[str, str]] = set()
    for one in ended:
        mine = and_(messages.c.owner == one.owner, messages.c.id == one.message)
        places.update((row.owner, row.conversation) for row in connection.execute(select(messages).where(mine)))
    for owner, id in sorted(places):
        table = conversations.c
        connection.execute(select(table.id).where(table.owner == owner, table.id == id).with_for_update())


def _write_one(connection: Connection, one: ReplyUpdate, moment: datetime) -> UpdateResult:
    mine = and_(messages.c.owner == one.owner, messages.c.id == one.message)
    written = connection.execute(
        update(messages)
        .where(mine, messages.c.state == "running", messages.c.lease.is_not_distinct_from(one.lease))
        .values(
            content=one.content,
            reasoning=one.reasoning,
            state=one.state,
            finish=one.finish,
            error=one.error,
            heartbeat=moment,
        )
        .returning(messages.c.stop_requested, messages.c.conversation)
    ).all()
    if not written:
        return _not_written(connection, one)
    if one.state != "running":
        grow(connection, one.owner, written[0].conversation, progress_size(one))
    if one.inspection is not None:
        values = {"owner": one.owner, "message": one.message, "data": one.inspection}
        connection.execute(insert(inspections).values(values))
    return UpdateResult(stop_requested=bool(written[0].stop_requested))


def _not_written(connection: Connection, one: ReplyUpdate) -> UpdateResult:
    mine = and_(messages.c.owner == one.owner, messages.c.id == one.message)
    row = connection.execute(select(messages).where(mine)).first()
    if row is not None and row.state != "running" and row.lease is not None and row.lease == one.lease:
        return UpdateResult()  # written before, by a transaction whose success could not be told any more
    return UpdateResult(lease_lost=True, stored=None if row is None else message_of(row, ()))
