"""Temporary chats are gone when their tab leaves them, and what is removed leaves no bytes behind."""

import asyncio
import gc
import os
import secrets
import sqlite3
import time
import weakref
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import URL, update

from chatui.engine.text.spans import SectionCache
from chatui.errors import NotFoundError
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from chatui.runner import Runner
from chatui.running_reply import RunningReply
from chatui.settings import AppSettings
from chatui.store import store as stores
from chatui.store.database import Database
from chatui.store.migrating import backup_files
from chatui.store.records import Author, NewTurn, ReplyUpdate
from chatui.store.store import Store
from chatui.store.tables import conversations
from chatui.ui.chat import preview_memos as memos_module
from chatui.ui.chat.preview_memos import PreviewMemos
from chatui.ui.chat.temporary_chats import TemporaryChats
from tests.databases import ask
from tests.fakes import FakeBackend, Hold

pytest_plugins = ("tests.databases",)


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    runner = Runner(FakeBackend(["said ", Hold()]), Store.in_memory(), Store.in_memory())
    yield runner
    await runner.close()


async def asked(runner: Runner, question: str = "What?") -> RunningReply:
    author = Author("m", "r", "", GenerationSettings(), seed=7)
    running_reply = await runner.start_reply("a", NewTurn(None, None, question, author, PRESETS[0]), temporary=True)
    while not running_reply.progress.text:
        await asyncio.sleep(0.01)
    return running_reply


def in_memory(runner: Runner) -> bytes:
    with runner.temporary_store.database.reading() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        return driver.serialize()


def holding(secret: str) -> int:
    """Objects of this process that hold a text with the secret in it."""
    gc.collect()
    return sum(
        any(isinstance(held, str) and secret in held for held in gc.get_referents(holder))
        for holder in gc.get_objects()
    )


async def test_a_closed_tab_takes_its_temporary_chat_along(runner: Runner) -> None:
    secret = secrets.token_hex(16)
    chats = TemporaryChats(runner)
    running_reply = await asked(runner, secret)
    chat = running_reply.conversation.id
    await chats.enter("tab", "a", chat)
    await chats.enter("tab", "a", chat)
    assert secret.encode() in in_memory(runner)
    await chats.close("tab")
    assert (running_reply.state, runner.running_count) == ("stopped", 0)
    with pytest.raises(NotFoundError):
        runner.owner_store("a", True).conversation(chat)
    assert secret.encode() not in in_memory(runner)
    assert isinstance(runner.backend, FakeBackend)
    assert runner.backend.running == 0
    assert [request.temporary_conversation for request in runner.backend.requests] == runner.backend.forgotten == [chat]
    runner.backend.requests.clear()
    del running_reply
    async with asyncio.timeout(120):  # threads and tasks let go of it as they come to their ends
        while holding(secret) > 2:  # this function's own
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("leave", ["goes on", "is closed"])
def test_what_a_preview_remembers_goes_with_the_tab(leave: str) -> None:
    memos, known = PreviewMemos(), SectionCache()
    held = weakref.ref(known)
    memos.enter("tab", "chat")
    memos.get("tab", "chat")["sections"] = known
    del known
    memos.enter("tab", "chat")
    gc.collect()
    assert held() is not None
    if leave == "goes on":
        memos.enter("tab", "")
    else:
        memos.close("tab")
    gc.collect()
    assert held() is None
    assert memos.get("tab", "chat") == {}


def test_nothing_is_remembered_where_no_tab_stands() -> None:
    memos = PreviewMemos()
    memos.enter("", "chat")
    memos.enter("tab", "chat")
    for session, chat in (("", "chat"), ("tab", "another"), ("closed", "chat")):
        memos.get(session, chat)["sections"] = SectionCache()
        assert memos.get(session, chat) == {}


def test_few_tabs_are_remembered_the_last_ones() -> None:
    memos = PreviewMemos()
    for number in range(memos_module.MAX_TABS + 1):
        memos.enter(f"tab {number}", "chat")
        memos.get(f"tab {number}", "chat")["sections"] = number
    assert memos.get("tab 0", "chat") == {}
    assert memos.get(f"tab {memos_module.MAX_TABS}", "chat") == {"sections": memos_module.MAX_TABS}


async def test_going_elsewhere_removes_it_too_and_no_other(runner: Runner) -> None:
    chats = TemporaryChats(runner)
    first, second, others = await asked(runner), await asked(runner), await asked(runner)
    await chats.enter("tab", "a", first.conversation.id)
    await chats.enter("other", "a", others.conversation.id)
    await chats.enter("tab", "a", second.conversation.id)
    await chats.enter("tab", "a", "")
    owner_store = runner.owner_store("a", True)
    assert [one.id for one in owner_store.conversations()] == [others.conversation.id]
    assert others.state == "running"


async def test_who_listens_hears_of_each_tab_that_leaves(runner: Runner) -> None:
    chats, left = TemporaryChats(runner), list[str]()
    chats.listeners.append(left.append)
    chat = (await asked(runner)).conversation.id
    await chats.enter("tab", "a", chat)
    await chats.enter("tab", "a", chat)
    assert left == []
    await chats.enter("tab", "a", "")
    await chats.close("other")
    assert left == ["tab", "other"]


async def test_what_was_asked_as_the_tab_closed_is_removed(runner: Runner) -> None:
    chats = TemporaryChats(runner)
    await chats.close("tab")
    running_reply = await asked(runner)
    await chats.enter("tab", "a", running_reply.conversation.id)
    assert runner.owner_store("a", True).conversations() == []


