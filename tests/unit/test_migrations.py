import itertools
import multiprocessing
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import TypeAdapter
from sqlalchemy import CheckConstraint, ForeignKeyConstraint, MetaData, Table, UniqueConstraint, text

from chatui.errors import StoreError
from chatui.personas import PRESETS, Persona
from chatui.settings import AppSettings
from chatui.store import migrating
from chatui.store.database import REVISIONS, Database, database_url
from chatui.store.migrating import MIGRATIONS, migrate, upgrade
from chatui.store.owner_store import OwnerStore
from chatui.store.records import ReplyUpdate
from chatui.store.store import Store
from chatui.store.tables import metadata
from tests.databases import FINISH, PASSWORD, VOTE, Server, ask
from tests.ports import reserved_port

pytest_plugins = ("tests.databases",)
PAST = [script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]
HEAD = PAST.pop()
NEXT = f"""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "next", "{HEAD}"
def upgrade():
    op.add_column("conversations", sa.Column("colour", sa.Text, server_default="red"))
"""
BROKEN = NEXT.replace('"red"))', '"red"))\n    op.execute("UPDATE nothing SET x = 1")')


OLD = (
    "INSERT INTO conversations (id, owner, title, named, persona, leaf, pinned, archived, created, updated) VALUES"
    """ ('c', 'a', 'Chat', FALSE, '{"name": "P"}', 'r', FALSE, FALSE, '2025-01-02 03:04:05', '2025-01-02 03:04:05')""",
    "INSERT INTO messages (id, owner, conversation, parent, role, state, created, note, error, content, reasoning)"
    " VALUES ('q', 'a', 'c', NULL, 'user', 'finished', '2025-01-02 03:04:05', '', '', 'findable', '')",
    "INSERT INTO messages"
    " (id, owner, conversation, parent, role, state, created, heartbeat, note, error, content, reasoning) VALUES"
    " ('r', 'a', 'c', 'q', 'assistant', 'running', '2025-01-02 03:04:05', '2025-01-02 03:04:05', '', '', 'So it', '')",
)
"""What the first version would have in a conversation whose reply was being written when it was ended."""


@pytest.fixture(scope="module", autouse=True)
def copied_tables() -> None:
    """Nothing is copied here: what is tested are the migrations."""


def made_at(database: Database, target: str) -> None:
    """Make the tables as they were at this revision."""
    with migrating._migration_lock(database):
        upgrade(database, target)


