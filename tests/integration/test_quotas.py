"""How much one owner may keep, on every database."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, text

from chatui.character_prompt import Insertion
from chatui.errors import LimitError, OverloadError
from chatui.generation_settings import GenerationSettings
from chatui.personas import Persona
from chatui.settings import AppSettings
from chatui.store.database import Database, database_url
from chatui.store.free_space import SpaceLimits
from chatui.store.imports import importing
from chatui.store.owner_store import OwnerStore
from chatui.store.quotas import (
    ROW_BYTES,
    TEMPORARY_BYTES,
    TEMPORARY_CHATS,
    Quotas,
    author_size,
    conversation_size,
    message_size,
    persona_size,
)
from chatui.store.records import Author, ReplyUpdate, StartedTurn, Tree
from chatui.store.store import Store
from chatui.store.tables import conversations, inspections, messages, personas
from tests.databases import FINISH, ask
from tests.unit.test_migrations import OLD, made_at

pytest_plugins = ("tests.databases",)
OWNER = "login:ann"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def limited(store: Store, **limits: Any) -> OwnerStore:
    return OwnerStore(store.database, OWNER, Quotas(**limits))


def end(store: Store, started: StartedTurn, content: str = "An answer.", inspection: bytes | None = None) -> None:
    store.update_replies(
        [ReplyUpdate(OWNER, started.reply.id, content, "Hm.", "finished", FINISH, inspection=inspection)]
    )


def size_of(store: Store, owner: str = OWNER) -> int:
    """What is noted of an owner's conversations."""
    with store.database.reading() as connection:
        return int(connection.scalar(select(func.sum(conversations.c.size)).where(conversations.c.owner == owner)) or 0)


def rows(store: Store) -> int:
    with store.database.reading() as connection:
        return connection.scalar(select(func.count()).where(messages.c.owner == OWNER)) or 0


def at_once(count: int, work: Callable[[int], object]) -> int:
    """Of so many threads that begin together, how many are not refused."""
    together = threading.Barrier(count)

    def one(number: int) -> bool:
        together.wait(30)
        try:
            work(number)
        except (LimitError, OverloadError):
            return False
        return True

    with ThreadPoolExecutor(count) as threads:
        return sum(threads.map(one, range(count)))


def tree_of(*texts: str, title: str = "Brought") -> Tree:
    nodes = [{"from": "human" if n % 2 == 0 else "gpt", "value": text} for n, text in enumerate(texts)]
    (tree,) = importing.read(json.dumps([{"id": title, "conversations": nodes}]).encode(), NOW)
    return replace(tree, conversation=replace(tree.conversation, title=title))


class TestConversations:
    def test_one_more_than_the_limit_is_refused_and_leaves_nothing(self, store: Store) -> None:
        owner_store = limited(store, conversations=2)
        for question in ("one", "two"):
            end(store, owner_store.start_turn(ask(question)))
        before = rows(store)
        with pytest.raises(LimitError, match=r"is 2, and you have 2, .*--max-conversations") as refused:
            owner_store.start_turn(ask("three"))
        assert refused.value.status == 413
        assert (rows(store), len(owner_store.conversations())) == (before, 2)

    def test_what_is_there_goes_on_and_others_have_their_own(self, store: Store) -> None:
        owner_store = limited(store, conversations=1)
        first = owner_store.start_turn(ask("one"))
        end(store, first)
        owner_store.start_turn(ask("more", first.conversation.id, first.reply.id))
        OwnerStore(store.database, "login:bob", Quotas(conversations=1)).start_turn(ask("mine"))

    def test_deleted_ones_count_until_they_are_removed(self, store: Store) -> None:
        owner_store = limited(store, conversations=1)
        first = owner_store.start_turn(ask("one"))
        end(store, first)
        owner_store.delete(first.conversation.id)
        with pytest.raises(LimitError, match="Recently deleted"):
            owner_store.start_turn(ask("two"))
        assert store.empty_trash(OWNER) == 1
        assert owner_store.deleted() == []
        owner_store.start_turn(ask("two"))

    def test_a_branch_is_one_more(self, store: Store) -> None:
        owner_store = limited(store, conversations=1)
        first = owner_store.start_turn(ask("one"))
        end(store, first)
        with pytest.raises(LimitError):
            owner_store.branch(first.reply.id)
        assert len(owner_store.conversations()) == 1

    def test_no_more_come_in_however_many_ask_at_once(self, store: Store) -> None:
        owner_store = limited(store, conversations=5)
        assert at_once(8, lambda number: owner_store.start_turn(ask(f"question {number}"))) == 5
        assert len(owner_store.conversations()) == 5


