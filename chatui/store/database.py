"""A connection to SQLite or PostgreSQL: transactions, and every error of theirs as a StoreError. Knows no tables."""

import re
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
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
"""The table in which Alembic notes how far the tables have come; a PostgreSQL database may have others' as well."""

BUSY_SECONDS = 5.0
CONNECT_SECONDS = 10
NETWORK = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": CONNECT_SECONDS * 1000,
}
"""A network that swallows everything is noticed in some ten seconds, and not after the quarter of an hour of TCP."""

ALL_OWNERS: Final = "all_owners"
"""The execution option of the few statements that are about every owner's rows."""


class Turns(AbstractContextManager[None]):
    """A lock that is given in the order in which it was asked for.

    That of threading may go again and again to a thread that hardly lets go of it, as one that adds many rows.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        turn.acquire()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


class Database:
    """Gives short transactions. SQLite has one writer at a time, and in memory one connection for everyone."""

    def __init__(self, url: URL) -> None:
        """Connects to nothing yet."""
        self.url = url
        self.sqlite = url.get_backend_name() == "sqlite"
        self.file = Path(url.database) if self.sqlite and url.database else None
        self.engine = _engine(url)
        self._writer = self.engine.execution_options(writing=True)
        self._reading: AbstractContextManager[Any] = nullcontext()
        self._writing: AbstractContextManager[Any] = nullcontext()
        if self.sqlite:
            self._writing = Turns()
            self._reading = nullcontext() if self.file else self._writing

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment of an SQLite database. Raises StoreError."""
        with self.named_errors(), self._reading, self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is kept as a whole, or not at all where anything is raised. Raises StoreError."""
        with self.named_errors(), self._writing, self._writer.begin() as connection:
            yield connection

    @contextmanager
    def maintaining(self) -> Iterator[Connection]:
        """As writing(), for statements about all owners' rows."""
        with self.writing() as connection:
            yield connection.execution_options(**{ALL_OWNERS: True})

    def leave_no_trace(self) -> bool:
        """Take what was deleted from the log beside an SQLite file too, which keeps what was written for a while.

        Returns whether that is done: it is not while somebody reads what was there before.
        """
        if self.file is None:
            return True
        with self.named_errors(), self._writing, closing(self.engine.raw_connection()) as connection:
            (busy, *_), *_ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return not busy

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn the libraries' errors into a StoreError."""
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise self._named(error) from error

    def _named(self, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        said = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        if self.url.password:
            said = said.replace(str(self.url.password), "***")
        where = str(self.file) if self.sqlite else f"PostgreSQL at {self.url.host or 'localhost'}"
        if isinstance(error, OSError):
            said, where = error.strerror or said, str(error.filename or where)
        for pattern, message, remedy in KNOWN:
            if re.search(pattern, said):
                return StoreError(message.format(where=where, said=said), remedy)
        return StoreError(f"The database ({where}) failed: {said}.", "Try again; if it stays so, restart the server.")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


KNOWN = (
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
        "{where} is damaged or is no database ({said}).",
        "Put a back-up in its place, or move the file away to begin anew.",
    ),
    (
        "readonly|read-only|Permission denied|unable to open|No such file|directory|File exists|disk I/O",
        "{where} cannot be opened or written ({said}).",
        "Check that the folder is there and that you may write to it, or choose another one with --data-dir.",
    ),
    (
        "authentication failed|no password supplied",
        "{where} refused the login ({said}).",
        "Check the user and the password in --database-url.",
    ),
    (
        "connection|could not translate|resolve|FATAL|timeout expired|server closed|terminat|shutting down",
        "{where} cannot be reached ({said}).",
        "Check that it runs, and --database-url.",
    ),
)
"""What the libraries say, and what we say then."""


def url_of(settings: AppSettings, make: bool = True) -> URL:
    """Where the conversations are; `make` the folder and the file, for this user alone. Raises StoreError."""
    if settings.database_url is None:
        return _file_url(settings.data_dir / FILE, make)
    try:
        url = make_url(re.sub("^postgres:", "postgresql:", settings.database_url))
        backend = url.get_backend_name()
    except (SQLAlchemyError, ValueError):
        backend = ""
    if backend == "sqlite" and url.database and not url.host:
        return _file_url(Path(url.database), make)
    if backend == "postgresql" and url.database:
        return url.set(drivername="postgresql+psycopg")
    raise StoreError(
        "--database-url is not the address of an SQLite or PostgreSQL database.",
        "Write postgresql://user:password@host/name or sqlite:///file.",
    )


def _file_url(file: Path, make: bool) -> URL:
    url = URL.create("sqlite", database=str(file))
    if not make and not file.exists():
        raise StoreError(f"There is no database at {file}.", "Check --data-dir or --database-url.")
    with Database(url).named_errors():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
    return url


def _engine(url: URL) -> Engine:
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, max_overflow=20, connect_args=NETWORK, **options)
    if url.database is None:
        options["poolclass"] = StaticPool
        options["query_cache_size"] = 0  # it would keep the values of the first statement of each kind
    else:
        options["max_overflow"] = 20
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS}, **options)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # SQLAlchemy begins the transactions, below
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # what is removed or replaced is overwritten, not only let go of


def _begin(connection: Connection) -> None:
    """A writer takes its turn at once: a reader that turns into a writer could be refused without waiting."""
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
