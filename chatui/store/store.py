"""Stores conversations and personas of all owners: opens the database, writes running replies, purges and backs up."""

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
from chatui.store.database import ALL_OWNERS, Database, database_url
from chatui.store.migrating import backup_files, migrate, revision, upgrade
from chatui.store.notifications import Notifications, notify
from chatui.store.owner_store import OwnerStore
from chatui.store.quotas import UNLIMITED, Quotas
from chatui.store.records import ReplyUpdate, UpdateResult
from chatui.store.rows import database_time, remove_conversation
from chatui.store.tables import conversations, messages, secrets
from chatui.store.token_counts import TokenCounts

log = logging.getLogger(__name__)

Condition = Callable[[datetime], ColumnElement[bool]]
"""A condition on conversations, made from the current time of the database."""

SLOW_SECONDS = 1.0
"""A failed transaction that took longer is not retried with its updates one by one."""
BACKUP_AGE = timedelta(days=7)
"""Backups from before migrations are deleted at this age."""


class Store:
    """The conversations and personas of all owners. Thread-safe; methods may wait for the disk, raise StoreError."""

    def __init__(self, database: Database, backups: Path | None = None, limits: Quotas = UNLIMITED) -> None:
        """Uses a database with the current tables.

        `backups` is the folder with backups of a database that is not a file. `limits` apply to each owner.
        """
        self.database, self._backups, self._limits = database, backups, limits
        self.notifications = Notifications(database)
        self._log_has_deleted_rows = True

    @classmethod
    def open(cls, settings: AppSettings) -> Self:
        """Open the database of the settings. An older one is backed up and migrated."""
        database = Database(database_url(settings))
        try:
            migrate(database, settings.data_dir)
        except BaseException:
            database.close()
            raise
        return cls(database, settings.data_dir, Quotas.from_settings(settings))

    @classmethod
    def open_unmigrated(cls, settings: AppSettings) -> Self:
        """Open the existing database without migration, for backup() or to read; a server may be using it."""
        return cls(Database(database_url(settings, create=False)))

    @classmethod
    def in_memory(cls, limits: Quotas = UNLIMITED) -> Self:
        """Open an empty store in memory, for temporary chats."""
        database = Database(URL.create("sqlite"))
        upgrade(database, "head")
        return cls(database, limits=limits)

    def cookie_secret(self) -> bytes:
        """The 32 random bytes that sign cookies, generated with the database."""
        with self.database.reading() as connection:
            value = connection.scalar(select(secrets.c.value).where(secrets.c.name == "cookies"))
        if value is None:
            raise StoreError("The database has lost its secret.", "Put a back-up in its place.")
        return bytes(value)

    @property
    def adoptions(self) -> Adoptions:
        """Adoptions of one owner's conversations by another."""
        return Adoptions(self.database)

    def for_owner(self, owner: str) -> OwnerStore:
        """The conversations and personas of one owner."""
        return OwnerStore(self.database, owner, self._limits)

    def update_replies(self, updates: Sequence[ReplyUpdate]) -> list[UpdateResult]:
        """Write the progress of running replies. Returns the result of each update.

        A reply that has ended, or whose lease another server has, is not changed. All updates are one transaction. If
        it fails and the database still answers, each update is retried in a transaction of its own. Raises the error
        if none could be written.
        """
        if not updates:
            return []
        start = time.monotonic()
        try:
            with self.database.writing() as connection:
                return reply_updates.write(connection, updates)
        except Exception:
            # After a slow failure, such as a timeout, each retry would take as long.
            if len(updates) == 1 or time.monotonic() - start > SLOW_SECONDS or not self._responds():
                raise
        return [self._update_one(one) for one in updates]

    def _update_one(self, one: ReplyUpdate) -> UpdateResult:
        try:
            return self.update_replies([one])[0]
        except ChatError as error:
            return UpdateResult(error=error)
        except Exception as error:
            log.exception("a reply could not be saved")
            return UpdateResult(error=unexpected(error))

    def _responds(self) -> bool:
        """Whether the database answers a query."""
        try:
            with self.database.reading() as connection:
                connection.execute(select(literal(1)))
        except StoreError:
            return False
        return True

    def stale_replies(self, stale_for: timedelta) -> dict[tuple[str, str], datetime]:
        """The running replies without a heartbeat for so long: their last heartbeat by owner and id."""
        with self.database.reading() as connection:
            statement = select(messages.c.owner, messages.c.id, messages.c.heartbeat)
            statement = statement.where(_is_stale(connection, stale_for))
            rows = connection.execute(statement, execution_options={ALL_OWNERS: True})
            return {(row.owner, row.id): row.heartbeat for row in rows}

    def interrupt_stale(
        self, stale_for: timedelta, heartbeats: Mapping[tuple[str, str], datetime] | None = None
    ) -> int:
        """Mark running replies without a heartbeat for so long as interrupted. Returns their number.

        With `heartbeats`, see stale_replies(), only those of them without a heartbeat since then.
        """
        with self.database.maintaining() as connection:
            stale = update(messages).where(_is_stale(connection, stale_for)).values(state="interrupted", lease=None)
            each = [stale]
            if heartbeats is not None:
                each = [
                    stale.where(messages.c.owner == owner, messages.c.id == id, messages.c.heartbeat == heartbeat)
                    for (owner, id), heartbeat in sorted(heartbeats.items())  # the order of reply_updates.write()
                ]
            ids = [id for one in each for id in connection.scalars(one.returning(messages.c.id))]
            if ids:
                notify(connection, "reply", ids)
            return len(ids)

    def purge(self, deleted_for: timedelta) -> int:
        """Remove conversations that were deleted so long ago, from backups too. Returns their number.

        Also removes backups from before migrations that are BACKUP_AGE old, and old counts of tokens.
        """
        removed = self._remove(lambda now: conversations.c.deleted <= now - deleted_for)
        self._purge_backups(removed)
        TokenCounts(self.database).purge()
        return len(removed)

    def empty_trash(self, owner: str) -> int:
        """Remove all conversations that this owner has deleted, from backups too. Returns their number."""
        table = conversations.c
        in_trash = and_(table.owner == owner, table.deleted.is_not(None), table.arriving.is_(None))
        removed = self._remove(lambda _: in_trash)
        self._purge_backups(removed)
        return len(removed)

    def purge_temporary(self, idle_for: timedelta) -> list[str]:
        """Remove temporary conversations that are deleted or without a new turn for so long. Returns their ids."""
        table = conversations.c
        removed = self._remove(lambda now: or_(table.deleted.is_not(None), table.updated <= now - idle_for))
        return [id for _, id in removed]

    def remove_unfinished_imports(self, stale_for: timedelta) -> int:
        """Remove conversations whose import has not continued for so long. Returns their number."""
        with self.database.reading() as connection:
            stale = conversations.c.arriving < database_time(connection) - stale_for
            statement = select(conversations.c.owner, conversations.c.id).where(stale)
            rows = connection.execute(statement, execution_options={ALL_OWNERS: True}).all()
        for owner, id in rows:
            import_merge.remove_unfinished(self.database, owner, id)
        return len(rows)

    def discard(self, owner: str, id: str) -> None:
        """Remove a conversation now, without the trash, if it exists."""
        import_merge.remove_in_batches(self.database, owner, id)
        search.purge_removed_words(self.database)

    def _purge_backups(self, removed: Sequence[tuple[str, str]]) -> None:
        for file in backup_files(self.database, self._backups) if self._backups else ():
            _purge_backup(file, removed)

    def _remove(self, condition: Condition) -> list[tuple[str, str]]:
        """Remove conversations, with their words in the index and their pages in the log. Returns owners and ids."""
        removed: list[tuple[str, str]] = []
        while batch := self._remove_batch(condition):
            removed += batch
        # The first call does it in any case: the last server may have stopped before it did.
        if removed or self._log_has_deleted_rows:
            search.purge_removed_words(self.database)
            self._log_has_deleted_rows = not self.database.truncate_log()
        return removed

    def _remove_batch(self, condition: Condition, limit: int = 20) -> list[tuple[str, str]]:
        """Remove at most `limit` conversations, long ones in batches of messages, so others can write in between."""
        table = conversations.c
        of_conversation = and_(messages.c.owner == table.owner, messages.c.conversation == table.id)
        count = select(func.count()).select_from(messages).where(of_conversation).scalar_subquery()
        with self.database.maintaining() as connection:
            selected = select(table.owner, table.id, count.label("messages")).where(
                condition(database_time(connection))
            )
            rows = connection.execute(selected.limit(limit).with_for_update(of=conversations)).all()
            short = [(row.owner, row.id) for row in rows if row.messages <= import_merge.MAX_IDS]
            for owner, id in short:
                remove_conversation(connection, owner, id)
            for owner in {owner for owner, _ in short}:
                persona_files.remove_unused(connection, owner)
        long = [(row.owner, row.id) for row in rows if row.messages > import_merge.MAX_IDS]
        for owner, id in long:
            import_merge.remove_in_batches(self.database, owner, id)
        return short + long

    def backup(self, target: Path) -> None:
        """Write a consistent copy to a new SQLite file, while the store is in use."""
        current = revision(self.database)
        if current is None:
            raise StoreError("There is nothing in the database to copy.", "Check --data-dir or --database-url.")
        backup(self.database, target, lambda fresh: upgrade(fresh, current))

    def close(self) -> None:
        """Close all connections."""
        self.notifications.close()
        self.database.close()


def _is_stale(connection: Connection, stale_for: timedelta) -> ColumnElement[bool]:
    return and_(messages.c.state == "running", messages.c.heartbeat < database_time(connection) - stale_for)


def _purge_backup(file: Path, removed: Sequence[tuple[str, str]]) -> None:
    """Delete a backup that is BACKUP_AGE old, else remove the `removed` conversations from it."""
    copied = Database(URL.create("sqlite", database=str(file)))
    try:
        with copied.as_store_errors():
            created = file.stat().st_mtime
            if time.time() - created > BACKUP_AGE.total_seconds():
                file.unlink()
                return
            if not removed:
                return
            with copied.maintaining() as connection:
                for owner, id in removed:
                    remove_conversation(connection, owner, id)
                if inspect(connection).has_table(tables.cards.name):
                    for owner in {owner for owner, _ in removed}:
                        persona_files.remove_unused(connection, owner)
            search.purge_removed_words(copied)
            os.utime(file, (created, created))
    except StoreError as error:
        log.warning("%s still has conversations that were deleted: %s", file, error)
    finally:
        copied.close()