class TestStorage:
    def test_a_question_that_would_not_fit_is_refused_and_leaves_nothing(self, store: Store) -> None:
        owner_store = limited(store, size=20_000)
        first = owner_store.start_turn(ask("one"))
        end(store, first)
        before = rows(store), size_of(store)
        for conversation, parent in ((None, None), (first.conversation.id, first.reply.id)):
            with pytest.raises(LimitError, match=r"of the 0\.0 MB that one user may have.*--max-storage"):
                owner_store.start_turn(ask("ü" * 10_000, conversation, parent))
        assert (rows(store), size_of(store)) == before
        owner_store.start_turn(ask("u" * 10_000))

    def test_every_reply_counts_with_its_prompt_and_inspection(self, store: Store) -> None:
        owner_store = limited(store, size=50_000)
        first = owner_store.start_turn(ask("one"))
        end(store, first, "x" * 20_000, b"y" * 20_000)
        with pytest.raises(LimitError):
            owner_store.start_turn(replace(ask("two"), author=replace(ask("two").author, system_prompt="z" * 10_000)))
        owner_store.start_turn(ask("two"))

    def test_the_size_of_a_conversation_is_that_of_its_rows(self, store: Store) -> None:
        owner_store = limited(store, size=10**9)
        turn = ask("Hällo", prefix="Well")
        first = owner_store.start_turn(replace(turn, greetings=("Hi!", "Hello!")))
        end(store, first, "Well, 😀", b"told")
        again = owner_store.start_turn(ask(None, first.conversation.id, first.path[-2].id))
        store.update_replies([ReplyUpdate(OWNER, again.reply.id, "No", state="failed", error="It\nfailed")])
        for note in ("a long note", "short", ""):
            owner_store.rate(first.reply.id, "like", note)
        owner_store.rate(first.reply.id, "like", "nöte")
        branch = owner_store.branch(first.reply.id)
        owner_store.merge_tree(tree_of("What?", "That.", title="T"))
        owner_store.merge_tree(tree_of("What?", "That.", "And?", title="T"))
        trees = list(owner_store.trees())
        assert {tree.conversation.id for tree in trees} >= {first.conversation.id, branch.id}
        expected = sum(
            conversation_size(t.conversation, t.conversation.persona) + sum(map(message_size, t.messages))
            for t in trees
        )
        assert size_of(store) == expected + 2 * len(b"told")

    def test_a_reply_counts_once_however_often_its_end_is_written(self, store: Store) -> None:
        started = limited(store, size=10**9).start_turn(ask("one"))
        end(store, started)
        before = size_of(store)
        end(store, started)
        assert size_of(store) == before

    def test_notes_count(self, store: Store) -> None:
        owner_store = limited(store)
        started = owner_store.start_turn(ask("one"))
        end(store, started)
        full = limited(store, size=size_of(store) + 100)
        full.rate(started.reply.id, "like", "x" * 100)
        with pytest.raises(LimitError):
            full.rate(started.reply.id, "like", "x" * 101)
        full.rate(started.reply.id, "like", "y" * 100)
        full.rate(started.reply.id, None)

    def test_adopted_conversations_take_their_size_along(self, store: Store) -> None:
        end(store, limited(store).start_turn(ask("one")))
        size = size_of(store)
        store.adoptions.adopt(OWNER, "login:bob")
        assert (size_of(store), size_of(store, "login:bob")) == (0, size)
        with pytest.raises(LimitError):
            OwnerStore(store.database, "login:bob", Quotas(size=size)).start_turn(ask("two"))


