"""Changes reach the tabs of their owner, but not the tab that made them."""

import asyncio

import pytest

from chatui import chat_changes
from chatui.chat import ModelStatus
from chatui.chat_changes import Changed, ChatChanges
from chatui.store.notifications import ChatChange, Notification, Subscriber, digest
from tests.fakes import INFO


class Notified:
    """ChatChanges with notifications that a test sends."""

    def __init__(self) -> None:
        self.send: Subscriber
        self.changes = ChatChanges(self)  # type: ignore[arg-type]

    def subscribe(self, subscriber: Subscriber) -> None:
        self.send = subscriber

    def change(self, owner: str, conversation: str, tab: str = "other") -> None:
        self.send(
            Notification("chat", frozenset([ChatChange(digest(owner), conversation, digest(tab)).id, "of/later"]))
        )

    def position(self) -> str:
        return self.changes.in_last("a", "tab", 0).position


def test_a_tab_hears_of_what_others_of_its_owner_change() -> None:
    notified = Notified()
    start = notified.position()
    assert notified.changes.since("a", "tab", start) == Changed(start)
    notified.change("a", "one")
    notified.change("a", "own", tab="tab")
    notified.change("b", "foreign")
    notified.change("a", "two")
    found = notified.changes.since("a", "tab", start)
    assert found.conversations == {"one", "two"}
    assert not found.missed
    assert not notified.changes.since("a", "tab", found.position)
    assert notified.changes.since("b", "tab", start).conversations == {"foreign"}


def test_a_tab_that_was_loaded_a_moment_ago_hears_of_what_came_meanwhile() -> None:
    notified = Notified()
    notified.change("a", "one")
    assert notified.changes.in_last("a", "tab", 60).conversations == {"one"}
    assert not notified.changes.in_last("a", "tab", -1)


def test_what_is_not_known_any_more_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_changes, "MAX_CHANGES", 2)
    notified, other = Notified(), Notified()
    start = notified.position()
    notified.change("a", "one")
    notified.change("b", "two")
    middle = notified.position()
    assert not notified.changes.since("a", "tab", middle)
    notified.change("a", "three")
    notified.change("a", "four")
    assert notified.changes.since("a", "tab", start).missed
    assert notified.changes.since("a", "tab", middle).conversations == {"three", "four"}
    for position in ("", "-", "0", f"{start}x", f"{start[:-1]}{'9' * 5000}", other.position()):
        assert notified.changes.since("a", "tab", position).missed
    end = notified.position()
    notified.send(Notification("reconnected"))
    assert notified.changes.since("a", "tab", end).missed
    assert not notified.changes.since("a", "tab", notified.position())


def test_what_came_in_the_last_seconds_may_be_missed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_changes, "MAX_CHANGES", 2)
    notified = Notified()
    notified.change("a", "one")
    assert not notified.changes.in_last("a", "tab", 60).missed
    notified.change("a", "two")
    assert notified.changes.in_last("a", "tab", 60).missed
    assert not notified.changes.in_last("a", "tab", -1).missed
    notified = Notified()
    notified.send(Notification("reconnected"))
    assert notified.changes.in_last("a", "tab", 60).missed
    assert not notified.changes.in_last("a", "tab", 0).missed


async def test_who_waits_is_woken_by_a_change_for_it_alone() -> None:
    notified = Notified()
    waiting = [
        asyncio.create_task(notified.changes.wait(owner, tab, notified.changes.in_last(owner, tab, 0)))
        for owner, tab in (("a", "own"), ("a", "tab"), ("b", "tab"))
    ]
    await asyncio.sleep(0)
    notified.change("a", "one", tab="own")
    assert (await waiting[1]).conversations == {"one"}
    assert not waiting[0].done()
    assert not waiting[2].done()
    notified.send(Notification("reconnected"))
    assert (await waiting[0]).missed
    assert (await waiting[2]).missed
    assert notified.changes._waiting == {}


async def test_new_models_are_told_to_all() -> None:
    changes = Notified().changes
    waiting, ready = ModelStatus("far", "loading", remote=True), ModelStatus("far", "ready", info=INFO, remote=True)
    changes.note_models([waiting])
    start = changes.in_last("a", "tab", 0)
    assert not start
    task = asyncio.create_task(changes.wait("a", "tab", start))
    await asyncio.sleep(0)
    changes.note_models([waiting])
    changes.note_models([ready])
    told = await task
    assert (told.new_models, told.conversations, told.missed) == (True, frozenset(), False)
    assert changes.since("b", "tab", start.position, start.models).new_models
    assert not changes.since("b", "tab", told.position, told.models)
    assert not changes.in_last("b", "tab", 0, told.models)
