"""Everything of an owner goes to another at once, and is found there as it was."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, select, text

from chatui.personas import PRESETS, Persona
from chatui.store import adoptions as moving
from chatui.store import import_merge
from chatui.store.adoptions import BATCH_CONVERSATIONS, BATCH_MESSAGES, Adoptions
from chatui.store.records import PageTimes, ReplyUpdate
from chatui.store.rows import now
from chatui.store.store import Store
from chatui.store.tables import conversations, inspections, messages, metadata
from tests.databases import FINISH, VOTE, ask, fill

CHARACTER = Persona("Robo", card={"data": {"name": "Robo"}}, avatar="data:image/png;base64,AAAA")


def add_everything(store: Store, owner: str, word: str = "findable") -> Any:
    """Something of everything; returns all of it."""
    owner_store = store.for_owner(owner)
    played = owner_store.start_turn(replace(ask("played"), persona=CHARACTER)).conversation.id
    assert owner_store.initial_persona(played) == CHARACTER
    started = owner_store.start_turn(ask(f"{word} question"))
    store.update_replies([progress(owner, started, f"{word} answer", inspection=b"kept")])
    owner_store.set_page_times(started.reply.id, PageTimes(1.0, 2.0))
    again = owner_store.start_turn(ask(None, started.conversation.id, started.path[0].id))
    store.update_replies([progress(owner, again, "another")])
    owner_store.rate(again.reply.id, "like", "a note")
    owner_store.archive(owner_store.start_turn(ask("put away")).conversation.id, True)
    owner_store.delete(owner_store.start_turn(ask("deleted")).conversation.id)
    owner_store.save_persona(PRESETS[0])
    owner_store.save_persona(CHARACTER)
    owner_store.votes.add([VOTE])
    return all_results(store, owner, word), started.reply.id


def progress(owner: str, started: Any, content: str, inspection: bytes | None = None) -> ReplyUpdate:
    return ReplyUpdate(owner, started.reply.id, content, "", "finished", FINISH, inspection=inspection)


def all_results(store: Store, owner: str, word: str) -> list[Any]:
    owner_store = store.for_owner(owner)
    listed = [owner_store.conversations(), owner_store.conversations(archived=True), owner_store.deleted()]
    return [
        *listed,
        list(owner_store.trees()),
        owner_store.personas(),
        owner_store.votes.all(),
        owner_store.search(word),
        owner_store.search("question"),
    ]


def test_all_goes_over_as_it_was_and_nobody_elses_does(store: Store) -> None:
    (had, reply), (others, _) = add_everything(store, "guest:a"), add_everything(store, "guest:b", "elsewhere")
    inspection = store.for_owner("guest:a").inspection(reply)
    Adoptions(store.database).adopt("guest:a", "local")
    assert all_results(store, "local", "findable") == had
    assert store.for_owner("local").inspection(reply) == inspection
    assert all_results(store, "guest:a", "findable") == [[]] * 8
    assert all_results(store, "guest:b", "elsewhere") == others
    store.for_owner("local").rename(had[0][0].id, "renamed thing")
    assert [hit.conversation.id for hit in store.for_owner("local").search("renamed")] == [had[0][0].id]
    store.for_owner("local").start_turn(ask("goes on", had[0][0].id, reply))


def test_what_the_target_has_stays_and_twice_is_once(store: Store) -> None:
    (had, _), (own, _) = add_everything(store, "guest:a"), add_everything(store, "local", "own")
    for _ in range(2):
        Adoptions(store.database).adopt("guest:a", "local")
    trees = [tree.conversation.id for tree in store.for_owner("local").trees()]
    assert sorted(trees) == sorted(tree.conversation.id for tree in (*had[3], *own[3]))


def test_the_index_of_words_stays_whole(store: Store) -> None:
    add_everything(store, "guest:a")
    Adoptions(store.database).adopt("guest:a", "local")
    with store.database.maintaining() as connection:
        if store.database.sqlite:
            for table in ("message_words", "title_words"):
                connection.execute(text(f"INSERT INTO {table}({table}, rank) VALUES ('integrity-check', 0)"))
            assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
    owner_store = store.for_owner("local")
    for conversation in owner_store.conversations():
        owner_store.delete(conversation.id)
    store.purge(now() - now())
    assert owner_store.search("findable") == []


def test_every_table_with_an_owner_moves(store: Store) -> None:
    add_everything(store, "guest:a")
    Adoptions(store.database).adopt("guest:a", "local")
    owned = [table for table in metadata.sorted_tables if "owner" in table.c]
    assert {table.name for table in owned} >= {"conversations", "messages", "inspections", "personas", "cards", "votes"}
    with store.database.maintaining() as connection:
        for table in owned:
            assert set(connection.scalars(select(table.c.owner))) == {"local"}, table.name


def test_what_fails_half_way_goes_on_the_next_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    had, _ = add_everything(store, "guest:a")
    move, moved = moving._move, []

    def fails_at_the_third(connection: Any, source: str, target: str, ids: Sequence[str]) -> None:
        move(connection, source, target, ids)
        moved.append(ids)
        if len(moved) == 3:
            raise RuntimeError

    monkeypatch.setattr(moving, "BATCH_CONVERSATIONS", 1)
    monkeypatch.setattr(moving, "_move", fails_at_the_third)
    adoptions = Adoptions(store.database)
    with pytest.raises(RuntimeError):
        adoptions.adopt("guest:a", "local")
    assert moved[0] != moved[1]
    assert not adoptions.adopted("guest:a", "local")
    whole = {conversation.id for owner_store in ("guest:a", "local") for conversation in listed(store, owner_store)}
    assert len(whole) == len(had[0]) + len(had[1]) + len(had[2])
    adoptions.adopt("guest:a", "local")
    assert all_results(store, "local", "findable") == had


def listed(store: Store, owner: str) -> list[Any]:
    return [
        *store.for_owner(owner).conversations(),
        *store.for_owner(owner).conversations(archived=True),
        *store.for_owner(owner).deleted(),
    ]


def test_others_wait_for_a_piece_and_never_for_the_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction has a few statements and moves a few messages, however much there is to move."""
    fill(store, "guest:a", 120, length=10)
    move, pieces = moving._move, list[tuple[int, int, int]]()
    statements: list[str] = []

    def counted(connection: Any, source: str, target: str, ids: Sequence[str]) -> None:
        some = select(messages.c.seq).where(messages.c.owner == source, messages.c.conversation.in_(ids))
        message_count, before = len(connection.execute(some).all()), len(statements)
        move(connection, source, target, ids)
        pieces.append((len(ids), message_count, len(statements) - before))

    monkeypatch.setattr(moving, "_move", counted)
    note = lambda *args: statements.append(args[2])  # noqa: E731
    event.listen(store.database.engine, "before_cursor_execute", note)
    Adoptions(store.database).adopt("guest:a", "local")
    event.remove(store.database.engine, "before_cursor_execute", note)
    assert sum(chats for chats, _, _ in pieces) == 120
    for chats, message_count, count in pieces:
        assert 0 < chats <= BATCH_CONVERSATIONS
        assert message_count <= BATCH_MESSAGES
        assert count <= 6
    assert len(store.for_owner("local").conversations(limit=1000)) == 120


