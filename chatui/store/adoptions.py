"""All that one owner has goes to another; what was answered when that was offered is remembered."""

from sqlalchemy import Connection, Table, delete, func, insert, literal, select, update

from chatui.store.database import Database
from chatui.store.rows import now
from chatui.store.tables import adoptions, conversations, metadata


class Adoptions:
    """Thread-safe; every method may wait for the disk, and raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def adopt(self, source: str, target: str) -> None:
        """Give `target` all that `source` has, in one transaction."""
        with self._database.maintaining() as connection:
            if self._database.sqlite:
                _move_one_by_one(connection, source, target)
            else:
                _move_at_once(connection, source, target)
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


def _note(connection: Connection, source: str, target: str, accepted: bool) -> None:
    pair = (adoptions.c.source == source) & (adoptions.c.target == target)
    connection.execute(delete(adoptions).where(pair))
    values = {"source": source, "target": target, "accepted": accepted, "moment": now()}
    connection.execute(insert(adoptions).values(values))


def _owned() -> list[Table]:
    return [table for table in metadata.sorted_tables if "owner" in table.c]


def _move_one_by_one(connection: Connection, source: str, target: str) -> None:
    """Rows name each other with their owner, so they fit together again only when all have moved."""
    connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    for table in _owned():
        connection.execute(update(table).where(table.c.owner == source).values(owner=target))


def _move_at_once(connection: Connection, source: str, target: str) -> None:
    """PostgreSQL checks what rows name at the end of each statement, so there is only one."""
    moves = [
        update(table).where(table.c.owner == source).values(owner=target).returning(table.c.owner).cte(f"in_{table}")
        for table in _owned()
    ]
    connection.execute(select(literal(1)).add_cte(*moves))