class TestReplies:
    def test_one_more_than_the_limit_is_refused_and_leaves_nothing(self, store: Store) -> None:
        owner_store = limited(store, replies=2)
        first, _ = owner_store.start_turn(ask("one")), owner_store.start_turn(ask("two"))
        before = rows(store)
        with pytest.raises(OverloadError, match=r"at once is 2, and you wait for 2") as refused:
            owner_store.start_turn(ask("three"))
        assert refused.value.status == 429
        assert (rows(store), len(owner_store.conversations())) == (before, 2)
        OwnerStore(store.database, "login:bob", Quotas(replies=2)).start_turn(ask("mine"))
        end(store, first)
        owner_store.start_turn(ask("three"))

    def test_no_more_are_begun_however_many_ask_at_once(self, store: Store) -> None:
        owner_store = limited(store, replies=3)
        assert at_once(8, lambda number: owner_store.start_turn(ask(f"{number}"))) == 3
        assert len(owner_store.conversations()) == 3


class TestTemporary:
    def test_their_number_and_size_are_limited_for_each_user(self) -> None:
        store = Store.in_memory(Quotas.for_temporary_chats(AppSettings()))
        owner_store = store.for_owner(OWNER)
        for number in range(TEMPORARY_CHATS):
            end(store, owner_store.start_turn(ask(f"{number}")))
        with pytest.raises(LimitError, match="Leave a temporary chat"):
            owner_store.start_turn(ask("more"))
        store.discard(OWNER, owner_store.conversations()[0].id)
        owner_store.start_turn(ask("more"))
        with pytest.raises(LimitError, match="as much memory"):
            store.for_owner("login:bob").start_turn(ask("x" * TEMPORARY_BYTES))


class TestImports:
    def test_what_does_not_fit_comes_in_not_at_all(self, store: Store) -> None:
        owner_store = limited(store, size=400_000)
        owner_store.merge_tree(tree_of("small", "one", title="first"))
        before = rows(store), size_of(store)
        with pytest.raises(LimitError):
            owner_store.merge_tree(tree_of(*["x" * 150_000] * 4, title="large"))  # its first pieces would fit
        assert (rows(store), size_of(store)) == before
        assert owner_store.deleted() == []
        assert [each.title for each in owner_store.conversations()] == ["first"]

    def test_what_is_known_already_needs_no_room(self, store: Store) -> None:
        owner_store = limited(store)
        tree = tree_of("a", "b")
        owner_store.merge_tree(tree)
        full = limited(store, conversations=1, size=size_of(store))
        known = full.merge_tree(tree)
        assert known is not None
        assert known.existed
        with pytest.raises(LimitError):
            full.merge_tree(tree_of("a", "b and more"))

    def test_a_known_conversation_stays_where_its_rest_does_not_fit(self, store: Store) -> None:
        owner_store = limited(store)
        owner_store.merge_tree(tree_of("a", "b"))
        with pytest.raises(LimitError):
            limited(store, size=size_of(store)).merge_tree(tree_of("a", "b", "c"))
        assert [message.content for tree in owner_store.trees() for message in tree.messages] == ["a", "b"]

    def test_a_deleted_conversation_stays_deleted_where_its_rest_does_not_fit(self, store: Store) -> None:
        owner_store = limited(store)
        owner_store.merge_tree(tree_of("a", "b"))
        id = owner_store.conversations()[0].id
        owner_store.delete(id)
        with pytest.raises(LimitError):
            limited(store, size=size_of(store)).merge_tree(tree_of("a", "b", "c"))
        assert owner_store.restore(id).id == id

    def test_all_or_none_at_once(self, store: Store) -> None:
        with pytest.raises(LimitError):
            limited(store, conversations=1).add_trees([tree_of("a", title="1"), tree_of("b", title="2")])
        assert rows(store) == 0


