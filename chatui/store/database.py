"""Connects to SQLite or PostgreSQL: transactions, locks, and database errors as StoreError. Knows no tables."""

import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from chatui.errors import StoreError
from chatui.settings import AppSettings

FILE = "chats.db"
REVISIONS = "chatui_revision"
"""Alembic's version table. Its name is our own, because other programs may use the same PostgreSQL database."""

BUSY_SECONDS = 5.0
CONNECT_SECONDS = 10
NETWORK = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": CONNECT_SECONDS * 1000,
}
"""Detects a dead connection in about ten seconds; the default of TCP is a quarter of an hour."""

MAX_IDLE_SECONDS = 10.0
"""PostgreSQL ends a write transaction in which nothing is done for so long: that of a server that was paused within it,
whose locks would hold up all others.
"""

COMMITTED: Final = "committed"
"""The key of a connection's `info` for the list that `on_commit` gets once the transaction is committed."""

ALL_OWNERS: Final = "all_owners"
"""The execution option of the few statements that read or write rows of all owners."""


class FairLock(AbstractContextManager[None]):
    """A lock that threads acquire in the order of their requests.

    threading.Lock may starve others if one thread releases and acquires it in a loop, as an import does.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._locked = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._locked:
                self._locked = True
                return
            ticket = threading.Lock()
            ticket.acquire()
            self._waiting.append(ticket)
        ticket.acquire()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._locked = False


class Database:
    """Opens transactions. SQLite has one writer at a time; in memory it has a single connection for all threads."""

    def __init__(self, url: URL) -> None:
        """Does not connect yet."""
        self.url = url
        self.sqlite = url.get_backend_name() == "sqlite"
        self.file = Path(url.database) if self.sqlite and url.database else None
        self.engine = _engine(url)
        self.on_write: Callable[[float], None] = lambda _: None
        self.on_error: Callable[[], None] = lambda: None
        self.on_commit: Callable[[list[Any]], None] = lambda _: None
        self._writer = self.engine.execution_options(writing=True)
        self._reading: AbstractContextManager[Any] = nullcontext()
        self._writing: AbstractContextManager[Any] = nullcontext()
        if self.sqlite:
            self._writing = FairLock()
            self._reading = nullcontext() if self.file else self._writing

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a read transaction; in SQLite it is a snapshot. Raises StoreError."""
        with self.as_store_errors(), self._reading, self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a write transaction, which is rolled back on any exception. Raises StoreError."""
        started = time.perf_counter()
        with self.as_store_errors(), self._writing, self._writer.begin() as connection:
            if not self.sqlite:
                milliseconds = round(1000 * MAX_IDLE_SECONDS)
                connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}")
            committed = connection.info[COMMITTED] = []
            yield connection
        self.on_write(time.perf_counter() - started)
        self.on_commit(committed)

    @contextmanager
    def maintaining(self) -> Iterator[Connection]:
        """Open a write transaction for statements about the rows of all owners."""
        with self.writing() as connection:
            yield connection.execution_options(**{ALL_OWNERS: True})

    def truncate_log(self) -> bool:
        """Truncate the write-ahead log of an SQLite file, which still has pages with deleted rows.

        Returns False if a reader of an older snapshot prevents it.
        """
        if self.file is None:
            return True
        with self.as_store_errors(), self._writing, closing(self.engine.raw_connection()) as connection:
            (busy, *_), *_ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return not busy

    @contextmanager
    def as_store_errors(self) -> Iterator[None]:
        """Raise the errors of SQLAlchemy, sqlite3 and the file system as StoreError."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            self.on_error()
            raise self._store_error(error) from error

    def _store_error(self, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        if self.url.password:
            reason = reason.replace(str(self.url.password), "***")
        where = str(self.file) if self.sqlite else f"PostgreSQL at {self.url.host or 'localhost'}"
        if isinstance(error, OSError):
            reason, where = error.strerror or reason, str(error.filename or where)
        for pattern, message, remedy in KNOWN_ERRORS:
            if re.search(pattern, reason):
                return StoreError(message.format(where=where, reason=reason), remedy)
        return StoreError(f"The database ({where}) failed: {reason}.", "Try again; if it stays so, restart the server.")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


KNOWN_ERRORS = (
    (
        "full|No space left",
        "The disk is full, so {where} cannot be written.",
        "Free some space; what is kept already is safe.",
    ),
    (
        "locked|file lock",
        "{where} is busy: another program has been writing to it for too long.",
        "Try again in a moment.",
    ),
    (
        "not a database|malformed|is encrypted",
        "{where} is damaged or is no database ({reason}).",
        "Put a back-up in its place, or move the file away to begin anew.",
    ),
    (
        "readonly|read-only|Permission denied|unable to open|No such file|directory|File exists|disk I/O",
        "{where} cannot be opened or written ({reason}).",
        "Check that the folder is there and that you may write to it, or choose another one with --data-dir.",
    ),
    (
        "authentication failed|no password supplied",
        "{where} refused the login ({reason}).",
        "Check the user and the password in --database-url.",
    ),
    (
        "connection|could not translate|resolve|FATAL|timeout expired|server closed|terminat|shutting down",
        "{where} cannot be reached ({reason}).",
        "Check that it runs, and --database-url.",
    ),
)
"""A pattern of the original error, and the message and remedy of its StoreError. The first match counts."""


def database_url(settings: AppSettings, create: bool = True) -> URL:
    """The URL of the database. With `create`, creates an SQLite file and its folder, readable by this user only.

    Raises StoreError.
    """
    if settings.database_url is None:
        return _file_url(settings.data_dir / FILE, create)
    try:
        url = make_url(re.sub("^postgres:", "postgresql:", settings.database_url))
        backend = url.get_backend_name()
    except (SQLAlchemyError, ValueError):
        backend = ""
    if backend == "sqlite" and url.database and not url.host:
        return _file_url(Path(url.database), create)
    if backend == "postgresql" and url.database:
        return url.set(drivername="postgresql+psycopg")
    raise StoreError(
        "--database-url is not the address of an SQLite or PostgreSQL database.",
        "Write postgresql://user:password@host/name or sqlite:///file.",
    )


def _file_url(file: Path, create: bool) -> URL:
    url = URL.create("sqlite", database=str(file))
    if not create and not file.exists():
        raise StoreError(f"There is no database at {file}.", "Check --data-dir or --database-url.")
    with Database(url).as_store_errors():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
    return url


def _engine(url: URL) -> Engine:
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, max_overflow=20, connect_args=NETWORK, **options)
    if url.database is None:
        options["poolclass"] = StaticPool
        options["query_cache_size"] = 0  # the cache would hold the values of the first statement of each kind
    else:
        options["max_overflow"] = 20
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS}, **options)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # _begin() starts the transactions
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # overwrites deleted data, so that the file has no traces of it


def _begin(connection: Connection) -> None:
    """Lock the database at the start of a write transaction: upgrading a read lock later could fail without waiting."""
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
