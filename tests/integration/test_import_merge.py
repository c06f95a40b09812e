"""Importing again: what is known is brought up to date, and nothing that was done here is lost."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from chatui import runner
from chatui.errors import NotFoundError, StoreError, TransferError
from chatui.generation_settings import GenerationSettings
from chatui.personas import Persona
from chatui.store import import_merge, rows
from chatui.store.exporting import as_json
from chatui.store.imports import importing
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


def import_value(owner_store: OwnerStore, value: Any) -> list[MergeResult]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    reading = importing.read(data, NOW)
    merged = [owner_store.merge_tree(tree) for tree in reading]
    assert reading.skipped == []
    return [one for one in merged if one is not None]


def path_contents(owner_store: OwnerStore, id: str) -> list[str]:
    return [message.content for message in owner_store.path(id)]


def add_turn(store: Store, owner_store: OwnerStore, id: str, question: str) -> None:
    parent = owner_store.conversation(id).leaf
    started = owner_store.start_turn(NewTurn(id, parent, question, AUTHOR, Persona("P")))
    store.update_replies([ReplyUpdate(owner_store._owner, started.reply.id, f"Re: {question}", state="finished")])


@pytest.fixture
def owner_store(store: Store) -> OwnerStore:
    return store.for_owner("login:ann")


@pytest.mark.parametrize("name", KNOWN)
def test_the_same_file_again_changes_nothing(owner_store: OwnerStore, name: str) -> None:
    (first,) = import_value(owner_store, KNOWN[name][0])
    before = list(owner_store.trees())
    (again,) = import_value(owner_store, KNOWN[name][0])
    assert (first.existed, again.existed, again.added) == (False, True, 0)
    assert first.added == len(before[0].messages) > 0
    assert list(owner_store.trees()) == before


def test_a_later_export_adds_what_is_new_and_moves_on(owner_store: OwnerStore) -> None:
    (first,) = import_value(owner_store, chat(QUESTION, ANSWER))
    (later,) = import_value(owner_store, chat(QUESTION, ANSWER, *MORE, title="Renamed there", update_time=1.8e9))
    assert (later.existed, later.added, later.conversation.id) == (True, 2, first.conversation.id)
    assert path_contents(owner_store, first.conversation.id) == ["Hi", "Hello", "More?", "Sure"]
    (only,) = owner_store.conversations()
    assert only.updated == datetime.fromtimestamp(1.8e9, UTC)


def test_what_was_said_here_since_stays_and_stays_shown(store: Store, owner_store: OwnerStore) -> None:
    (first,) = import_value(owner_store, chat(QUESTION, ANSWER))
    add_turn(store, owner_store, first.conversation.id, "And here?")
    owner_store.rename(first.conversation.id, "Mine")
    owner_store.rate(owner_store.path(first.conversation.id)[-1].id, "like", "good")
    before = owner_store.path(first.conversation.id)
    (later,) = import_value(owner_store, chat(QUESTION, ANSWER, *MORE))
    assert later.added == 2
    after = owner_store.path(first.conversation.id)
    assert [replace(one, versions=()) for one in after] == [replace(one, versions=()) for one in before]
    assert len(after[2].versions) == 2
    assert owner_store.conversation(first.conversation.id).title == "Mine"


def test_a_reply_that_was_exported_too_early_grows_but_never_shrinks(owner_store: OwnerStore) -> None:
    (first,) = import_value(owner_store, chat(QUESTION, node("a", "q", "assistant", "Hel")))
    assert import_value(owner_store, chat(QUESTION, ANSWER))[0].added == 1
    assert path_contents(owner_store, first.conversation.id) == ["Hi", "Hello"]
    assert import_value(owner_store, chat(QUESTION, node("a", "q", "assistant", "Bye")))[0].added == 0
    assert path_contents(owner_store, first.conversation.id) == ["Hi", "Hello"]


def test_what_was_deleted_comes_back_when_it_is_imported_again(owner_store: OwnerStore) -> None:
    (first,) = import_value(owner_store, chat(QUESTION, ANSWER))
    owner_store.delete(first.conversation.id)
    (again,) = import_value(owner_store, chat(QUESTION, ANSWER))
    assert not again.existed
    assert [one.id for one in owner_store.conversations()] == [first.conversation.id]


def test_our_own_export_goes_where_it_came_from(store: Store, owner_store: OwnerStore) -> None:
    started = owner_store.start_turn(NewTurn(None, None, "Hi", AUTHOR, Persona("P")))
    store.update_replies([ReplyUpdate("login:ann", started.reply.id, "Hello", state="finished")])
    data = "".join(as_json(owner_store.trees())).encode()
    add_turn(store, owner_store, started.conversation.id, "More?")
    before = list(owner_store.trees())
    (again,) = import_value(owner_store, data)
    assert (again.existed, again.added) == (True, 0)
    assert list(owner_store.trees()) == before
    other = store.for_owner("login:bob")
    (fresh,) = import_value(other, data)
    assert not fresh.existed
    assert path_contents(other, fresh.conversation.id) == ["Hi", "Hello"]
    assert list(owner_store.trees()) == before


def test_two_owners_import_the_same_file(store: Store, owner_store: OwnerStore) -> None:
    other = store.for_owner("login:bob")
    (mine,), (theirs,) = (import_value(one, chat(QUESTION, ANSWER)) for one in (owner_store, other))
    add_turn(store, owner_store, mine.conversation.id, "Secret?")
    assert path_contents(other, theirs.conversation.id) == ["Hi", "Hello"]


def test_ids_of_another_conversation_here_are_not_taken_over(owner_store: OwnerStore) -> None:
    """A file may be written by hand: its messages may be called as those of any conversation."""
    started = owner_store.start_turn(NewTurn(None, None, "Mine", AUTHOR, Persona("P")))
    question, reply = (message.id for message in started.path)
    (came,) = import_value(
        owner_store, chat(node(question, None, "user", "Theirs"), node(reply, question, "assistant", "Yes"))
    )
    assert path_contents(owner_store, came.conversation.id) == ["Theirs", "Yes"]
    assert path_contents(owner_store, started.conversation.id) == ["Mine", ""]
    assert (
        import_value(
            owner_store, chat(node(question, None, "user", "Theirs"), node(reply, question, "assistant", "Yes"))
        )[0].added
        == 0
    )


def test_a_conversation_with_many_messages(owner_store: OwnerStore) -> None:
    nodes = [node(str(number), str(number - 1) if number else None, "user", f"m{number}") for number in range(1300)]
    assert import_value(owner_store, chat(*nodes[:1200]))[0].added == 1200
    (later,) = import_value(owner_store, chat(*nodes))
    assert later.added == 100
    assert len(path_contents(owner_store, later.conversation.id)) == 1300


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


def visible_counts(owner_store: OwnerStore) -> list[int]:
    """How many conversations each way to look at them shows."""
    return [
        len(owner_store.conversations()),
        len(owner_store.deleted()),
        len(owner_store.search("word7")),
        len(list(owner_store.trees())),
    ]


@pytest.mark.parametrize(("milliseconds", "turns"), [(0.0, [950]), (0.6, [100] * 9 + [50]), (9.0, [50] * 19)])
def test_a_long_conversation_comes_in_in_short_turns_and_is_hidden_until_it_is_whole(
    owner_store: OwnerStore, monkeypatch: pytest.MonkeyPatch, milliseconds: float, turns: list[int]
) -> None:
    """The slower the disk and the index of words, the less is added while others wait."""
    clock, at_once, looked = Clock(milliseconds / 1000), [], []

    def pause() -> None:
        at_once.append(sum(clock.added))
        clock.added.clear()
        looked.append(visible_counts(owner_store))

    monkeypatch.setattr(import_merge, "insert_messages", clock.insert)
    monkeypatch.setattr(import_merge, "time", clock)
    monkeypatch.setattr(import_merge, "pause", pause)
    (first,) = import_value(owner_store, long_chat(950))
    assert first.added == 950 == len(path_contents(owner_store, first.conversation.id))
    assert [count for count in at_once if count] == turns
    assert looked[:-1] == [[0, 0, 0, 0]] * (len(looked) - 1)
    assert looked[-1] == visible_counts(owner_store) == [1, 0, 1, 1]
    monkeypatch.setattr(import_merge, "pause", lambda: None)
    (again,) = import_value(owner_store, long_chat(950))
    assert (again.existed, again.added) == (True, 0)


def interrupt_import(owner_store: OwnerStore, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    """Begin an import that ends with its server."""

    def broken() -> None:
        raise StoreError("gone", "")

    with monkeypatch.context() as patched:
        patched.setattr(import_merge, "pause", broken)
        patched.setattr(import_merge, "TRANSACTION_SECONDS", 0)
        with pytest.raises(StoreError):
            import_value(owner_store, value)


def test_what_a_crash_left_half_in_is_nowhere_and_is_gone_on_with_by_importing_again(
    owner_store: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        interrupt_import(owner_store, monkeypatch, long_chat(300))
        assert visible_counts(owner_store) == [0, 0, 0, 0]
    half = import_merge._with_id_and_title(next(iter(importing.read(json.dumps(long_chat(300)).encode(), NOW)))).id
    for use in (owner_store.restore, owner_store.delete, owner_store.conversation, owner_store.path):
        with pytest.raises(NotFoundError):
            use(half)
    (whole,) = import_value(owner_store, long_chat(300))
    assert len(path_contents(owner_store, whole.conversation.id)) == 300
    assert (whole.existed, visible_counts(owner_store)) == (False, [1, 0, 1, 1])


def test_what_a_crash_left_half_in_is_removed_and_nothing_else(
    store: Store, owner_store: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept,) = import_value(owner_store, chat(QUESTION, ANSWER))
    (deleted,) = import_value(owner_store, chat(node("x", None, "user", "Hi"), conversation_id="9"))
    owner_store.delete(deleted.conversation.id)
    interrupt_import(owner_store, monkeypatch, long_chat(300) | {"conversation_id": "8"})
    assert store.remove_unfinished_imports(timedelta(hours=1)) == 0
    assert store.remove_unfinished_imports(timedelta(0)) == 1
    assert store.remove_unfinished_imports(timedelta(0)) == 0
    with store.database.maintaining() as connection:
        ids = connection.scalars(select(messages.c.conversation).distinct()).all()
    assert set(ids) == {kept.conversation.id, deleted.conversation.id}
    assert [one.id for one in owner_store.deleted()] == [deleted.conversation.id]
    assert import_value(owner_store, long_chat(300) | {"conversation_id": "8"})[0].added == 300


async def test_a_server_removes_what_another_left_half_in(
    store: Store, owner_store: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_import(owner_store, monkeypatch, long_chat(300))
    monkeypatch.setattr(runner, "IMPORT_TIMEOUT", timedelta(0))
    at_work = runner.Runner(FakeBackend([]), store, Store.in_memory())
    at_work._sweep()
    assert store.remove_unfinished_imports(timedelta(0)) == 0


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_what_is_not_wanted_any_more_leaves_nothing_behind(
    store: Store, owner_store: OwnerStore, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setattr(import_merge, "TRANSACTION_SECONDS", 0)
    monkeypatch.setattr(import_merge, "MAX_IDS", 60)
    (tree,) = importing.read(json.dumps(long_chat(300)).encode(), NOW)
    answers = iter([True] * turns)
    assert owner_store.merge_tree(tree, lambda: next(answers, False)) is None
    assert visible_counts(owner_store) == [0, 0, 0, 0]
    with store.database.maintaining() as connection:
        assert connection.scalars(select(messages.c.id)).all() == []
        assert connection.scalars(select(conversations.c.id)).all() == []


def test_a_known_conversation_stays_where_its_import_is_not_wanted_any_more(
    owner_store: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_value(owner_store, long_chat(60))
    monkeypatch.setattr(import_merge, "TRANSACTION_SECONDS", 0)
    (tree,) = importing.read(json.dumps(long_chat(300)).encode(), NOW)
    answers = iter([True] * 3)
    assert owner_store.merge_tree(tree, lambda: next(answers, False)) is None
    (only,) = owner_store.conversations()
    assert path_contents(owner_store, only.id) == [f"word{n}" for n in range(60)]


def test_what_is_removed_while_it_comes_in_does_not_come_back_in_part(
    store: Store, owner_store: OwnerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_merge, "TRANSACTION_SECONDS", 0)
    (tree,) = importing.read(json.dumps(long_chat(300)).encode(), NOW)
    id = import_merge._with_id_and_title(tree).id
    monkeypatch.setattr(import_merge, "pause", lambda: store.discard("login:ann", id))
    with pytest.raises(TransferError, match="was removed while it came in"):
        owner_store.merge_tree(tree)
    assert visible_counts(owner_store) == [0, 0, 0, 0]


def test_long_texts_make_small_batches(owner_store: OwnerStore) -> None:
    nodes = [node(f"m{n}", f"m{n - 1}" if n else None, "user", "x" * 150_000) for n in range(3)]
    (tree,) = importing.read(json.dumps(chat(*nodes)).encode(), NOW)
    with owner_store._database.reading() as connection:
        batches = import_merge.Merge.prepare(connection, "login:ann", tree).batches()
        assert [len(batch) for batch in batches] == [1, 1, 1]
