"""Brings a database up to date, after a copy of what is there; refuses what a newer chatui wrote."""

import glob
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
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
OVERWRITTEN = 1
"""SQLite's `user_version` of a file in which nothing is left of what was removed before that was overwritten."""
ADVISORY_LOCK = 0x63686174
"""The number of PostgreSQL's lock that stands for our tables."""


def migrate(database: Database, copies: Path, migrations: Path = MIGRATIONS) -> None:
    """Make or migrate the tables, one process at a time; copies go to `copies`. Raises StoreError."""
    with database.named_errors(), _alone(database):
        now = revision(database, migrations)
        _overwrite_old_pages(database, now)
        if now == ScriptDirectory.from_config(_config(migrations)).get_current_head():
            return
        if now is not None:
            _copy_before(database, copies, now, migrations)
        upgrade(database, "head", migrations)


def upgrade(database: Database, target: str, migrations: Path = MIGRATIONS) -> None:
    """Migrate to a revision in one transaction, without a copy."""
    config = _config(migrations)
    with database.maintaining() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, target)


def revision(database: Database, migrations: Path = MIGRATIONS) -> str | None:
    """The revision of the tables, None where there are none yet. Raises StoreError where they are not ours to read."""
    with database.reading() as connection:
        found = MigrationContext.configure(connection, opts={"version_table": REVISIONS}).get_current_revision()
        if found is None and database.sqlite and inspect(connection).get_table_names():
            raise StoreError(
                f"{database.file} is a database of another program.", "Choose another file with --database-url."
            )
    known = [script.revision for script in ScriptDirectory.from_config(_config(migrations)).walk_revisions()]
    if found is not None and found not in known:
        raise StoreError(
            f"This database was written by a newer chatui (tables {found}; this one knows {known[0]}).",
            "Update chatui, or choose another place with --data-dir or --database-url.",
        )
    return found


def backup_files(database: Database, folder: Path) -> list[Path]:
    """The copies that were made before migrations, in `folder` where the database is no file."""
    folder, name = (database.file.parent, database.file.name) if database.file else (folder, FILE)
    return sorted(folder.glob(f"{glob.escape(name)}.before-*.bak"))


def _overwrite_old_pages(database: Database, now: str | None) -> None:
    """Once for each file, of the revision `now`: until OVERWRITTEN, what had been removed stayed in free pages."""
    if database.file is None:
        return
    with closing(database.engine.raw_connection()) as connection:
        cursor = connection.cursor()
        ((version,),) = cursor.execute("PRAGMA user_version").fetchall()
        if version >= OVERWRITTEN:
            return
        ((free,),) = cursor.execute("PRAGMA freelist_count").fetchall()
        ((pages,),) = cursor.execute("PRAGMA page_count").fetchall()
        if pages > free and now is not None:
            for index in INDEXES:
                cursor.execute(f"INSERT INTO {index}({index}) VALUES ('optimize')")  # noqa: S608
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.execute(f"PRAGMA user_version = {OVERWRITTEN}")


def _copy_before(database: Database, folder: Path, now: str, migrations: Path) -> None:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    folder, name = (database.file.parent, database.file.name) if database.file else (folder, FILE)
    with database.named_errors():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    backup(database, folder / f"{name}.before-{now}-{moment}.bak", lambda fresh: upgrade(fresh, now, migrations))


def _config(migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    return config


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Let one process at a time look at the tables and change them."""
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