class TestPersonas:
    def test_one_more_than_the_limit_is_refused(self, store: Store) -> None:
        owner_store = limited(store, personas=1)
        own = owner_store.save_persona(Persona("One"))
        with pytest.raises(LimitError, match=r"is 1, and you have 1, .*--max-personas"):
            owner_store.save_persona(Persona("Two"))
        assert owner_store.save_persona(Persona("Other"), own.id).persona.name == "Other"
        assert len(owner_store.personas()) == 1
        owner_store.delete_persona(own.id)
        owner_store.save_persona(Persona("Two"))

    def test_their_bytes_count_and_a_smaller_one_may_always_take_a_larger_ones_place(self, store: Store) -> None:
        large, small = Persona("Large", system_prompt="x" * 50_000), Persona("Small")
        own = limited(store).save_persona(large)
        full = limited(store, size=persona_size(large))
        with pytest.raises(LimitError):
            full.save_persona(small)
        with pytest.raises(LimitError):
            full.save_persona(replace(large, system_prompt="x" * 50_001), own.id)
        with pytest.raises(LimitError):
            full.start_turn(ask("hello"))
        full.save_persona(small, own.id)
        full.start_turn(ask("hello"))

    def test_a_conversation_counts_with_the_persona_it_began_with(self, store: Store) -> None:
        turn = replace(ask("hello"), persona=Persona("Large", system_prompt="x" * 50_000))
        with pytest.raises(LimitError):
            limited(store, size=50_000).start_turn(turn)

    def test_a_card_counts_once_and_a_smaller_one_may_take_its_place(self, store: Store) -> None:
        large = Persona("Large", card={"data": {"name": "x" * 50_000}})
        full = limited(store, size=70_000)
        own = full.save_persona(large)
        for _ in range(3):
            full.start_turn(replace(ask("hello"), persona=large))
        with pytest.raises(LimitError):
            full.start_turn(replace(ask("hello"), persona=replace(large, card={"data": {"name": "y" * 50_000}})))
        with pytest.raises(LimitError):
            full.save_persona(replace(large, avatar="data:image/png;base64,AAAA"), own.id)
        assert full.persona(own.id) == large
        other = Persona("Other", card={"data": {"name": "z" * 60_000}})
        alone = store.for_owner("login:bob")
        full = OwnerStore(store.database, "login:bob", Quotas(size=70_000))
        own = alone.save_persona(other)
        full.save_persona(replace(other, card={"data": {"name": "z" * 59_000}}), own.id)
        full.save_persona(replace(other, card=None), own.id)
        with pytest.raises(LimitError):
            full.save_persona(replace(other, card={"data": {"name": "z" * 70_000}}), own.id)


def test_no_limit_is_no_question(store: Store) -> None:
    statements: list[str] = []

    def listen(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    event.listen(store.database.engine, "before_cursor_execute", listen)
    limited(store).start_turn(ask("hello"))
    assert not any("sum(" in statement.lower() for statement in statements)


def test_the_sums_are_read_from_indexes_alone(tmp_path: Path) -> None:
    store = Store.open(AppSettings(data_dir=tmp_path))
    with store.database.reading() as connection:
        running = "SELECT count(*) FROM messages WHERE owner = ? AND state = 'running'"
        (step,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {running}", ("a",)).all()
    assert "messages_running_of" in step[-1]
    for table in ("conversations", "personas", "cards", "votes"):
        with store.database.reading() as connection:
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN SELECT count(*), sum(size) FROM {table} WHERE owner = ?",
                ("a",),
            ).all()
        assert all(f"COVERING INDEX {table}_sizes" in row[-1] for row in plan)
    store.close()


def test_the_settings_name_the_limits() -> None:
    settings = AppSettings(
        max_conversations=7, max_personas=0, max_storage=3, max_replies=5, max_total_storage=9, min_free_disk=8
    )
    assert Quotas.from_settings(settings) == Quotas(7, 0, 3_000_000, 5, space=SpaceLimits(8_000_000, 9_000_000))


def test_an_older_database_gets_its_sizes(settings: AppSettings) -> None:
    database = Database(database_url(settings))
    made_at(database, "0003")
    with database.maintaining() as connection:
        for statement in OLD:
            connection.execute(text(statement))
        connection.execute(insert(inspections).values(owner="a", message="r", data=b"1234567"))
        connection.execute(text("""INSERT INTO personas (id, owner, persona) VALUES ('p', 'a', '{"name": "Pö"}')"""))
    store = Store.open(settings)
    with store.database.reading() as connection:
        kept = tuple(
            connection.scalar(select(table.c.size).where(table.c.owner == "a")) for table in (conversations, personas)
        )
    texts = '{"name": "P"}' + "Chat" + "findable" + "So it" + "1234567"
    assert kept == (3 * ROW_BYTES + len(texts), ROW_BYTES + len('{"name": "Pö"}') + 1)
    store.close()
    database.close()


def test_what_is_inserted_into_a_conversation_counts() -> None:
    plain = Author("m", "r", "Be brief.", GenerationSettings(), seed=7)
    inserted = replace(plain, insertions=(Insertion(0, "ü" * 10), Insertion(2, "x" * 5)))
    assert author_size(inserted) == author_size(plain) + 25
