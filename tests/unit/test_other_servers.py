import asyncio
from dataclasses import replace
from functools import partial

import pytest

from chatui import other_servers
from chatui.errors import StoreError
from chatui.generation_settings import GenerationSettings
from chatui.other_servers import OtherServers
from chatui.personas import PRESETS
from chatui.store.notifications import Kind, Notification, Subscriber
from chatui.store.owner_store import OwnerStore
from chatui.store.records import Author, NewTurn, ReplyUpdate, StoredMessage
from chatui.store.store import Store


class FakeNotifications:
    """Notifications that a test sends."""

    def __init__(self, connected: bool) -> None:
        self.connected = connected
        self.subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        self.subscribers.append(subscriber)

    def send(self, kind: Kind, *ids: str) -> None:
        for subscriber in self.subscribers:
            subscriber(Notification(kind, frozenset(ids)))


class Elsewhere:
    """A reply that another server writes."""

    def __init__(self, connected: bool) -> None:
        self.notifications = FakeNotifications(connected)
        self.here = OtherServers(self.notifications)  # type: ignore[arg-type]
        self.store = Store.in_memory()
        self.owner_store: OwnerStore = self.store.for_owner("a")
        author = Author("m", "r", "", GenerationSettings(), seed=7)
        started = self.owner_store.start_turn(NewTurn(None, None, "What?", author, PRESETS[0]), "lease")
        self.reply, self.chat = started.reply, started.conversation.id

    def write(self, content: str, **fields: str) -> None:
        update = ReplyUpdate("a", self.reply.id, content, lease="lease")
        self.store.update_replies([replace(update, **fields)])  # type: ignore[arg-type]
        self.notifications.send("reply", self.reply.id, "another")


@pytest.fixture(params=[True, False], ids=["notified", "polled"])
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    for name in ("STOP_POLL_SECONDS", "NOTIFIED_STOP_POLL_SECONDS"):
        monkeypatch.setattr(other_servers, name, 0.01)
    # Who is notified waits for nothing else in these tests; who is not reads often.
    monkeypatch.setattr(other_servers, "HEARTBEAT_SECONDS", 60.0 if request.param else 0.01)
    return Elsewhere(request.param)


async def test_a_followed_reply_is_seen_to_grow_and_to_end(elsewhere: Elsewhere) -> None:
    later = {"": {"content": "So"}, "So": {"content": "So it goes.", "state": "finished"}}
    seen: list[tuple[str, str]] = []
    async for message in elsewhere.here.follow(elsewhere.owner_store, elsewhere.reply):
        if not seen or message.content != seen[-1][0]:
            seen.append((message.content, message.state))
            if fields := later.get(message.content):
                asyncio.get_running_loop().call_soon(partial(elsewhere.write, **fields))
    assert seen == [("", "running"), ("So", "running"), ("So it goes.", "finished")]


async def test_only_what_may_have_changed_is_read_where_notifications_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_servers, "HEARTBEAT_SECONDS", 0.001)
    elsewhere = Elsewhere(connected=True)
    reads = 0

    class Counting:
        def message(self, id: str) -> StoredMessage:
            nonlocal reads
            reads += 1
            if reads == 2:
                raise StoreError("The database is away.")
            return elsewhere.owner_store.message(id)

    beats = 0
    async for _ in elsewhere.here.follow(Counting(), elsewhere.reply):  # type: ignore[arg-type]
        beats += 1
        if beats == 20:
            assert reads == 1
            elsewhere.notifications.send("reply", "another")
            elsewhere.notifications.send("stop", elsewhere.reply.id)
        if beats == 30:
            assert reads == 1
            elsewhere.notifications.send("reconnected")  # it may have missed something
        if beats == 40:
            assert reads == 2
            elsewhere.write("So it goes.", state="finished")
    assert reads == 3


async def test_stop_waits_until_the_other_server_has_stopped(elsewhere: Elsewhere) -> None:
    stopping = asyncio.create_task(elsewhere.here.stop(elsewhere.owner_store, elsewhere.chat))
    update = ReplyUpdate("a", elsewhere.reply.id, "So", lease="lease")
    while not elsewhere.store.update_replies([update])[0].stop_requested:
        await asyncio.sleep(0.005)
    assert not stopping.done()
    elsewhere.write("So", state="stopped")
    await stopping
    assert elsewhere.owner_store.message(elsewhere.reply.id).state == "stopped"
    await elsewhere.here.stop(elsewhere.owner_store, elsewhere.chat)  # nothing runs


async def test_stop_does_not_wait_for_ever(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_servers, "STOP_TIMEOUT_SECONDS", 0.02)
    await elsewhere.here.stop(elsewhere.owner_store, elsewhere.chat)
    assert elsewhere.owner_store.running_replies(elsewhere.chat)
