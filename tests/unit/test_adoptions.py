"""Everything of an owner goes to another at once, and is found there as it was."""

import time
from typing import Any

import pytest
from sqlalchemy import select, text

from chatui.personas import PRESETS
from chatui.store.adoptions import Adoptions, _owned
from chatui.store.records import PageTimes, Progress
from chatui.store.rows import now
from chatui.store.store import Store
from tests.databases import FINISH, ask


def filled(store: Store, owner: str, word: str = "findable") -> Any:
    """Something of everything; returns all of it."""
    shelf = store.of(owner)
    begun = shelf.begin(ask(f"{word} question"))
    store.write([progress(owner, begun, f"{word} answer", inspection=b"kept")])
    shelf.saw(begun.reply.id, PageTimes(1.0, 2.0))
    again = shelf.begin(ask(None, begun.conversation.id, begun.path[0].id))
    store.write([progress(owner, again, "another")])
    shelf.rate(again.reply.id, "like", "a note")
    shelf.archive(shelf.begin(ask("put away")).conversation.id, True)
    shelf.delete(shelf.begin(ask("deleted")).conversation.id)
    shelf.keep(PRESETS[0])
    return everything(store, owner, word), begun.reply.id


def progress(owner: str, begun: Any, said: str, inspection: bytes | None = None) -> Progress:
    return Progress(owner, begun.reply.id, said, "", "finished", FINISH, inspection=inspection)


def everything(store: Store, owner: str, word: str) -> list[Any]:
    shelf = store.of(owner)
    listed = [shelf.conversations(), shelf.conversations(archived=True), shelf.deleted()]
    return [*listed, list(shelf.trees()), shelf.personas(), shelf.search(word), shelf.search("question")]


def test_all_goes_over_as_it_was_and_nobody_elses_does(store: Store) -> None:
    (had, reply), (others, _) = filled(store, "guest:a"), filled(store, "guest:b", "elsewhere")
    inspection = store.of("guest:a").inspection(reply)
    Adoptions(store.database).adopt("guest:a", "local")
    assert everything(store, "local", "findable") == had
    assert store.of("local").inspection(reply) == inspection
    assert everything(store, "guest:a", "findable") == [[], [], [], [], [], [], []]
    assert everything(store, "guest:b", "elsewhere") == others
    store.of("local").rename(had[0][0].id, "renamed thing")
    assert [hit.conversation.id for hit in store.of("local").search("renamed")] == [had[0][0].id]
    store.of("local").begin(ask("goes on", had[0][0].id, reply))


def test_what_the_target_has_stays_and_twice_is_once(store: Store) -> None:
    (had, _), (own, _) = filled(store, "guest:a"), filled(store, "local", "own")
    for _ in range(2):
        Adoptions(store.database).adopt("guest:a", "local")
    trees = [tree.conversation.id for tree in store.of("local").trees()]
    assert sorted(trees) == sorted(tree.conversation.id for tree in (*had[3], *own[3]))


def test_the_index_of_words_stays_whole(store: Store) -> None:
    filled(store, "guest:a")
    Adoptions(store.database).adopt("guest:a", "local")
    with store.database.maintaining() as connection:
        if store.database.sqlite:
            for table in ("message_words", "title_words"):
                connection.execute(text(f"INSERT INTO {table}({table}, rank) VALUES ('integrity-check', 0)"))
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
    shelf = store.of("local")
    for conversation in shelf.conversations():
        shelf.delete(conversation.id)
    store.purge(now() - now())
    assert shelf.search("findable") == []


def test_every_table_with_an_owner_moves(store: Store) -> None:
    assert {table.name for table in _owned()} >= {"conversations", "messages", "inspections", "personas"}
    filled(store, "guest:a")
    Adoptions(store.database).adopt("guest:a", "local")
    with store.database.maintaining() as connection:
        for table in _owned():
            assert set(connection.scalars(select(table.c.owner))) == {"local"}, table.name


def test_what_fails_moves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    had, _ = filled(store, "guest:a")

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("chatui.store.adoptions._note", fails)
    with pytest.raises(RuntimeError):
        Adoptions(store.database).adopt("guest:a", "local")
    assert everything(store, "guest:a", "findable") == had


def test_it_is_remembered_who_has_adopted(store: Store) -> None:
    adoptions = Adoptions(store.database)
    assert not adoptions.adopted("guest:a", "local")
    adoptions.adopt("guest:a", "local")
    assert adoptions.adopted("guest:a", "local")
    assert not adoptions.adopted("guest:a", "login:ada")
    assert not adoptions.adopted("local", "guest:a")


def test_what_is_offered_is_declined_once_but_what_comes_later_is_offered_again(store: Store) -> None:
    adoptions = Adoptions(store.database)
    assert adoptions.offered("guest:a", "login:ada") == 0
    filled(store, "guest:a")
    assert adoptions.offered("guest:a", "login:ada") == 2
    adoptions.decline("guest:a", "login:ada")
    assert adoptions.offered("guest:a", "login:ada") == 0
    assert not adoptions.adopted("guest:a", "login:ada")
    assert adoptions.offered("guest:a", "login:bob") == 2
    time.sleep(0.002)
    store.of("guest:a").begin(ask("later"))
    assert adoptions.offered("guest:a", "login:ada") == 1
    adoptions.adopt("guest:a", "login:ada")
    assert adoptions.offered("guest:a", "login:bob") == adoptions.offered("guest:a", "login:ada") == 0