async def test_what_is_swept_is_forgotten_by_the_engine_too(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = runner.backend
    assert isinstance(backend, FakeBackend)
    old, deleted = [await asked(runner, question) for question in ("Old?", "Deleted?")]
    for running_reply in (old, deleted):
        await runner.stop("a", running_reply.conversation.id, temporary=True)
    await asyncio.to_thread(runner.temporary_store.for_owner("a").delete, deleted.conversation.id)
    with runner.temporary_store.database.maintaining() as connection:
        mine = conversations.c.id == old.conversation.id
        connection.execute(update(conversations).where(mine).values(updated=old.conversation.updated - timedelta(1)))
    new = await asked(runner, "New?")
    await runner.stop("a", new.conversation.id, temporary=True)
    backend.forgotten.clear()
    await asyncio.to_thread(runner._purge)
    assert set(backend.forgotten) == {old.conversation.id, deleted.conversation.id}
    owner_store = runner.temporary_store.for_owner("a")
    assert [one.id for one in owner_store.conversations()] == [new.conversation.id]
    for gone in (b"Old?", b"Deleted?"):
        assert gone not in in_memory(runner)


def with_secret(store: Store, secret: str) -> str:
    """A deleted conversation with the secret everywhere, among others."""
    owner_store = store.for_owner("a")
    for number in range(5):
        owner_store.start_turn(ask(f"other {number} " + "x" * 5000))
    started = owner_store.start_turn(ask(secret))
    for grown in (secret, secret * 100, secret * 3):
        progress = ReplyUpdate("a", started.reply.id, grown, grown)
        store.update_replies([progress])
    store.update_replies(
        [ReplyUpdate("a", started.reply.id, "short", "", "finished", inspection=secret.encode() * 1000)]
    )
    owner_store.rename(started.conversation.id, secret)
    owner_store.rate(started.reply.id, "like", secret)
    owner_store.delete(started.conversation.id)
    return started.conversation.id


def files_with(folder: Path, secret: str) -> list[str]:
    return [file.name for file in sorted(folder.iterdir()) if secret.encode() in file.read_bytes()]


def test_what_is_purged_is_in_no_file_any_more(tmp_path: Path) -> None:
    secret = secrets.token_hex(16)
    store = Store.open(AppSettings(data_dir=tmp_path))
    with_secret(store, secret)
    copy = tmp_path / "chats.db.before-0001-20260101T000000.000000Z.bak"
    store.backup(copy)
    made = time.time() - timedelta(days=3).total_seconds()
    os.utime(copy, (made, made))
    assert copy.name in files_with(tmp_path, secret)
    assert store.purge(timedelta(0)) == 1
    assert files_with(tmp_path, secret) == []
    assert copy.stat().st_mtime == pytest.approx(made)
    assert len(list(store.for_owner("a").trees())) == 5
    store.close()
    old = Store(Database(URL.create("sqlite", database=str(copy))))
    assert len(list(old.for_owner("a").trees())) == 5
    old.close()


def test_old_copies_are_removed(tmp_path: Path) -> None:
    store = Store.open(AppSettings(data_dir=tmp_path))
    copy = tmp_path / "chats.db.before-0001-20260101T000000.000000Z.bak"
    store.backup(copy)
    kept = tmp_path / "mine.bak"
    store.backup(kept)
    assert backup_files(store.database, tmp_path) == [copy]
    store.purge(timedelta(0))
    assert copy.exists()
    made = time.time() - stores.BACKUP_AGE.total_seconds() - 60
    for file in (copy, kept):
        os.utime(file, (made, made))
    store.purge(timedelta(0))
    assert (copy.exists(), kept.exists()) == (False, True)
    store.close()


def test_a_copy_that_cannot_be_changed_stops_nothing(tmp_path: Path) -> None:
    store = Store.open(AppSettings(data_dir=tmp_path))
    with_secret(store, "secret")
    (tmp_path / "chats.db.before-0001-x.bak").write_text("no database at all")
    assert store.purge(timedelta(0)) == 1
    store.close()


def test_what_an_older_version_had_only_let_go_of_is_overwritten_once(tmp_path: Path) -> None:
    secret = secrets.token_hex(16)
    settings = AppSettings(data_dir=tmp_path)
    store = Store.open(settings)
    with_secret(store, secret)
    store.close()
    file = tmp_path / "chats.db"
    with sqlite3.connect(file) as plain:
        plain.execute("PRAGMA secure_delete = OFF")
        for table in ("inspections", "messages", "conversations"):
            plain.execute(f"DELETE FROM {table}")
        plain.execute("PRAGMA user_version = 0")
    plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    plain.close()
    assert secret.encode() in file.read_bytes()
    store = Store.open(settings)
    assert files_with(tmp_path, secret) == []
    store.close()


def test_the_log_is_emptied_later_where_somebody_was_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatui.store.database.BUSY_SECONDS", 0.05)
    secret = secrets.token_hex(16)
    store = Store.open(AppSettings(data_dir=tmp_path))
    with_secret(store, secret)
    with store.database.reading() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM secrets").all()
        store.purge(timedelta(0))
        assert files_with(tmp_path, secret) != []
    assert store.purge(timedelta(0)) == 0
    assert files_with(tmp_path, secret) == []
    store.close()