def test_a_long_conversation_goes_over_and_goes_away_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, guest = 15, store.for_owner("guest:a")
    started = guest.start_turn(ask("findable 0"))
    for turn in range(1, turns):
        store.update_replies([progress("guest:a", started, f"answer {turn}", inspection=b"kept")])
        started = guest.start_turn(ask(f"findable {turn}", started.conversation.id, started.reply.id))
    store.update_replies([progress("guest:a", started, "the last", inspection=b"kept")])
    had, size = all_results(store, "guest:a", "findable"), size_of(store, "guest:a")
    monkeypatch.setattr(moving, "MAX_MOVED_MESSAGES", 20)
    monkeypatch.setattr(moving, "BATCH_INSPECTIONS", 4)
    for name in ("MAX_IDS", "BATCH_MESSAGES"):
        monkeypatch.setattr(import_merge, name, 8)
    counts: list[int] = []

    def note(*args: Any) -> None:
        if args[2].startswith(("INSERT", "UPDATE", "DELETE")):
            counts.append(args[1].rowcount)

    event.listen(store.database.engine, "after_cursor_execute", note)
    Adoptions(store.database).adopt("guest:a", "local")
    assert all_results(store, "local", "findable") == had
    assert size_of(store, "local") == size
    assert all(
        store.for_owner("local").inspection(one.id)
        for one in next(iter(store.for_owner("local").trees())).messages[1::2]
    )
    assert all_results(store, "guest:a", "findable") == [[]] * 8
    store.for_owner("local").delete(started.conversation.id)
    assert store.empty_trash("local") == 1
    event.remove(store.database.engine, "after_cursor_execute", note)
    assert 2 < max(counts) <= 8
    with store.database.maintaining() as connection:
        assert [connection.execute(select(table)).all() for table in (messages, inspections)] == [[], []]


def size_of(store: Store, owner: str) -> int | None:
    with store.database.reading() as connection:
        return connection.scalar(select(conversations.c.size).where(conversations.c.owner == owner))


def test_what_both_have_imported_is_there_once(store: Store) -> None:
    add_everything(store, "guest:a")
    guest, ada = store.for_owner("guest:a"), store.for_owner("login:ada")
    trees = list(guest.trees())
    ada.add_trees(trees[:1])
    had = {tree.conversation.id: tree for tree in ada.trees()}
    Adoptions(store.database).adopt("guest:a", "login:ada")
    has = {tree.conversation.id: tree for tree in ada.trees()}
    assert has.keys() == {tree.conversation.id for tree in trees}
    assert {id: has[id] for id in had} == had
    assert listed(store, "guest:a") == []


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
    add_everything(store, "guest:a")
    assert adoptions.offered("guest:a", "login:ada") == 3
    adoptions.decline("guest:a", "login:ada")
    assert adoptions.offered("guest:a", "login:ada") == 0
    assert not adoptions.adopted("guest:a", "login:ada")
    assert adoptions.offered("guest:a", "login:bob") == 3
    time.sleep(0.002)
    store.for_owner("guest:a").start_turn(ask("later"))
    assert adoptions.offered("guest:a", "login:ada") == 1
    adoptions.adopt("guest:a", "login:ada")
    assert adoptions.offered("guest:a", "login:bob") == adoptions.offered("guest:a", "login:ada") == 0
