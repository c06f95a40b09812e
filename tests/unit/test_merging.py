"""Importing again: what is known is brought up to date, and nothing that was done here is lost."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chatui.errors import StoreError
from chatui.personas import Persona
from chatui.settings import GenerationSettings
from chatui.store import importing, merging, rows
from chatui.store.exporting import as_json
from chatui.store.records import Author, Merged, Progress, Turn
from chatui.store.shelf import Shelf
from chatui.store.store import Store
from tests.unit.test_formats import KNOWN
from tests.unit.test_transfer import conversation, node

pytest_plugins = ("tests.databases",)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
AUTHOR = Author("m", "", "", GenerationSettings(), 1)
QUESTION, ANSWER = node("q", None, "user", "Hi"), node("a", "q", "assistant", "Hello")
MORE = [node("q2", "a", "user", "More?"), node("a2", "q2", "assistant", "Sure")]


def chat(*nodes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return conversation(*(one | {"children": []} for one in nodes), **{"conversation_id": "7", **fields})


def bring(shelf: Shelf, value: Any) -> list[Merged]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    reading = importing.read(data, NOW)
    merged = [shelf.merge(tree) for tree in reading]
    assert reading.left == []
    return merged


def told(shelf: Shelf, id: str) -> list[str]:
    return [message.content for message in shelf.path(id)]


def go_on(store: Store, shelf: Shelf, id: str, question: str) -> None:
    parent = shelf.conversation(id).leaf
    begun = shelf.begin(Turn(id, parent, question, AUTHOR, Persona("P")))
    store.write([Progress(shelf._owner, begun.reply.id, f"Re: {question}", state="finished")])


@pytest.fixture
def shelf(store: Store) -> Shelf:
    return store.of("login:ann")


@pytest.mark.parametrize("name", KNOWN)
def test_the_same_file_again_changes_nothing(shelf: Shelf, name: str) -> None:
    (first,) = bring(shelf, KNOWN[name][0])
    before = list(shelf.trees())
    (again,) = bring(shelf, KNOWN[name][0])
    assert (first.known, again.known, again.new) == (False, True, 0)
    assert first.new == len(before[0].messages) > 0
    assert list(shelf.trees()) == before


def test_a_later_export_adds_what_is_new_and_moves_on(shelf: Shelf) -> None:
    (first,) = bring(shelf, chat(QUESTION, ANSWER))
    (later,) = bring(shelf, chat(QUESTION, ANSWER, *MORE, title="Renamed there", update_time=1.8e9))
    assert (later.known, later.new, later.conversation.id) == (True, 2, first.conversation.id)
    assert told(shelf, first.conversation.id) == ["Hi", "Hello", "More?", "Sure"]
    (only,) = shelf.conversations()
    assert only.updated == datetime.fromtimestamp(1.8e9, UTC)


def test_what_was_said_here_since_stays_and_stays_shown(store: Store, shelf: Shelf) -> None:
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


def test_a_reply_that_was_exported_too_early_grows_but_never_shrinks(shelf: Shelf) -> None:
    (first,) = bring(shelf, chat(QUESTION, node("a", "q", "assistant", "Hel")))
    assert bring(shelf, chat(QUESTION, ANSWER))[0].new == 1
    assert told(shelf, first.conversation.id) == ["Hi", "Hello"]
    assert bring(shelf, chat(QUESTION, node("a", "q", "assistant", "Bye")))[0].new == 0
    assert told(shelf, first.conversation.id) == ["Hi", "Hello"]


def test_what_was_deleted_comes_back_when_it_is_imported_again(shelf: Shelf) -> None:
    (first,) = bring(shelf, chat(QUESTION, ANSWER))
    shelf.delete(first.conversation.id)
    (again,) = bring(shelf, chat(QUESTION, ANSWER))
    assert not again.known
    assert [one.id for one in shelf.conversations()] == [first.conversation.id]


def test_our_own_export_goes_where_it_came_from(store: Store, shelf: Shelf) -> None:
    begun = shelf.begin(Turn(None, None, "Hi", AUTHOR, Persona("P")))
    store.write([Progress("login:ann", begun.reply.id, "Hello", state="finished")])
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


def test_two_owners_import_the_same_file(store: Store, shelf: Shelf) -> None:
    other = store.of("login:bob")
    (mine,), (theirs,) = (bring(one, chat(QUESTION, ANSWER)) for one in (shelf, other))
    go_on(store, shelf, mine.conversation.id, "Secret?")
    assert told(other, theirs.conversation.id) == ["Hi", "Hello"]


def test_ids_of_another_conversation_here_are_not_taken_over(shelf: Shelf) -> None:
    """A file may be written by hand: its messages may be called as those of any conversation."""
    begun = shelf.begin(Turn(None, None, "Mine", AUTHOR, Persona("P")))
    question, reply = (message.id for message in begun.path)
    (came,) = bring(shelf, chat(node(question, None, "user", "Theirs"), node(reply, question, "assistant", "Yes")))
    assert told(shelf, came.conversation.id) == ["Theirs", "Yes"]
    assert told(shelf, begun.conversation.id) == ["Mine", ""]
    assert (
        bring(shelf, chat(node(question, None, "user", "Theirs"), node(reply, question, "assistant", "Yes")))[0].new
        == 0
    )


def test_a_conversation_with_many_messages(shelf: Shelf) -> None:
    nodes = [node(str(number), str(number - 1) if number else None, "user", f"m{number}") for number in range(1300)]
    assert bring(shelf, chat(*nodes[:1200]))[0].new == 1200
    (later,) = bring(shelf, chat(*nodes))
    assert later.new == 100
    assert len(told(shelf, later.conversation.id)) == 1300


def long_chat(count: int) -> Any:
    nodes = [node(f"m{n}", f"m{n - 1}" if n else None, ("user", "assistant")[n % 2], f"word{n}") for n in range(count)]
    return chat(*nodes, current_node=f"m{count - 1}")


def test_a_long_conversation_comes_in_in_pieces_and_is_hidden_until_it_is_whole(
    store: Store, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[int] = []
    listed: list[int] = []

    def insert(*args: Any) -> None:
        added.append(len(args[2]))
        rows.insert_messages(*args)

    monkeypatch.setattr(merging, "insert_messages", insert)
    monkeypatch.setattr(merging, "_pause", lambda: listed.append(len(shelf.conversations())))
    (first,) = bring(shelf, long_chat(950))
    assert first.new == 950 == len(told(shelf, first.conversation.id))
    assert added == [200, 200, 200, 200, 150]
    assert listed == [0, 0, 0, 0, 1]
    (again,) = bring(shelf, long_chat(950))
    assert (again.known, again.new) == (True, 0)


def test_an_import_that_broke_off_is_gone_on_with_or_purged(
    store: Store, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise StoreError("gone", "")

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(merging, "_pause", broken)
            with pytest.raises(StoreError):
                bring(shelf, long_chat(300))
        assert shelf.conversations() == []
        assert shelf.search("word7") == []
    (whole,) = bring(shelf, long_chat(300))
    assert len(told(shelf, whole.conversation.id)) == 300
    assert not whole.known
    with monkeypatch.context() as patched:
        patched.setattr(merging, "_pause", broken)
        with pytest.raises(StoreError):
            bring(shelf, long_chat(300) | {"conversation_id": "8"})
    assert store.purge(timedelta(0)) == 1


def test_long_texts_make_small_pieces(shelf: Shelf) -> None:
    nodes = [node(f"m{n}", f"m{n - 1}" if n else None, "user", "x" * 150_000) for n in range(3)]
    (tree,) = importing.read(json.dumps(chat(*nodes)).encode(), NOW)
    with shelf._database.reading() as connection:
        pieces = merging.Merge.of(connection, "login:ann", tree).pieces()
        assert [len(piece) for piece in pieces] == [1, 1, 1]
