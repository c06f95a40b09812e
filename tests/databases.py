"""Databases for tests: stores on SQLite and on a real PostgreSQL, and a guard that no statement forgets the owner."""

import itertools
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine, event

from chatui.generation_settings import GenerationSettings
from chatui.models.votes import Contestant, Vote
from chatui.personas import PRESETS
from chatui.settings import AppSettings
from chatui.store import migrating
from chatui.store import store as stores
from chatui.store.database import ALL_OWNERS, REVISIONS, Database
from chatui.store.migrating import MIGRATIONS
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from scripts.benchmark.filling import FINISH as FINISH
from scripts.benchmark.filling import fill as fill
from tests.ports import reserved_port

PASSWORD = "pa55:word/very secret"
ENCODED_PASSWORD = "pa55%3Aword%2Fvery%20secret"
OWNED = ("conversations", "messages", "personas", "inspections", "cards", "votes")
INDEXES = ("message_words", "title_words")


VOTE = Vote(
    Contestant("one", "Poet", GenerationSettings(temperature=0.0, seed=7, stop=("x",))),
    Contestant("two"),
    "both",
    datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    ("code", "日本"),
)


class OwnerMissingError(AssertionError):
    """A statement reads or writes owned rows without saying whose."""


def check_owner(sql: str) -> None:
    """Raise OwnerMissingError unless every owned table in a statement is tied to a given owner."""
    sql = re.sub(r"'[^']*'", "''", " ".join(sql.replace('"', "").split()))
    into = re.match(rf"INSERT INTO ({'|'.join(OWNED)})\b ?\(([^)]*)\)", sql, re.I)
    if into:
        if not re.search(r"\bowner\b", into[2]):
            raise OwnerMissingError(sql)
        return
    where = re.sub(r"^(UPDATE \w+) SET .*?( WHERE |$)", r"\1\2", sql, flags=re.I)
    tied = 0
    for table in OWNED:
        used = re.findall(rf"(?:\bFROM|\bJOIN|^UPDATE|\bINTO|,) \(?{table}\b(?!\.)(?: AS (\w+))?", where, re.I)
        for name in set(used):
            given = r"owner = (?:\?|%s|%\(\w+\)s|:\w+|\$\d)"
            found = len(re.findall(rf"\b{name or table}\.{given}", where, re.I))
            if not found and len(used) == 1:
                found = len(re.findall(rf"(?<!\.)\b{given}", where, re.I))
            if found < used.count(name):
                raise OwnerMissingError(f"{table}: {sql}")
            tied += found
    if not tied and any(re.search(rf"\b{index}\b", sql) for index in INDEXES):
        raise OwnerMissingError(sql)


def _guard(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    options = context.execution_options if context is not None else connection.get_execution_options()
    if not options.get(ALL_OWNERS):
        check_owner(statement)


@pytest.fixture(scope="session", autouse=True)
def guarded() -> Iterator[None]:
    """No statement of any test goes by the guard."""
    event.listen(Engine, "before_cursor_execute", _guard)
    yield
    event.remove(Engine, "before_cursor_execute", _guard)


NEW_SECRET = "UPDATE secrets SET value = %s WHERE name = 'cookies'"
"""What tells a copied database from another: the migrations make it at random."""

migrate = migrating.upgrade


@pytest.fixture(scope="session")
def migrated() -> bytes:
    """An empty SQLite database whose tables are up to date."""
    store = Store(Database(URL.create("sqlite")))
    migrate(store.database, "head")
    with closing(store.database.engine.raw_connection()) as connection:
        new = connection.driver_connection
        assert isinstance(new, sqlite3.Connection)
        content = new.serialize()
    store.close()
    return content


@pytest.fixture(scope="module", autouse=True)
def copied_tables(migrated: bytes) -> Iterator[None]:
    """New SQLite databases are copies of a migrated one: it takes a tenth of the time.

    test_migrations.py has a fixture of this name that copies nothing.
    """

    def upgrade(database: Database, target: str, migrations: Path = MIGRATIONS) -> None:
        if not database.sqlite or target != "head" or migrations != MIGRATIONS:
            return migrate(database, target, migrations)
        with closing(database.engine.raw_connection()) as connection:
            new = connection.driver_connection
            assert isinstance(new, sqlite3.Connection)
            if new.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
                return migrate(database, target, migrations)
            (version,) = new.execute("PRAGMA user_version").fetchone()
            with closing(sqlite3.connect(":memory:")) as source:
                source.deserialize(migrated)
                source.backup(new)
            new.execute(NEW_SECRET.replace("%s", "?"), [secrets.token_bytes(32)])
            new.execute(f"PRAGMA user_version = {version}")
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrating, "upgrade", upgrade)
        patch.setattr(stores, "upgrade", upgrade)
        yield


