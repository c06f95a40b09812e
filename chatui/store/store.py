"""Where conversations and personas are kept: opens the database, writes growing replies, and keeps house."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Self

from sqlalchemy import URL, ColumnElement, Connection, and_, delete, insert, select, update

from chatui.errors import StoreError
from chatui.settings import AppSettings
from chatui.store.copies import copy
from chatui.store.database import Database, url_of
from chatui.store.opening import bring_up_to_date, revision, upgrade
from chatui.store.records import Progress
from chatui.store.rows import now
from chatui.store.shelf import Shelf
from chatui.store.tables import conversations, inspections, messages, secrets


class Store:
    """All that is kept, of all owners. Thread-safe; every method may wait for the disk, and raises StoreError."""

    def __init__(self, database: Database) -> None:
        """A store over a database whose tables are up to date."""
        self.database = database

    @classmethod
    def open(cls, settings: AppSettings) -> Self:
        """Open the database that the settings name; an older one is copied first and then migrated."""
        database = Database(url_of(settings))
        try:
            bring_up_to_date(database, settings.data_dir)
        except BaseException:
            database.close()
            raise
        return cls(database)

    @classmethod
    def as_it_is(cls, settings: AppSettings) -> Self:
        """The database that is there, not migrated and for backup() only; a server may be using it."""
        return cls(Database(url_of(settings, make=False)))

    @classmethod
    def in_memory(cls) -> Self:
        """An empty store that is gone when it is closed."""
        database = Database(URL.create("sqlite"))
        upgrade(database, "head")
        return cls(database)

    def secret(self) -> bytes:
        """32 random bytes, made once for this database."""
        with self.database.reading() as connection:
            value = connection.scalar(select(secrets.c.value).where(secrets.c.name == "cookies"))
        if value is None:
            raise StoreError("The database has lost its secret.", "Put a back-up in its place.")
        return bytes(value)

    def of(self, owner: str) -> Shelf:
        """What this owner has."""
        return Shelf(self.database, owner)

    def write(self, progress: Sequence[Progress]) -> None:
        """Keep what replies have come to, in one transaction. A reply that is no longer running stays as it is."""
        if not progress:
            return
        moment = now()
        with self.database.writing() as connection:
            for one in progress:
                written = connection.execute(
                    update(messages)
                    .where(messages.c.owner == one.owner, messages.c.id == one.message, messages.c.state == "running")
                    .values(
                        content=one.content,
                        reasoning=one.reasoning,
                        state=one.state,
                        finish=one.finish,
                        error=one.error,
                        heartbeat=moment,
                    )
                )
                if one.inspection is not None and written.rowcount == 1:
                    values = {"owner": one.owner, "message": one.message, "data": one.inspection}
                    connection.execute(insert(inspections).values(values))

    def interrupt(self, silent_for: timedelta) -> int:
        """Mark running replies that nobody has written for so long as interrupted. Returns how many."""
        silent = (messages.c.state == "running") & (messages.c.heartbeat < now() - silent_for)
        with self.database.maintaining() as connection:
            return connection.execute(update(messages).where(silent).values(state="interrupted")).rowcount

    def purge(self, deleted_for: timedelta) -> int:
        """Really remove conversations that were deleted so long ago. Returns how many."""
        return self._remove(conversations.c.deleted <= now() - deleted_for)

    def forget(self, untouched_for: timedelta) -> int:
        """Really remove conversations in which nothing was asked for so long, for temporary ones. Returns how many."""
        return self._remove(conversations.c.updated <= now() - untouched_for)

    def _remove(self, which: ColumnElement[bool]) -> int:
        removed = 0
        while batch := self._remove_some(which):
            removed += batch
        return removed

    def _remove_some(self, which: ColumnElement[bool], limit: int = 100) -> int:
        """At most `limit`, so that others may write in between."""
        with self.database.maintaining() as connection:
            rows = connection.execute(
                select(conversations.c.owner, conversations.c.id).where(which).limit(limit).with_for_update()
            ).all()
            for owner, id in rows:
                _remove_conversation(connection, owner, id)
        return len(rows)

    def backup(self, target: Path) -> None:
        """Write a consistent copy of everything to a new SQLite file, while the store is in use."""
        now = revision(self.database)
        if now is None:
            raise StoreError("There is nothing in the database to copy.", "Check --data-dir or --database-url.")
        copy(self.database, target, lambda fresh: upgrade(fresh, now))

    def close(self) -> None:
        """Close all connections."""
        self.database.close()


def _remove_conversation(connection: Connection, owner: str, id: str) -> None:
    mine = and_(messages.c.owner == owner, messages.c.conversation == id)
    inspected = inspections.c.message.in_(select(messages.c.id).where(mine))
    connection.execute(delete(inspections).where(inspections.c.owner == owner, inspected))
    connection.execute(delete(messages).where(mine))
    connection.execute(delete(conversations).where(conversations.c.owner == owner, conversations.c.id == id))
