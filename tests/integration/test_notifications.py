"""What one server writes to PostgreSQL, the others hear of at once."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from chatui.errors import NotFoundError
from chatui.settings import AppSettings
from chatui.store import notifications
from chatui.store.logins import Logins
from chatui.store.notifications import (
    CHANNEL,
    ORIGIN,
    ChatChange,
    Kind,
    Notification,
    Notifications,
    digest,
    notify,
)
from chatui.store.records import PageTimes, ReplyUpdate
from chatui.store.store import Store
from tests.databases import Server, ask

pytest_plugins = ("tests.databases",)
PATIENCE_SECONDS = 60.0


@pytest.fixture
def url(postgresql: Server) -> Iterator[str]:
    url = postgresql.migrated()
    yield url
    postgresql.give_back(url)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store.open(AppSettings(database_url=url))
    yield store
    store.close()


@pytest.fixture
async def heard(store: Store) -> AsyncIterator[list[Notification]]:
    """What another server of this database hears, from now on."""
    listening = Notifications(store.database)
    heard: list[Notification] = []
    listening.subscribe(heard.append)
    listening.start()
    await until(lambda: heard)
    assert heard.pop() == Notification("reconnected")
    yield heard
    await asyncio.to_thread(listening.close)


async def until(true: Callable[[], object]) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < PATIENCE_SECONDS
        await asyncio.sleep(0.005)


async def test_a_notification_comes_with_the_commit(store: Store, heard: list[Notification]) -> None:
    def write(fails: bool) -> None:
        with store.database.writing() as connection:
            notify(connection, "reply", ["never"] if fails else [f"id{number}" for number in range(250)])
            if fails:
                raise KeyError

    with pytest.raises(KeyError):
        await asyncio.to_thread(write, True)
    await asyncio.to_thread(write, False)
    await until(lambda: len(heard) == 3)
    assert {notification.kind for notification in heard} == {"reply"}
    assert sorted(len(notification.ids) for notification in heard) == [50, 100, 100]
    assert frozenset().union(*(notification.ids for notification in heard)) == {f"id{number}" for number in range(250)}


async def test_whatever_changes_a_reply_is_heard(store: Store, heard: list[Notification]) -> None:
    owner_store = store.for_owner("a")
    started = await asyncio.to_thread(owner_store.start_turn, ask("q"), "lease")
    reply, chat = started.reply.id, started.conversation.id
    update = ReplyUpdate("a", reply, "So", lease="lease")
    changes: list[tuple[Callable[[], object], Kind]] = [
        (lambda: store.update_replies([update]), "reply"),
        (lambda: owner_store.request_stop(chat), "stop"),
        (lambda: owner_store.delete(chat), "stop"),
        (lambda: store.interrupt_stale(timedelta(seconds=-1)), "reply"),
    ]
    for change, kind in changes:
        heard.clear()
        await asyncio.to_thread(change)
        await until(lambda: heard and heard[-1].kind != "chat")
        assert heard[-1] == Notification(kind, frozenset({reply}))
    heard.clear()
    await asyncio.to_thread(owner_store.restore, chat)
    await asyncio.to_thread(owner_store.request_stop, chat)
    await asyncio.to_thread(store.update_replies, [replace(update, owner="b")])  # notifies, of no reply that is there
    await until(lambda: len(heard) == 2)
    assert [one.kind for one in heard] == ["chat", "reply"]


async def check_chats(store: Store, heard: list[Notification]) -> None:
    """Whatever changes a conversation is heard, with its owner and the tab in an unreadable form."""
    owner_store = store.for_owner("the owner")
    started = await asyncio.to_thread(owner_store.start_turn, ask("q"))
    chat, question, reply = started.conversation.id, started.path[0].id, started.reply.id
    await asyncio.to_thread(store.update_replies, [ReplyUpdate("the owner", reply, "So", state="finished")])
    (tree,) = await asyncio.to_thread(lambda: list(owner_store.trees()))
    changes: list[Callable[[], object]] = [
        lambda: owner_store.start_turn(replace(ask("more"), conversation=chat, parent=reply)),
        lambda: owner_store.rename(chat, "title"),
        lambda: owner_store.pin(chat, True),
        lambda: owner_store.archive(chat, True),
        lambda: owner_store.select(reply),
        lambda: owner_store.rewind(question),
        lambda: owner_store.delete(chat),
        lambda: owner_store.restore(chat),
        lambda: owner_store.merge_tree(tree),
    ]
    ORIGIN.set("the tab")
    for change in changes:
        heard.clear()
        await asyncio.to_thread(change)
        await until(lambda: any(one.kind == "chat" for one in heard))
        (one,) = (one for one in heard if one.kind == "chat")
        assert one.ids == {ChatChange(digest("the owner"), chat, digest("the tab")).id}
    heard.clear()
    branched = await asyncio.to_thread(owner_store.branch, reply)
    await until(lambda: heard)
    assert heard == [
        Notification("chat", frozenset({ChatChange(digest("the owner"), branched.id, digest("the tab")).id}))
    ]
    heard.clear()
    await asyncio.to_thread(store.adoptions.adopt, "a guest", "the owner")
    await until(lambda: heard)
    assert [one.kind for one in heard] == ["chat"]


async def test_whatever_changes_a_conversation_is_heard(store: Store, heard: list[Notification]) -> None:
    await check_chats(store, heard)


async def test_with_sqlite_a_server_hears_itself_but_not_what_was_rolled_back(tmp_path: Path) -> None:
    store = Store.open(AppSettings(data_dir=tmp_path))
    heard: list[Notification] = []
    store.notifications.subscribe(heard.append)
    store.notifications.start()
    await check_chats(store, heard)
    heard.clear()
    with pytest.raises(NotFoundError):
        await asyncio.to_thread(store.for_owner("the owner").rename, "made-up", "title")

    def fail() -> None:
        with store.database.writing() as connection:
            notify(connection, "reply", ["never"])
            raise KeyError

    with pytest.raises(KeyError):
        await asyncio.to_thread(fail)
    await asyncio.to_thread(
        store.for_owner("the owner").set_page_times, "made-up", PageTimes(0, 1)
    )  # commits nothing new
    await asyncio.sleep(0)
    assert heard == []
    store.close()


async def test_a_logout_is_heard_without_the_token(store: Store, heard: list[Notification]) -> None:
    logins = Logins(store.database, {"ada": "secret"})
    await asyncio.to_thread(logins.add, "the-token", "ada")
    await asyncio.to_thread(logins.remove, "the-token")
    await until(lambda: heard)
    assert [one.kind for one in heard] == ["logout"]
    assert "the-token" not in str(heard)


async def test_who_was_cut_off_listens_again_and_says_so(
    url: str, store: Store, heard: list[Notification], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifications, "RECONNECT_SECONDS", 0.01)
    with psycopg.connect(url, autocommit=True) as connection:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND datname = %s"
        connection.execute(ended.encode(), [url.rpartition("/")[2]])
        await until(lambda: heard)
        assert heard == [Notification("reconnected")]
        connection.execute(f"NOTIFY {CHANNEL}, 'later chatuis say more'".encode())
        connection.execute(f"NOTIFY {CHANNEL}, 'reply after'".encode())
        await until(lambda: len(heard) > 1)
        assert heard[1:] == [Notification("reply", frozenset({"after"}))]
    assert "are polled until the database notifies again" in caplog.text


async def test_sqlite_notifies_nobody() -> None:
    store = Store.in_memory()
    store.notifications.start()
    started = store.for_owner("a").start_turn(ask("q"), "lease")
    assert store.update_replies([ReplyUpdate("a", started.reply.id, "So", lease="lease")])[0].error is None
    assert not store.notifications.connected
    store.close()


async def test_servers_that_mark_and_write_the_same_replies_do_not_deadlock(store: Store, url: str) -> None:
    replies = [store.for_owner("a").start_turn(ask("q"), "lease").reply.id for _ in range(8)]
    updates = [ReplyUpdate("a", reply, "So", lease="lease") for reply in replies]
    with psycopg.connect(url) as connection:
        first, last = min(replies), max(replies)
        lock = "SELECT FROM messages WHERE owner = 'a' AND id = %s FOR UPDATE"
        connection.execute(lock.encode(), [first])
        both = [asyncio.create_task(asyncio.to_thread(store.update_replies, some)) for some in (updates, updates[::-1])]
        stale = {("a", reply): store.stale_replies(timedelta(seconds=-1))["a", reply] for reply in reversed(replies)}
        marking = asyncio.create_task(asyncio.to_thread(store.interrupt_stale, timedelta(seconds=-1), stale))
        await asyncio.sleep(0.2)
        connection.execute((lock + " NOWAIT").encode(), [last])  # nobody holds what comes after what all wait for
    assert {result.error for results in await asyncio.gather(*both) for result in results} == {None}
    await marking
