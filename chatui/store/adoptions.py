"""All that one owner has goes to another; what was answered when that was offered is remembered."""

import contextlib
from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, exists, func, insert, literal, select, update

from chatui.errors import NotFoundError
from chatui.store import persona_files, tables
from chatui.store.database import Database
from chatui.store.import_merge import pause, remove_in_pieces
from chatui.store.owner_store import OwnerStore
from chatui.store.quotas import grow
from chatui.store.rows import now
from chatui.store.tables import adoptions, conversations, inspections, messages, personas

PIECE_CONVERSATIONS, PIECE_MESSAGES, PIECE_CHARACTERS = 50, 200, 200_000
"""No more are moved within one transaction: the words of their titles and messages are put into the index anew."""
LONG = 1_000
"""Messages; a longer conversation is copied in pieces, as its rows can only be moved together."""
PIECE_INSPECTIONS = 20


class Adoptions:
    """Thread-safe; every method may wait for the disk, and raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def adopt(self, source: str, target: str) -> None:
        """Give `target` all that `source` has, a few conversations at a time, so that others may write in between.

        Where that fails half way, the next time goes on with the rest.
        """
        while some := self._next(source):
            copied = self._same(source, target, some) | self._long(source, some)
            if moved := [id for id in some if id not in copied]:
                with self._database.maintaining() as connection:
                    _move(connection, source, target, moved)
            for id in copied:
                self._copy(source, target, id)
            pause()
        with self._database.maintaining() as connection:
            theirs = personas.c.owner == source
            persona_files.give(
                connection, source, target, tables.cards.c.hash.in_(select(personas.c.card).where(theirs))
            )
            connection.execute(update(personas).where(theirs).values(owner=target))
            persona_files.remove_unused(connection, source)
            _note(connection, source, target, accepted=True)

    def decline(self, source: str, target: str) -> None:
        """Remember that `target` does not want what `source` has now."""
        with self._database.writing() as connection:
            _note(connection, source, target, accepted=False)

    def adopted(self, source: str, target: str) -> bool:
        """Whether `target` has what `source` once had."""
        with self._database.reading() as connection:
            pair = (adoptions.c.source == source) & (adoptions.c.target == target)
            return bool(connection.scalar(select(adoptions.c.accepted).where(pair)))

    def offered(self, source: str, target: str) -> int:
        """How many conversations of `source` could go to `target`; 0 where nothing has come since it declined."""
        table = conversations.c
        with self._database.reading() as connection:
            pair = (adoptions.c.source == source) & (adoptions.c.target == target) & ~adoptions.c.accepted
            declined = connection.scalar(select(adoptions.c.moment).where(pair))
            statement = select(func.count()).where(table.owner == source, table.deleted.is_(None))
            if declined is not None:
                statement = statement.where(table.updated > declined)
            return connection.scalar(statement) or 0

    def _next(self, source: str) -> list[str]:
        """The first conversations of `source`: so many that they are moved in a moment, but one at least."""
        table, own = conversations.c, messages.c
        size = func.coalesce(func.sum(func.length(own.content)), 0)
        joined = and_(own.owner == source, own.conversation == table.id)
        counted = select(table.id, func.count(own.seq).label("messages"), size.label("characters"))
        counted = counted.select_from(conversations.outerjoin(messages, joined)).where(table.owner == source)
        counted = counted.group_by(table.seq, table.id).order_by(table.seq).limit(PIECE_CONVERSATIONS)
        with self._database.reading() as connection:
            rows = connection.execute(counted).all()
        some: list[str] = []
        count = characters = 0
        for row in rows:
            count, characters = count + row.messages, characters + row.characters
            if some and (count > PIECE_MESSAGES or characters > PIECE_CHARACTERS):
                break
            some.append(row.id)
        return some

    def _same(self, source: str, target: str, ids: Sequence[str]) -> set[str]:
        """Those of which `target` has something already, as both have imported one file."""
        there, here = conversations.alias("there"), messages.alias("here")
        twice = and_(conversations.c.owner == source, conversations.c.id.in_(ids))
        whole = select(conversations.c.id).join(there, and_(there.c.owner == target, there.c.id == conversations.c.id))
        said = and_(messages.c.owner == source, messages.c.conversation.in_(ids))
        parts = select(messages.c.conversation).join(here, and_(here.c.owner == target, here.c.id == messages.c.id))
        with self._database.reading() as connection:
            return {*connection.scalars(whole.where(twice)), *connection.scalars(parts.where(said))}

    def _long(self, source: str, ids: Sequence[str]) -> set[str]:
        """Those with too many messages to be moved within one transaction; what is deleted is moved all the same."""
        own, table = messages.c, conversations.c
        mine = and_(table.owner == source, table.id.in_(ids), table.deleted.is_(None))
        joined = and_(own.owner == source, own.conversation == table.id)
        counted = select(table.id).select_from(conversations.join(messages, joined)).where(mine)
        counted = counted.group_by(table.id).having(func.count() > LONG)
        with self._database.reading() as connection:
            return set(connection.scalars(counted))

    def _copy(self, source: str, target: str, id: str) -> None:
        """Give `target` what is new to it of a conversation, unless `source` has deleted it; in short transactions."""
        with contextlib.suppress(NotFoundError):
            for tree in OwnerStore(self._database, source).trees([id]):
                OwnerStore(self._database, target).merge_tree(tree)
                self._copy_inspections(source, target, id)
        remove_in_pieces(self._database, source, id)

    def _copy_inspections(self, source: str, target: str, id: str) -> None:
        mine = and_(inspections.c.owner == source, messages.c.owner == source, messages.c.conversation == id)
        joined = inspections.join(messages, inspections.c.message == messages.c.id)
        there, known = messages.alias("there"), inspections.alias("known")
        lacking = and_(
            exists().where(there.c.owner == target, there.c.id == inspections.c.message),
            ~exists().where(known.c.owner == target, known.c.message == inspections.c.message),
        )
        some = select(inspections).select_from(joined).where(mine, lacking).limit(PIECE_INSPECTIONS)
        while True:
            with self._database.maintaining() as connection:
                rows = [dict(row) for row in connection.execute(some).mappings()]
                if not rows:
                    return
                connection.execute(insert(inspections), [{**row, "owner": target} for row in rows])
                grow(connection, target, id, sum(len(row["data"]) for row in rows))
            pause()


def _note(connection: Connection, source: str, target: str, accepted: bool) -> None:
    pair = (adoptions.c.source == source) & (adoptions.c.target == target)
    connection.execute(delete(adoptions).where(pair))
    values = {"source": source, "target": target, "accepted": accepted, "moment": now()}
    connection.execute(insert(adoptions).values(values))


def _move(connection: Connection, source: str, target: str, ids: Sequence[str]) -> None:
    """Give these conversations with all that belongs to them to `target`.

    Their rows name each other with their owner, so they fit together again only when all have moved.
    """
    mine = and_(conversations.c.owner == source, conversations.c.id.in_(ids))
    said = and_(messages.c.owner == source, messages.c.conversation.in_(ids))
    told = and_(inspections.c.owner == source, inspections.c.message.in_(select(messages.c.id).where(said)))
    persona_files.give(connection, source, target, tables.cards.c.hash.in_(select(conversations.c.card).where(mine)))
    moves = [(inspections, told), (messages, said), (conversations, mine)]
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        for table, those in moves:
            connection.execute(update(table).where(those).values(owner=target))
        return
    # PostgreSQL checks what rows name at the end of each statement, so there is only one.
    ctes = [
        update(table).where(those).values(owner=target).returning(table.c.owner).cte(f"in_{table}")
        for table, those in moves
    ]
    connection.execute(select(literal(1)).add_cte(*ctes))
