"""Where conversations and personas are kept: opens the database, writes growing replies, and keeps house."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from sqlalchemy import URL, ColumnElement, Connection, and_, func, inspect, literal, or_, select, update

from chatui.errors import ChatError, StoreError, unexpected
from chatui.settings import AppSettings
from chatui.store import import_merge, persona_files, reply_updates, search, tables
from chatui.store.adoptions import Adoptions
from chatui.store.backups import backup
from chatui.store.database import ALL_OWNERS, Database, url_of
from chatui.store.migrating import backup_files, migrate, revision, upgrade
from chatui.store.owner_store import OwnerStore
from chatui.store.quotas import UNLIMITED, Quotas
from chatui.store.records import ReplyUpdate, UpdateResult
from chatui.store.rows import clock, remove_conversation
from chatui.store.tables import conversations, messages, secrets

log = logging.getLogger(__name__)

Condition = Callable[[datetime], ColumnElement[bool]]
"""By the time that it is now: the conversations that are meant."""

SLOW_SECONDS = 1.0
COPIES_KEPT = timedelta(days=7)
"""How long a copy that was made before a migration is there to go back to."""


class Store:
    """All that is kept, of all owners. Thread-safe; every method may wait for the disk, and raises StoreError."""

    def __init__(self, database: Database, copies: Path | None = None, limits: Quotas = UNLIMITED) -> None:
        """A store over a database whose tables are up to date; `copies` is where copies of one that is no file are.

        `limits` hold for each owner.
        """
        self.database, self._copies, self._limits = database, copies, limits
        self._traces = True

    @classmethod
    def open(cls, settings: AppSettings) -> Self:
        """Open the database that the settings name; an older one is copied first and then migrated."""
        database = Database(url_of(settings))
        try:
            migrate(database, settings.data_dir)
        except BaseException:
            database.close()
            raise
        return cls(database, settings.data_dir, Quotas.of(settings))

    @classmethod
    def open_unmigrated(cls, settings: AppSettings) -> Self:
        """The database that is there, not migrated and for backup() only; a server may be using it."""
        return cls(Database(url_of(settings, make=False)))

    @classmethod
    def in_memory(cls, limits: Quotas = UNLIMITED) -> Self:
        """An empty store that is gone when it is closed."""
        database = Database(URL.create("sqlite"))
        upgrade(database, "head")
        return cls(database, limits=limits)

    def cookie_secret(self) -> bytes:
        """32 random bytes, made once for this database."""
        with self.database.reading() as connection:
            value = connection.scalar(select(secrets.c.value).where(secrets.c.name == "cookies"))
        if value is None:
            raise StoreError("The database has lost its secret.", "Put a back-up in its place.")
        return bytes(value)

    @property
    def adoptions(self) -> Adoptions:
        """How what one owner has goes to another."""
        return Adoptions(self.database)

    def for_owner(self, owner: str) -> OwnerStore:
        """What this owner has."""
        return OwnerStore(self.database, owner, self._limits)

    def update_replies(self, progress: Sequence[ReplyUpdate]) -> list[UpdateResult]:
        """Keep what replies have come to, and tell what became of each.

        A reply that is no longer running, or is another's to write, stays as it is. All are written in one transaction;
        where that fails although the store answers, each is in one of its own, so that a bad one spoils only itself.
        Raises where none could be kept.
        """
        if not progress:
            return []
        began = time.monotonic()
        try:
            with self.database.writing() as connection:
                return reply_updates.write(connection, progress)
        except Exception:
            # Where a failure took its time, each of the others would only wait as long.
            if len(progress) == 1 or time.monotonic() - began > SLOW_SECONDS or not self._answers():
                raise
        return [self._write_alone(one) for one in progress]

    def _write_alone(self, one: ReplyUpdate) -> UpdateResult:
        try:
            return self.update_replies([one])[0]
        except ChatError as error:
            return UpdateResult(error=error)
        except Exception as error:
            log.exception("a reply could not be kept")
            return UpdateResult(error=unexpected(error))

    def _answers(self) -> bool:
        try:
            with self.database.reading() as connection:
                connection.execute(select(literal(1)))
        except StoreError:
            return False
        return True

    def stale_replies(self, stale_for: timedelta) -> dict[tuple[str, str], datetime]:
        """Running replies of which nothing was heard for so long, by owner and id, and when something last was."""
        with self.database.reading() as connection:
            statement = select(messages.c.owner, messages.c.id, messages.c.heartbeat)
            statement = statement.where(_silent(connection, stale_for))
            rows = connection.execute(statement, execution_options={ALL_OWNERS: True})
            return {(row.owner, row.id): row.heartbeat for row in rows}

    def interrupt_stale(self, stale_for: timedelta, which: Mapping[tuple[str, str], datetime] | None = None) -> int:
        """Mark running replies that nobody has written for so long as interrupted. Returns how many.

        Of `which`, see stale_replies(), those of which nothing was heard since.
        """
        with self.database.maintaining() as connection:
            lost = update(messages).where(_silent(connection, stale_for)).values(state="interrupted", lease=None)
            if which is None:
                return connection.execute(lost).rowcount
            return sum(
                connection.execute(
                    lost.where(messages.c.owner == owner, messages.c.id == id, messages.c.heartbeat == heard)
                ).rowcount
                for (owner, id), heard in which.items()
            )

    def purge(self, deleted_for: timedelta) -> int:
        """Really remove conversations that were deleted so long ago, from older copies too. Returns how many.

        Copies that were made before migrations are removed when they are COPIES_KEPT old.
        """
        gone = self._remove(lambda now: conversations.c.deleted <= now - deleted_for)
        self._take_from_copies(gone)
        return len(gone)

    def empty_trash(self, owner: str) -> int:
        """Really remove all that this owner has deleted, from older copies too. Returns how many."""
        table = conversations.c
        mine = and_(table.owner == owner, table.deleted.is_not(None), table.arriving.is_(None))
        gone = self._remove(lambda _: mine)
        self._take_from_copies(gone)
        return len(gone)

    def purge_temporary(self, idle_for: timedelta) -> list[str]:
        """Really remove temporary conversations: deleted ones, and those in which nothing was asked for so long.

        Returns their ids.
        """
        table = conversations.c
        gone = self._remove(lambda now: or_(table.deleted.is_not(None), table.updated <= now - idle_for))
        return [id for _, id in gone]

    def remove_unfinished_imports(self, stale_for: timedelta) -> int:
        """Remove what imports left half in, of which nothing has come for so long. Returns how many."""
        with self.database.reading() as connection:
            old = conversations.c.arriving < clock(connection) - stale_for
            statement = select(conversations.c.owner, conversations.c.id).where(old)
            rows = connection.execute(statement, execution_options={ALL_OWNERS: True}).all()
        for owner, id in rows:
            import_merge.remove_unfinished(self.database, owner, id)
        return len(rows)

    def discard(self, owner: str, id: str) -> None:
        """Really remove this conversation at once, where it is there."""
        import_merge.remove_in_pieces(self.database, owner, id)
        search.forget_removed(self.database)

    def _take_from_copies(self, gone: Sequence[tuple[str, str]]) -> None:
        for file in backup_files(self.database, self._copies) if self._copies else ():
            _look_after_copy(file, gone)

    def _remove(self, which: Condition) -> list[tuple[str, str]]:
        removed: list[tuple[str, str]] = []
        while batch := self._remove_some(which):
            removed += batch
        # At the first time too: a server may have ended in between.
        if removed or self._traces:
            search.forget_removed(self.database)
            self._traces = not self.database.leave_no_trace()
        return removed

    def _remove_some(self, which: Condition, limit: int = 20) -> list[tuple[str, str]]:
        """At most `limit`, so that others may write in between; long ones in pieces, for the same reason."""
        table, own = conversations.c, messages.c
        mine = and_(own.owner == table.owner, own.conversation == table.id)
        count = select(func.count()).select_from(messages).where(mine).scalar_subquery()
        with self.database.maintaining() as connection:
            chosen = select(table.owner, table.id, count.label("messages")).where(which(clock(connection)))
            rows = connection.execute(chosen.limit(limit).with_for_update(of=conversations)).all()
            short = [(row.owner, row.id) for row in rows if row.messages <= import_merge.AT_ONCE]
            for owner, id in short:
                remove_conversation(connection, owner, id)
            for owner in {owner for owner, _ in short}:
                persona_files.remove_unused(connection, owner)
        long = [(row.owner, row.id) for row in rows if row.messages > import_merge.AT_ONCE]
        for owner, id in long:
            import_merge.remove_in_pieces(self.database, owner, id)
        return short + long

    def backup(self, target: Path) -> None:
        """Write a consistent copy of everything to a new SQLite file, while the store is in use."""
        now = revision(self.database)
        if now is None:
            raise StoreError("There is nothing in the database to copy.", "Check --data-dir or --database-url.")
        backup(self.database, target, lambda fresh: upgrade(fresh, now))

    def close(self) -> None:
        """Close all connections."""
        self.database.close()


def _silent(connection: Connection, stale_for: timedelta) -> ColumnElement[bool]:
    return and_(messages.c.state == "running", messages.c.heartbeat < clock(connection) - stale_for)


def _look_after_copy(file: Path, gone: Sequence[tuple[str, str]]) -> None:
    """Remove an old copy, or from one that is not old yet the conversations that are `gone`."""
    copied = Database(URL.create("sqlite", database=str(file)))
    try:
        with copied.named_errors():
            made = file.stat().st_mtime
            if time.time() - made > COPIES_KEPT.total_seconds():
                file.unlink()
                return
            if not gone:
                return
            with copied.maintaining() as connection:
                for owner, id in gone:
                    remove_conversation(connection, owner, id)
                if inspect(connection).has_table(tables.cards.name):
                    for owner in {owner for owner, _ in gone}:
                        persona_files.remove_unused(connection, owner)
            search.forget_removed(copied)
            os.utime(file, (made, made))
    except StoreError as error:
        log.warning("%s still has conversations that were deleted: %s", file, error)
    finally:
        copied.close()