def folder_with(tmp_path: Path, step: str) -> Path:
    """The migrations and one more."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    (folder / "versions" / "next_fake.py").write_text(step)
    return folder


def filled(settings: AppSettings) -> list[object]:
    """Put something of everything into a store, and return what it then has."""
    store = Store.open(settings)
    owner_store = store.for_owner("a")
    started = owner_store.start_turn(ask("findable"))
    store.update_replies([ReplyUpdate("a", started.reply.id, "Grüße \0 日本", "thought", "finished", FINISH)])
    owner_store.start_turn(ask(None, started.conversation.id, started.path[0].id))
    owner_store.rate(started.reply.id, "like", "note")
    owner_store.pin(started.conversation.id, True)
    owner_store.delete(owner_store.start_turn(ask("deleted")).conversation.id)
    owner_store.save_persona(PRESETS[0])
    owner_store.votes.add([VOTE])
    kept = everything(store)
    store.close()
    return kept


def everything(store: Store) -> list[object]:
    owner_store: OwnerStore = store.for_owner("a")
    return [
        store.cookie_secret(),
        list(owner_store.trees()),
        owner_store.personas(),
        owner_store.votes.all(),
        owner_store.search("findable"),
        owner_store.conversations(),
    ]


def copies(settings: AppSettings) -> list[Path]:
    return sorted(settings.data_dir.glob("*.bak"))


def opened(file: Path) -> Store:
    return Store.open(AppSettings(data_dir=file.parent / "other", database_url=f"sqlite:///{file}"))


OLD_PERSONA = """'{"name": "P"}'"""


class TestMigrations:
    def test_the_tables_are_those_we_use(self, settings: AppSettings) -> None:
        store = Store.open(settings)
        with store.database.maintaining() as connection:
            options = {"version_table": REVISIONS, "include_object": ours, "compare_server_default": True}
            assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        store.close()

    def test_opening_again_changes_nothing(self, settings: AppSettings) -> None:
        kept = filled(settings)
        store = Store.open(settings)
        assert everything(store) == kept
        assert copies(settings) == []
        store.close()

    def test_an_older_database_is_copied_and_migrated(self, settings: AppSettings, tmp_path: Path) -> None:
        kept = filled(settings)
        database = Database(database_url(settings))
        migrate(database, settings.data_dir, folder_with(tmp_path, NEXT))
        with database.reading() as connection:
            assert connection.scalar(text("SELECT colour FROM conversations WHERE owner = :o"), {"o": "a"}) == "red"
        assert everything(Store(database)) == kept
        migrate(database, settings.data_dir, tmp_path / "migrations")
        database.close()
        (copied,) = copies(settings)
        assert copied.name.startswith(f"chats.db.before-{HEAD}-2")
        assert everything(opened(copied)) == kept

    @pytest.mark.parametrize("revision", PAST)
    def test_what_every_older_version_kept_is_all_there(self, settings: AppSettings, revision: str) -> None:
        database = Database(database_url(settings))
        made_at(database, revision)
        with database.maintaining() as connection:
            for statement in OLD:
                connection.execute(text(statement))
        database.close()
        store = Store.open(settings)
        owner_store = store.for_owner("a")
        assert [message.content for message in owner_store.path("c")] == ["findable", "So it"]
        assert owner_store.message("r").state == "running"
        assert [hit.conversation.id for hit in owner_store.search("findable")] == ["c"]
        assert store.interrupt_stale(timedelta(hours=1)) == 1
        (copied,) = copies(settings)
        assert copied.name.startswith(f"chats.db.before-{revision}-2")
        store.close()

    @pytest.mark.parametrize("revision", [one for one in PAST if one <= "0005"])
    def test_cards_that_each_row_had_are_there_once(self, settings: AppSettings, revision: str) -> None:
        database = Database(database_url(settings))
        made_at(database, revision)
        robo = Persona("Robo", "🤖", "Be brief.", avatar="data:image/png;base64,AAAA", card={"data": {"name": "Röbo"}})
        kept = TypeAdapter(Persona).dump_json(robo).decode()
        with database.maintaining() as connection:
            for id, owner, persona in (
                *((f"c{n}", "a", kept) for n in range(25)),
                ("d", "b", kept),
                ("odd", "a", "[]"),
            ):
                values = {"id": id, "owner": owner, "persona": persona}
                connection.execute(
                    text(OLD[0].replace("'c', 'a'", ":id, :owner").replace(OLD_PERSONA, ":persona")), values
                )
            insert = text("INSERT INTO personas (id, owner, persona) VALUES ('p', 'a', :persona)")
            connection.execute(insert, {"persona": kept})
        database.close()
        store = Store.open(settings)
        owner_store = store.for_owner("a")
        assert {owner_store.initial_persona(f"c{n}") == robo for n in range(25)} == {True}
        assert owner_store.persona("p") == robo == store.for_owner("b").initial_persona("d")
        assert owner_store.initial_persona("odd") == Persona("")
        new = owner_store.start_turn(replace(ask("1"), persona=robo)).conversation.id
        assert owner_store.initial_persona(new) == robo
        with store.database.maintaining() as connection:
            assert sorted(connection.scalars(text("SELECT owner FROM cards"))) == ["a", "b"]
        store.close()

    def test_what_fails_half_way_changes_nothing(self, settings: AppSettings, tmp_path: Path) -> None:
        kept = filled(settings)
        database = Database(database_url(settings))
        with pytest.raises(StoreError):
            migrate(database, settings.data_dir, folder_with(tmp_path, BROKEN))
        database.close()
        store = Store.open(settings)
        assert everything(store) == kept
        store.close()

    def test_no_copy_no_migration(self, settings: AppSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = filled(settings)

        def fails(*_: object) -> None:
            raise StoreError("The disk is full.")

        monkeypatch.setattr(migrating, "backup", fails)
        database = Database(database_url(settings))
        with pytest.raises(StoreError, match="full"):
            migrate(database, settings.data_dir, folder_with(tmp_path, NEXT))
        database.close()
        store = Store.open(settings)
        assert everything(store) == kept
        store.close()

    def test_a_newer_database_is_refused_and_left_alone(self, settings: AppSettings, tmp_path: Path) -> None:
        filled(settings)
        database = Database(database_url(settings))
        upgrade(database, "head", folder_with(tmp_path, NEXT))
        database.close()
        with pytest.raises(StoreError, match="newer chatui") as caught:
            Store.open(settings)
        assert "Update chatui" in caught.value.remedy
        database = Database(database_url(settings))
        assert migrating.revision(database, tmp_path / "migrations") == "next"
        assert copies(settings) == []
        database.close()

    def test_a_server_of_the_older_version_works_on_beside_a_newer_one(
        self, settings: AppSettings, tmp_path: Path
    ) -> None:
        store = Store.open(settings)
        owner_store = store.for_owner("a")
        started = owner_store.start_turn(ask("before"), "lease")
        database = Database(database_url(settings))
        migrate(database, settings.data_dir, folder_with(tmp_path, NEXT))
        ended = ReplyUpdate("a", started.reply.id, "So it goes.", state="finished", lease="lease")
        assert [result.error or result.lease_lost for result in store.update_replies([ended])] == [False]
        later = owner_store.start_turn(ask("later", started.conversation.id, started.reply.id))
        new = owner_store.start_turn(ask("new"))
        owner_store.delete(owner_store.branch(later.path[0].id).id)
        assert [message.content for message in owner_store.path(started.conversation.id)][:2] == [
            "before",
            "So it goes.",
        ]
        with database.maintaining() as connection:
            found = connection.execute(
                text("SELECT colour FROM conversations WHERE id = :id"), {"id": new.conversation.id}
            )
            assert found.scalar() == "red"
        database.close()
        store.close()

    @pytest.mark.parametrize("revision", [one for one in [*PAST, HEAD] if one >= "0007"])
    def test_a_migration_takes_nothing_from_the_version_before(self, settings: AppSettings, revision: str) -> None:
        database = Database(database_url(settings))
        made_at(database, PAST[[*PAST, HEAD].index(revision) - 1])
        before = reflected(database)
        upgrade(database, revision)
        assert hindrances(before, reflected(database)) == []
        database.close()

    @pytest.mark.parametrize(
        ("step", "says"),
        [
            ('op.drop_column("messages", "dropped")', "messages.dropped is gone"),
            ('op.drop_table("votes")', "votes is gone"),
            ('op.add_column("votes", sa.Column("x", sa.Text, nullable=False, server_default=""))', ""),
            ('op.add_column("votes", sa.Column("x", sa.Text))', ""),
            ('op.create_index("x", "votes", ["owner", "created"], unique=True)', "votes has a new constraint"),
            ('op.create_table("n", sa.Column("x", sa.Text, nullable=False))', ""),
            ('op.rename_table("votes", "ballots")', "votes is gone"),
        ],
    )
    def test_what_would_hinder_the_version_before_is_found(self, tmp_path: Path, step: str, says: str) -> None:
        settings = AppSettings(data_dir=tmp_path)
        database = Database(database_url(settings))
        made_at(database, HEAD)
        before = reflected(database)
        upgrade(database, "head", folder_with(tmp_path, NEXT[: NEXT.index("    op.")] + f"    {step}\n"))
        assert hindrances(before, reflected(database)) == ([says] if says else [])
        database.close()

    @pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
    def test_many_may_start_at_once(self, settings: AppSettings, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        with context.Pool(count) as pool:
            secrets = pool.map(first_start, [(settings.data_dir, settings.database_url)] * count)
        assert len(set(secrets)) == 1


def reflected(database: Database) -> MetaData:
    """The tables as they are in the database."""
    found = MetaData()
    with database.reading() as connection:
        found.reflect(connection, only=lambda name, _: "words" not in name and name != REVISIONS)
    return found


def hindrances(before: MetaData, after: MetaData) -> list[str]:
    """Why a server that knows the tables as they were `before` could not read or write them any more."""
    found: list[str] = []
    for table in before.tables.values():
        now = after.tables.get(table.name)
        if now is None:
            found.append(f"{table.name} is gone")
            continue
        for name in sorted({*table.columns.keys(), *now.columns.keys()}):
            old, new = table.columns.get(name), now.columns.get(name)
            if new is None:
                found.append(f"{table.name}.{name} is gone")
            elif old is not None and (repr(old.type), old.nullable) != (repr(new.type), new.nullable):
                found.append(f"{table.name}.{name} has changed")
            elif old is None and not new.nullable and new.server_default is None:
                found.append(f"{table.name}.{name} is needed and has no default")
        if not constraints(now) <= constraints(table):
            found.append(f"{table.name} has a new constraint")
    return found


def constraints(table: Table) -> set[str]:
    """What a row must fulfil besides the types of its columns."""
    unique = {f"index {sorted(index.columns.keys())}" for index in table.indexes if index.unique}
    kinds = (UniqueConstraint, ForeignKeyConstraint, CheckConstraint)
    others = (each for each in table.constraints if isinstance(each, kinds))
    return unique | {f"{type(each).__name__} {sorted(each.columns.keys())}" for each in others}


def first_start(location: tuple[Path, str | None]) -> bytes:
    """What a process does at its start, and a little more."""
    store = Store.open(AppSettings(data_dir=location[0], database_url=location[1]))
    store.for_owner("a").start_turn(ask("1"))
    try:
        return store.cookie_secret()
    finally:
        store.close()


def ours(thing: object, name: str | None, kind: str, reflected: bool, compared: object) -> bool:
    """Not the columns, tables and indexes that only searching uses."""
    return "words" not in (name or "")


class TestFile:
    def test_it_is_for_this_user_alone_and_loses_nothing(self, tmp_path: Path) -> None:
        store = Store.open(AppSettings(data_dir=tmp_path / "new" / "data"))
        file = tmp_path / "new" / "data" / "chats.db"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        with store.database.writing() as connection:
            pragmas = ("journal_mode", "synchronous", "foreign_keys")
            values = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
            assert values == ["wal", 2, 1]
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 5000
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        store.close()

    @pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite+pysqlite:///{}"])
    def test_it_may_be_elsewhere(self, tmp_path: Path, form: str) -> None:
        file = tmp_path / "else" / "where.db"
        store = Store.open(AppSettings(data_dir=tmp_path / "data", database_url=form.format(file)))
        store.for_owner("a").start_turn(ask("1"))
        store.close()
        assert file.exists()
        assert not (tmp_path / "data").exists()

    def test_two_processes_may_write(self, tmp_path: Path) -> None:
        settings = AppSettings(data_dir=tmp_path)
        one, two = Store.open(settings), Store.open(settings)
        started = one.for_owner("a").start_turn(ask("1"))
        two.update_replies([ReplyUpdate("a", started.reply.id, "x", state="finished")])
        assert one.for_owner("a").message(started.reply.id).content == "x"
        one.close()
        two.close()

    def test_a_writer_killed_in_mid_write_leaves_a_good_file(self, tmp_path: Path) -> None:
        script = (
            "import os, sys, itertools; from pathlib import Path\n"
            "from chatui.settings import AppSettings; from chatui.store.store import Store\n"
            "from chatui.store.records import ReplyUpdate; from tests.databases import ask\n"
            "store = Store.open(AppSettings(data_dir=Path(sys.argv[1])))\n"
            "reply = store.for_owner('a').start_turn(ask('1')).reply\n"
            "for n in itertools.count():\n"
            "    store.update_replies([ReplyUpdate('a', reply.id, 'x' * n)]); print(n, flush=True)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        seen = [int(next(process.stdout)) for _ in range(25)]
        process.kill()
        seen += [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        store = Store.open(AppSettings(data_dir=tmp_path))
        (tree,) = store.for_owner("a").trees()
        assert len(tree.messages[1].content) >= seen[-1]
        store.close()


def raises(settings: AppSettings) -> StoreError:
    with pytest.raises(StoreError) as caught:
        Store.open(settings)
    assert caught.value.remedy
    assert "pa55" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    return caught.value


class TestFaults:
    def test_a_damaged_file(self, tmp_path: Path) -> None:
        (tmp_path / "chats.db").write_bytes(b"This is not a database at all." * 200)
        error = raises(AppSettings(data_dir=tmp_path))
        assert str(tmp_path / "chats.db") in str(error)
        assert "damaged" in str(error)

    def test_a_file_with_a_hole_in_it(self, tmp_path: Path) -> None:
        settings = AppSettings(data_dir=tmp_path)
        filled(settings)
        file = tmp_path / "chats.db"
        with file.open("r+b") as damaged:
            damaged.seek(4096)
            damaged.write(b"\xff" * (file.stat().st_size - 4096))
        with pytest.raises(StoreError, match="damaged"):
            everything(Store.open(settings))

    def test_another_programs_file(self, tmp_path: Path) -> None:
        file = tmp_path / "other.db"
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE theirs (x)")
        error = raises(AppSettings(data_dir=tmp_path, database_url=f"sqlite:///{file}"))
        assert "another program" in str(error)

    def test_a_folder_where_a_file_is(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        assert "--data-dir" in raises(AppSettings(data_dir=tmp_path / "file")).remedy
        (tmp_path / "chats.db").mkdir()
        assert "--data-dir" in raises(AppSettings(data_dir=tmp_path)).remedy

    @pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
    def test_a_folder_without_permission(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        script = (
            "import sys; from pathlib import Path; from chatui.errors import StoreError\n"
            "from chatui.settings import AppSettings; from chatui.store.store import Store\n"
            "try: Store.open(AppSettings(data_dir=Path(sys.argv[1])))\n"
            "except StoreError as error: print(error)"
        )
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
        result = subprocess.run(
            [*drop, sys.executable, "-c", script, str(closed)], capture_output=True, text=True, check=True
        )
        assert "Permission denied" in result.stdout
        assert "--data-dir" in result.stdout

    def test_a_full_disk(self, tmp_path: Path) -> None:
        store = Store.open(AppSettings(data_dir=tmp_path))
        kept = store.for_owner("a").start_turn(ask("kept"))
        with store.database.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="disk is full") as caught:
            store.update_replies([ReplyUpdate("a", kept.reply.id, "x" * 10_000_000)])
        assert "Free some space" in caught.value.remedy
        assert store.for_owner("a").path(kept.conversation.id) == kept.path
        store.close()

    def test_a_file_that_another_program_holds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("chatui.store.database.BUSY_SECONDS", 0.05)
        store = Store.open(AppSettings(data_dir=tmp_path))
        with sqlite3.connect(tmp_path / "chats.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="busy"):
                store.for_owner("a").start_turn(ask("1"))
            assert store.for_owner("a").conversations() == []
            other.execute("ROLLBACK")
        assert store.for_owner("a").start_turn(ask("1")).conversation.title == "1"
        store.close()

    @pytest.mark.parametrize(
        "url",
        [
            "mysql://user:pa55@host/name",
            "postgresql://user:pa55@host",
            "postgresql://user:pa55@host:port/name",
            "postgresql:/user:pa55@host/name",
            "user:pa55@host",
            "sqlite://pa55@host/file",
            "sqlite://",
            "://",
            "",
            "postgresql://user:pa55/name",
        ],
    )
    def test_a_wrong_url(self, tmp_path: Path, url: str) -> None:
        error = raises(AppSettings(data_dir=tmp_path, database_url=url))
        assert "postgresql://" in error.remedy
        assert list(tmp_path.iterdir()) == []

    def test_a_refused_connection(self, tmp_path: Path, unused_port: int) -> None:
        url = f"postgresql://user:pa55word@127.0.0.1:{unused_port}/name"
        error = raises(AppSettings(data_dir=tmp_path, database_url=url))
        assert "cannot be reached" in str(error)
        assert "127.0.0.1" in str(error)

    def test_a_wrong_password_and_a_missing_database(self, tmp_path: Path, postgresql: Server) -> None:
        wrong = AppSettings(data_dir=tmp_path, database_url=postgresql.url("postgres", "pa55wrong"))
        assert "refused the login" in str(raises(wrong))
        missing = AppSettings(data_dir=tmp_path, database_url=postgresql.url("missing"))
        assert "cannot be reached" in str(raises(missing))
        assert PASSWORD not in repr(missing)

    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_every_spelling_of_postgresql(self, tmp_path: Path, postgresql: Server, scheme: str) -> None:
        url = postgresql.fresh().replace("postgresql", scheme)
        store = Store.open(AppSettings(data_dir=tmp_path, database_url=url))
        assert store.for_owner("a").start_turn(ask("1")).conversation.title == "1"
        store.close()

    def test_a_server_that_goes_away_and_comes_back(self, tmp_path: Path, postgresql: Server) -> None:
        store = Store.open(AppSettings(data_dir=tmp_path, database_url=postgresql.fresh()))
        owner_store = store.for_owner("a")
        owner_store.start_turn(ask("1"))
        other = Database(database_url(AppSettings(data_dir=tmp_path, database_url=postgresql.url("postgres"))))
        with other.reading() as connection:
            sql = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = :d"
            )
            connection.execute(text(sql), {"d": store.database.url.database})
        other.close()
        assert len(owner_store.conversations()) == 1
        store.close()


@pytest.fixture
def unused_port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


class TestBackup:
    def test_a_copy_has_everything_and_goes_on_alone(self, settings: AppSettings, tmp_path: Path) -> None:
        kept = filled(settings)
        store = Store.open(settings)
        store.backup(tmp_path / "copy.db")
        copied = opened(tmp_path / "copy.db")
        assert everything(copied) == kept == everything(store)
        store.for_owner("a").start_turn(ask("later"))
        assert everything(copied) == kept
        copied.for_owner("a").start_turn(ask("elsewhere"))
        assert len(copied.for_owner("a").search("elsewhere")) == 1
        assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
        copied.close()
        store.close()

    def test_it_is_one_moment_while_others_write(self, settings: AppSettings, tmp_path: Path) -> None:
        store = Store.open(settings)
        running = [store.for_owner("a").start_turn(ask(str(number))).reply for number in range(3)]

        def write(number: int) -> None:
            store.update_replies([ReplyUpdate("a", reply.id, str(number)) for reply in running])
            store.for_owner(f"b{number}").start_turn(ask("more"))

        write(0)
        stop = in_background(write)
        for number in range(3):
            store.backup(tmp_path / f"copy{number}.db")
        stop()
        for number in range(3):
            copied = opened(tmp_path / f"copy{number}.db")
            assert len({copied.for_owner("a").message(reply.id).content for reply in running}) == 1
            assert all(len(tree.messages) == 2 for tree in copied.for_owner("a").trees())
            copied.close()
        store.close()

    def test_nothing_is_overwritten_and_nothing_half_done_is_left(self, settings: AppSettings, tmp_path: Path) -> None:
        store = Store.open(settings)
        target = tmp_path / "there.db"
        target.write_text("mine")
        with pytest.raises(StoreError, match="there already"):
            store.backup(target)
        assert target.read_text() == "mine"
        with pytest.raises(StoreError):
            store.backup(tmp_path / "missing" / "copy.db")
        store.close()
        assert {path.name for path in tmp_path.iterdir()} <= {"there.db", "data"}


def in_background(write: Callable[[int], None]) -> Callable[[], None]:
    done = threading.Event()

    def work() -> None:
        for number in itertools.count(1):
            if done.is_set():
                return
            write(number)

    thread = threading.Thread(target=work)
    thread.start()

    def stop() -> None:
        done.set()
        thread.join()

    return stop
