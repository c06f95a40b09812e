"""Importing again: what is known is brought up to date, and nothing that was done here is lost."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from chatui import runner
from chatui.errors import NotFoundError, StoreError, TransferError
from chatui.personas import Persona
from chatui.settings import GenerationSettings
from chatui.store import import_merge, importing, rows
from chatui.store.exporting import as_json
from chatui.store.owner_store import OwnerStore
from chatui.store.records import Author, MergeResult, NewTurn, ReplyUpdate
from chatui.store.store import Store
from chatui.store.tables import conversations, messages
from tests.fakes import FakeBackend
from tests.unit.test_formats import KNOWN
from tests.unit.test_transfer import conversation, node

pytest_plugins = ("tests.databases",)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
AUTHOR = Author("m", "", "", GenerationSettings(), 1)
QUESTION, ANSWER = node("q", None, "user", "Hi"), node("a", "q", "assistant", "Hello")
MORE = [node("q2", "a", "user", "More?"), node("a2", "q2", "assistant", "Sure")]


def chat(*nodes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return conversation(*(one | {"children": []} for one in nodes), **{"conversation_id": "7", **fields})


def bring(shelf: OwnerStore, value: Any) -> list[MergeResult]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    reading = importing.read(data, NOW)
    merged = [shelf.merge(tree) for tree in reading]
    assert reading.left == []
    return [one for one in merged if one is not None]


def told(shelf: OwnerStore, id: str) -> list[str]:
    return [message.content for message in shelf.path(id)]


def go_on(store: Store, shelf: OwnerStore, id: str, question: str) -> None:
    parent = shelf.conversation(id).leaf
    begun = shelf.begin(NewTurn(id, parent, question, AUTHOR, Persona("P")))
    store.write([ReplyUpdate(shelf._owner, begun.reply.id, f"Re: {question}", state="finished")])


@pytest.fixture
def shelf(store: Store) -> OwnerStore:
    return store.of("login:ann")


@pytest.mark.parametrize("name", KNOWN)
def test_the_same_file_again_changes_nothing(shelf: OwnerStore, name: str) -> None:
    (first,) = bring(shelf, KNOWN[name][0])
    before = list(shelf.trees())
    (again,) = bring(shelf, KNOWN[name][0])
    assert (first.known, again.known, again.new) == (False, True, 0)
    assert first.new == len(before[0].messages) > 0
    assert list(shelf.trees()) == before


def test_a_later_export_adds_what_is_new_and_moves_on(shelf: OwnerStore) -> None:
    (first,) = bring(shelf, chat(QUESTION, ANSWER))
    (later,) = bring(shelf, chat(QUESTION, ANSWER, *MORE, title="Renamed there", update_time=1.8e9))
    assert (later.known, later.new, later.conversation.id) == (True, 2, first.conversation.id)
    assert told(shelf, first.conversation.id) == ["Hi", "Hello", "More?", "Sure"]
    (only,) = shelf.conversations()
    assert only.updated == datetime.fromtimestamp(1.8e9, UTC)


def test_what_was_said_here_since_stays_and_stays_shown(store: Store, shelf: OwnerStore) -> None:
    (first,) = bring(shelf, chat(QUESTION, ANSWER))
    go_on(store, shelf, first.conversation.id, "And here?")
    shelf.rename(first.conversation.id, "Mine")
    shelf.rate(shelf.path(first.conversation.id)[-1].id, "like", "good")
    before = shelf.path(first.conversation.id)
    (later,) = bring(shelf, chat(QUESTION, ANSWER, *MORE))
    assert later.new == 2
    after = shelf.path(first.conversation.id)
    assert [replace(one, versions=()) for one in after] == [replace(one, versions=()) for one in before]
    assert len(after[2].versions) == 2
    assert shelf.conversation(first.conversation.id).title == "Mine"


def test_a_reply_that_was_exported_too_early_grows_but_never_shrinks(shelf: OwnerStore) -> None:
    (first,) = bring(shelf, chat(QUESTION, node("a", "q", "assistant", "Hel")))
    assert bring(shelf, chat(QUESTION, ANSWER))[0].new == 1
    assert told(shelf, first.conversation.id) == ["Hi", "Hello"]
    assert bring(shelf, chat(QUESTION, node("a", "q", "assistant", "Bye")))[0].new == 0
    assert told(shelf, first.conversation.id) == ["Hi", "Hello"]


def test_what_was_deleted_comes_back_when_it_is_imported_again(shelf: OwnerStore) -> None:
    (first,) = bring(shelf, chat(QUESTION, ANSWER))
    shelf.delete(first.conversation.id)
    (again,) = bring(shelf, chat(QUESTION, ANSWER))
    assert not again.known
    assert [one.id for one in shelf.conversations()] == [first.conversation.id]


def test_our_own_export_goes_where_it_came_from(store: Store, shelf: OwnerStore) -> None:
    begun = shelf.begin(NewTurn(None, None, "Hi", AUTHOR, Persona("P")))
    store.write([ReplyUpdate("login:ann", begun.reply.id, "Hello", state="finished")])
    data = "".join(as_json(shelf.trees())).encode()
    go_on(store, shelf, begun.conversation.id, "More?")
    before = list(shelf.trees())
    (again,) = bring(shelf, data)
    assert (again.known, again.new) == (True, 0)
    assert list(shelf.trees()) == before
    other = store.of("login:bob")
    (fresh,) = bring(other, data)
    assert not fresh.known
    assert told(other, fresh.conversation.id) == ["Hi", "Hello"]
    assert list(shelf.trees()) == before


def test_two_owners_import_the_same_file(store: Store, shelf: OwnerStore) -> None:
    other = store.of("login:bob")
    (mine,), (theirs,) = (bring(one, chat(QUESTION, ANSWER)) for one in (shelf, other))
    go_on(store, shelf, mine.conversation.id, "Secret?")
    assert told(other, theirs.conversation.id) == ["Hi", "Hello"]


def test_ids_of_another_conversation_here_are_not_taken_over(shelf: OwnerStore) -> None:
    """A file may be written by hand: its messages may be called as those of any conversation."""
    begun = shelf.begin(NewTurn(None, None, "Mine", AUTHOR, Persona("P")))
    question, reply = (message.id for message in begun.path)
    (came,) = bring(shelf, chat(node(question, None, "user", "Theirs"), node(reply, question, "assistant", "Yes")))
    assert told(shelf, came.conversation.id) == ["Theirs", "Yes"]
    assert told(shelf, begun.conversation.id) == ["Mine", ""]
    assert (
        bring(shelf, chat(node(question, None, "user", "Theirs"), node(reply, question, "assistant", "Yes")))[0].new
        == 0
    )


def test_a_conversation_with_many_messages(shelf: OwnerStore) -> None:
    nodes = [node(str(number), str(number - 1) if number else None, "user", f"m{number}") for number in range(1300)]
    assert bring(shelf, chat(*nodes[:1200]))[0].new == 1200
    (later,) = bring(shelf, chat(*nodes))
    assert later.new == 100
    assert len(told(shelf, later.conversation.id)) == 1300


def long_chat(count: int) -> Any:
    nodes = [node(f"m{n}", f"m{n - 1}" if n else None, ("user", "assistant")[n % 2], f"word{n}") for n in range(count)]
    return chat(*nodes, current_node=f"m{count - 1}")


class Clock:
    """A clock that only adding messages moves: `of_each` seconds for each of them."""

    def __init__(self, of_each: float) -> None:
        self.now, self.of_each = 0.0, of_each
        self.added: list[int] = []

    def insert(self, *args: Any) -> None:
        self.added.append(len(args[2]))
        self.now += len(args[2]) * self.of_each
        rows.insert_messages(*args)

    def monotonic(self) -> float:
        return self.now


def seen(shelf: OwnerStore) -> list[int]:
    """How many conversations each way to look at them shows."""
    return [len(shelf.conversations()), len(shelf.deleted()), len(shelf.search("word7")), len(list(shelf.trees()))]


@pytest.mark.parametrize(("milliseconds", "turns"), [(0.0, [950]), (0.6, [100] * 9 + [50]), (9.0, [50] * 19)])
def test_a_long_conversation_comes_in_in_short_turns_and_is_hidden_until_it_is_whole(
    shelf: OwnerStore, monkeypatch: pytest.MonkeyPatch, milliseconds: float, turns: list[int]
) -> None:
    """The slower the disk and the index of words, the less is added while others wait."""
    clock, at_once, looked = Clock(milliseconds / 1000), [], []

    def pause() -> None:
        at_once.append(sum(clock.added))
        clock.added.clear()
        looked.append(seen(shelf))

    monkeypatch.setattr(import_merge, "insert_messages", clock.insert)
    monkeypatch.setattr(import_merge, "time", clock)
    monkeypatch.setattr(import_merge, "pause", pause)
    (first,) = bring(shelf, long_chat(950))
    assert first.new == 950 == len(told(shelf, first.conversation.id))
    assert [count for count in at_once if count] == turns
    assert looked[:-1] == [[0, 0, 0, 0]] * (len(looked) - 1)
    assert looked[-1] == seen(shelf) == [1, 0, 1, 1]
    monkeypatch.setattr(import_merge, "pause", lambda: None)
    (again,) = bring(shelf, long_chat(950))
    assert (again.known, again.new) == (True, 0)


def broken_off(shelf: OwnerStore, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    """Begin an import that ends with its server."""

    def broken() -> None:
        raise StoreError("gone", "")

    with monkeypatch.context() as patched:
        patched.setattr(import_merge, "pause", broken)
        patched.setattr(import_merge, "TURN_SECONDS", 0)
        with pytest.raises(StoreError):
            bring(shelf, value)


def test_what_a_crash_left_half_in_is_nowhere_and_is_gone_on_with_by_importing_again(
    shelf: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        broken_off(shelf, monkeypatch, long_chat(300))
        assert seen(shelf) == [0, 0, 0, 0]
    half = import_merge._titled(next(iter(importing.read(json.dumps(long_chat(300)).encode(), NOW)))).id
    for use in (shelf.restore, shelf.delete, shelf.conversation, shelf.path):
        with pytest.raises(NotFoundError):
            use(half)
    (whole,) = bring(shelf, long_chat(300))
    assert len(told(shelf, whole.conversation.id)) == 300
    assert (whole.known, seen(shelf)) == (False, [1, 0, 1, 1])


def test_what_a_crash_left_half_in_is_removed_and_nothing_else(
    store: Store, shelf: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = bring(shelf, chat(QUESTION, ANSWER))
    (deleted,) = bring(shelf, chat(node("x", None, "user", "Hi"), conversation_id="9"))
    shelf.delete(deleted.conversation.id)
    broken_off(shelf, monkeypatch, long_chat(300) | {"conversation_id": "8"})
    assert store.remove_unfinished(timedelta(hours=1)) == 0
    assert store.remove_unfinished(timedelta(0)) == 1
    assert store.remove_unfinished(timedelta(0)) == 0
    with store.database.maintaining() as connection:
        ids = connection.scalars(select(messages.c.conversation).distinct()).all()
    assert set(ids) == {kept.conversation.id, deleted.conversation.id}
    assert [one.id for one in shelf.deleted()] == [deleted.conversation.id]
    assert bring(shelf, long_chat(300) | {"conversation_id": "8"})[0].new == 300


async def test_a_server_removes_what_another_left_half_in(
    store: Store, shelf: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_off(shelf, monkeypatch, long_chat(300))
    monkeypatch.setattr(runner, "IMPORT_TIMEOUT", timedelta(0))
    at_work = runner.Runner(FakeBackend([]), store, Store.in_memory())
    at_work._sweep()
    assert store.remove_unfinished(timedelta(0)) == 0


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_what_is_not_wanted_any_more_leaves_nothing_behind(
    store: Store, shelf: OwnerStore, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setattr(import_merge, "TURN_SECONDS", 0)
    monkeypatch.setattr(import_merge, "AT_ONCE", 60)
    (tree,) = importing.read(json.dumps(long_chat(300)).encode(), NOW)
    wanted = iter([True] * turns)
    assert shelf.merge(tree, lambda: next(wanted, False)) is None
    assert seen(shelf) == [0, 0, 0, 0]
    with store.database.maintaining() as connection:
        assert connection.scalars(select(messages.c.id)).all() == []
        assert connection.scalars(select(conversations.c.id)).all() == []


def test_a_known_conversation_stays_where_its_import_is_not_wanted_any_more(
    shelf: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(shelf, long_chat(60))
    monkeypatch.setattr(import_merge, "TURN_SECONDS", 0)
    (tree,) = importing.read(json.dumps(long_chat(300)).encode(), NOW)
    wanted = iter([True] * 3)
    assert shelf.merge(tree, lambda: next(wanted, False)) is None
    (only,) = shelf.conversations()
    assert told(shelf, only.id) == [f"word{n}" for n in range(60)]


def test_what_is_removed_while_it_comes_in_does_not_come_back_in_part(
    store: Store, shelf: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_merge, "TURN_SECONDS", 0)
    monkeypatch.setattr(import_merge, "pause", lambda: store.discard("login:ann", id))
    (tree,) = importing.read(json.dumps(long_chat(300)).encode(), NOW)
    id = import_merge._titled(tree).id
    with pytest.raises(TransferError, match="was removed while it came in"):
        shelf.merge(tree)
    assert seen(shelf) == [0, 0, 0, 0]


def test_long_texts_make_small_pieces(shelf: OwnerStore) -> None:
    nodes = [node(f"m{n}", f"m{n - 1}" if n else None, "user", "x" * 150_000) for n in range(3)]
    (tree,) = importing.read(json.dumps(chat(*nodes)).encode(), NOW)
    with shelf._database.reading() as connection:
        pieces = import_merge.Merge.of(connection, "login:ann", tree).pieces()
        assert [len(piece) for piece in pieces] == [1, 1, 1]
