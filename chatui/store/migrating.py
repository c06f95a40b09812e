"""Migrates a database to the current schema with Alembic, after a backup. Refuses databases of a newer chatui."""

import glob
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import inspect, text

from chatui.errors import StoreError
from chatui.store.backups import backup
from chatui.store.database import FILE, REVISIONS, Database
from chatui.store.search import INDEXES

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_SECONDS = 60
VACUUMED_VERSION = 1
"""SQLite's `user_version` of a file that was vacuumed after older versions, which did not overwrite deleted rows."""
ADVISORY_LOCK = 0x63686174
"""The key of PostgreSQL's advisory lock for our tables."""


def migrate(database: Database, backups: Path, migrations: Path = MIGRATIONS) -> None:
    """Create or migrate the tables, one process at a time.

    The backup goes beside an SQLite file, else to the folder `backups`. Raises StoreError.
    """
    with database.as_store_errors(), _migration_lock(database):
        current = revision(database, migrations)
        _vacuum_once(database, current)
        if current == _revisions(migrations)[0]:
            return
        if current is not None:
            _back_up(database, backups, current, migrations)
        upgrade(database, "head", migrations)


def upgrade(database: Database, target: str, migrations: Path = MIGRATIONS) -> None:
    """Migrate to a revision in one transaction, without a backup."""
    config = _config(migrations)
    with database.maintaining() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, target)


def revision(database: Database, migrations: Path = MIGRATIONS) -> str | None:
    """The revision of the tables, None if there are none. Raises StoreError if they are not of a known chatui."""
    with database.reading() as connection:
        current = MigrationContext.configure(connection, opts={"version_table": REVISIONS}).get_current_revision()
        if current is None and database.sqlite and inspect(connection).get_table_names():
            raise StoreError(
                f"{database.file} is a database of another program.", "Choose another file with --database-url."
            )
    known = _revisions(migrations)
    if current is not None and current not in known:
        raise StoreError(
            f"This database was written by a newer chatui (tables {current}; this one knows {known[0]}).",
            "Update chatui, or choose another place with --data-dir or --database-url.",
        )
    return current


def backup_files(database: Database, folder: Path) -> list[Path]:
    """The backups from before migrations: beside an SQLite file, else in `folder`."""
    folder, name = (database.file.parent, database.file.name) if database.file else (folder, FILE)
    return sorted(folder.glob(f"{glob.escape(name)}.before-*.bak"))


def _vacuum_once(database: Database, current: str | None) -> None:
    """Vacuum an SQLite file of the revision `current` unless it has VACUUMED_VERSION; see there."""
    if database.file is None:
        return
    with closing(database.engine.raw_connection()) as connection:
        cursor = connection.cursor()
        ((version,),) = cursor.execute("PRAGMA user_version").fetchall()
        if version >= VACUUMED_VERSION:
            return
        ((free,),) = cursor.execute("PRAGMA freelist_count").fetchall()
        ((pages,),) = cursor.execute("PRAGMA page_count").fetchall()
        if pages > free and current is not None:
            for index in INDEXES:
                cursor.execute(f"INSERT INTO {index}({index}) VALUES ('optimize')")  # noqa: S608
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.execute(f"PRAGMA user_version = {VACUUMED_VERSION}")


def _back_up(database: Database, folder: Path, current: str, migrations: Path) -> None:
    """Copy the database to a new file with its revision `current`, as backup_files() finds it."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder, name = (database.file.parent, database.file.name) if database.file else (folder, FILE)
    with database.as_store_errors():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = folder / f"{name}.before-{current}-{moment}.bak"
    backup(database, target, lambda fresh: upgrade(fresh, current, migrations))


@lru_cache(1)
def _revisions(migrations: Path) -> tuple[str, ...]:
    """The known revisions, newest first."""
    scripts = ScriptDirectory.from_config(_config(migrations)).walk_revisions()
    return tuple(script.revision for script in scripts)


def _config(migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    return config


@contextmanager
def _migration_lock(database: Database) -> Iterator[None]:
    """Lock the schema, so that one process at a time reads or migrates it."""
    if database.file is not None:
        with FileLock(f"{database.file}.lock", timeout=LOCK_SECONDS, mode=0o600):
            with closing(database.engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
            yield
    elif database.sqlite:
        yield
    else:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