class Server:
    """A PostgreSQL server of our own, listening on this computer only."""

    def __init__(self, programs: Path, folder: Path | None = None) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="chatui-postgresql-"))
        self._data = (folder or self.folder) / "data"
        self._count = itertools.count()
        self._template: str | None = None
        self._used: list[str] = []
        """URLs of migrated databases that nobody uses any more."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self._port_is_held = ExitStack()
        self.port = self._port_is_held.enter_context(reserved_port())

    def start(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            *(
                "initdb",
                "-D",
                self._data,
                "-X",
                self.folder / "wal",
                "-U",
                "chatui",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ),
            *("--auth=scram-sha-256", f"--pwfile={password}"),
        )
        self.go_on()

    def go_on(self) -> None:
        """Start it, or start it again after halt()."""
        options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        options += f" -p {self.port} -c full_page_writes=off -c autovacuum=off"
        self._run("pg_ctl", "-D", self._data, "-l", self.folder / "log", "-o", options, "-w", "start")

    def _run(self, program: str, *arguments: str | Path) -> None:
        become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*become, self._programs / program, *arguments]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def url(self, name: str, password: str = ENCODED_PASSWORD) -> str:
        return f"postgresql://chatui:{password}@127.0.0.1:{self.port}/{name}"

    def fresh(self, template: str = "template1") -> str:
        """The URL of a new, empty database."""
        name = f"test{next(self._count)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self.url(name)

    def migrated(self) -> str:
        """The URL of a database whose tables are made and empty, with a secret of its own.

        It is one that was given back and is emptied, or else a copy of one that was migrated, which takes five times
        the CPU time.
        """
        while self._used:
            with suppress(psycopg.errors.LockNotAvailable):  # a test has left a transaction open
                return self._emptied(self._used.pop())
        if self._template is None:
            url = self.fresh()
            Store.open(AppSettings(data_dir=self.folder / "template", database_url=url)).close()
            self._template = url.rpartition("/")[2]
        url = self.fresh(self._template)
        with psycopg.connect(url) as connection:
            connection.execute(NEW_SECRET.encode(), [secrets.token_bytes(32)])
        return url

    def give_back(self, url: str) -> None:
        """A database of `migrated` that is not used any more, and has its tables still."""
        self._used.append(url)

    def _emptied(self, url: str) -> str:
        with psycopg.connect(url, options="-c lock_timeout=5s") as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for (table,) in tables:
                if table not in (REVISIONS, "secrets") and connection.execute(
                    f"SELECT EXISTS (SELECT FROM {table})".encode()
                ).fetchone() == (True,):
                    connection.execute(f"TRUNCATE {table} RESTART IDENTITY CASCADE".encode())
            connection.execute(b"DELETE FROM secrets WHERE name <> 'cookies'")
            connection.execute(NEW_SECRET.encode(), [secrets.token_bytes(32)])
        return url

    def kill(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def stop(self) -> None:
        with self._port_is_held:
            self.kill()
        shutil.rmtree(self.folder)


@contextmanager
def postgresql_server(folder: Path | None = None) -> Iterator[Server]:
    """A running server, with its tables in `place`; scripts/test installs the program where it can."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True), shutil.which("initdb")]
    if found[0] is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    server = Server(Path(found[0]).parent, folder)
    try:
        server.start()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"PostgreSQL does not start: {getattr(error, 'stderr', b'') or error}")
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A running server for all tests."""
    with postgresql_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> AppSettings:
    """Settings that name an empty database."""
    if request.param == "sqlite":
        return AppSettings(data_dir=tmp_path / "data")
    server: Server = request.getfixturevalue("postgresql")
    return AppSettings(data_dir=tmp_path / "data", database_url=server.fresh())


# In memory it is the SQLite of files, and the machine of tests/integration/test_store.py has it in every run.
@pytest.fixture(params=["sqlite", pytest.param("memory", marks=pytest.mark.exhaustive), "postgresql"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Makes empty stores of one kind, in which any number of replies may run; that limit has tests of its own."""
    made: list[Store] = []
    urls: list[str] = []

    def make() -> Store:
        if request.param == "memory":
            made.append(Store.in_memory())
        elif request.param == "sqlite":
            made.append(Store.open(AppSettings(data_dir=tmp_path / f"data{len(made)}", max_replies=0)))
        else:
            url = request.getfixturevalue("postgresql").migrated()
            urls.append(url)
            settings = AppSettings(data_dir=tmp_path / f"data{len(made)}", database_url=url, max_replies=0)
            made.append(Store.open(settings))
        return made[-1]

    yield make
    for store in made:
        store.close()
    for url in urls:
        request.getfixturevalue("postgresql").give_back(url)


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    """An empty store on SQLite, in memory and on PostgreSQL."""
    return make_store()


def ask(question: str | None, conversation: str | None = None, parent: str | None = None, prefix: str = "") -> NewTurn:
    author = Author("fake/echo", "main", "You are a test.", GenerationSettings(), seed=7, prefix=prefix)
    return NewTurn(conversation, parent, question, author, PRESETS[0])
