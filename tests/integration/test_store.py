import itertools
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.orm import Session, registry

from chatui.errors import NotFoundError, StoreError
from chatui.personas import PRESETS
from chatui.settings import AppSettings
from chatui.store import reply_updates
from chatui.store.database import ALL_OWNERS
from chatui.store.records import ReplyUpdate, StoredMessage, Tree, UpdateResult
from chatui.store.rows import first_words, new_id, now
from chatui.store.store import Store
from chatui.store.tables import conversations, messages, metadata, personas
from tests.databases import FINISH, OwnerMissingError, Server, ask, check_owner
from tests.examples import some_of

pytest_plugins = ("tests.databases",)
OWNERS = ("login:ada", "guest:b")
SILENT = timedelta(seconds=-60)
"""Later than every sign of life: what happens to a server's replies once it is gone."""


class TestWrite:
    def test_a_reply_grows_until_it_ends_and_then_never_changes(self, store: Store) -> None:
        owner_store = store.for_owner("a")
        reply = owner_store.start_turn(ask("1")).reply
        for content in ("So", "So it", "So it is"):
            store.update_replies([ReplyUpdate("a", reply.id, content, "Hm")])
            assert owner_store.message(reply.id) == replace(reply, content=content, reasoning="Hm")
        store.update_replies([ReplyUpdate("a", reply.id, "So it is.", "Hm", "stopped", FINISH, "why")])
        ended = owner_store.message(reply.id)
        assert ended == replace(reply, content="So it is.", reasoning="Hm", state="stopped", finish=FINISH, error="why")
        for state in ("running", "finished", "failed"):
            store.update_replies([ReplyUpdate("a", reply.id, "else", state=state)])
        assert store.interrupt_stale(SILENT) == 0
        assert owner_store.message(reply.id) == ended

    def test_many_owners_at_once(self, store: Store) -> None:
        replies = {owner: store.for_owner(owner).start_turn(ask("1")).reply for owner in OWNERS}
        store.update_replies([ReplyUpdate(owner, reply.id, f"for {owner}") for owner, reply in replies.items()])
        store.update_replies([])
        for owner, reply in replies.items():
            assert store.for_owner(owner).message(reply.id).content == f"for {owner}"

    def test_one_that_is_not_there_is_nothing(self, store: Store) -> None:
        store.update_replies([ReplyUpdate("a", "missing", "x", state="finished")])
        assert store.for_owner("a").conversations() == []

    def test_only_who_has_the_lease_writes(self, store: Store) -> None:
        reply = store.for_owner("a").start_turn(ask("1"), "lease").reply
        for lease in (None, "", "another"):
            (result,) = store.update_replies([ReplyUpdate("a", reply.id, "else", state="finished", lease=lease)])
            assert result.lease_lost
        assert store.update_replies([ReplyUpdate("a", reply.id, "mine", lease="lease")]) == [UpdateResult()]
        assert store.for_owner("a").message(reply.id) == replace(reply, content="mine")

    def test_who_lost_the_lease_is_told_and_what_is_left(self, store: Store) -> None:
        reply = store.for_owner("a").start_turn(ask("1"), "lease").reply
        store.update_replies([ReplyUpdate("a", reply.id, "So", lease="lease")])
        store.interrupt_stale(SILENT)
        (result,) = store.update_replies([ReplyUpdate("a", reply.id, "So it is", state="finished", lease="lease")])
        assert result.lease_lost
        assert result.stored is not None
        assert (result.stored.content, result.stored.state) == ("So", "interrupted")
        assert store.for_owner("a").message(reply.id).content == "So"
        store.for_owner("a").delete(reply.conversation)
        store.purge(timedelta(0))
        assert store.update_replies([ReplyUpdate("a", reply.id, "more", lease="lease")]) == [
            UpdateResult(lease_lost=True)
        ]

    def test_an_end_that_was_written_without_our_knowing_is_no_loss(self, store: Store) -> None:
        reply = store.for_owner("a").start_turn(ask("1"), "lease").reply
        end = ReplyUpdate("a", reply.id, "all", state="finished", finish=FINISH, inspection=b"x", lease="lease")
        assert store.update_replies([end]) == [UpdateResult()] == store.update_replies([end])
        assert store.for_owner("a").message(reply.id).content == "all"

    def test_a_stop_is_seen_by_who_writes(self, store: Store) -> None:
        owner_store = store.for_owner("a")
        one, other = (owner_store.start_turn(ask("1"), "lease").reply for _ in range(2))
        store.for_owner("b").request_stop(one.conversation)
        owner_store.request_stop(one.conversation)
        assert owner_store.running_replies(one.conversation) == [one.id]
        assert store.for_owner("b").running_replies(one.conversation) == []
        running = [ReplyUpdate("a", reply.id, "x", lease="lease") for reply in (one, other)]
        assert [result.stop_requested for result in store.update_replies(running)] == [True, False]
        store.update_replies([replace(running[0], state="stopped")])
        assert owner_store.running_replies(one.conversation) == []

    def test_deleting_stops_what_is_written_there(self, store: Store) -> None:
        reply = store.for_owner("a").start_turn(ask("1"), "lease").reply
        store.for_owner("a").delete(reply.conversation)
        assert store.update_replies([ReplyUpdate("a", reply.id, "x", lease="lease")]) == [
            UpdateResult(stop_requested=True)
        ]

    @pytest.mark.parametrize("error", [StoreError("Bad.", "Mend it."), ValueError("inside"), OverflowError("inside")])
    def test_a_bad_row_alone_fails(self, store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        real = reply_updates._write_one

        def write_one(connection: Any, one: ReplyUpdate, moment: Any) -> UpdateResult:
            if one.content == "bad":
                raise error
            return real(connection, one, moment)

        monkeypatch.setattr(reply_updates, "_write_one", write_one)
        replies = {owner: store.for_owner(owner).start_turn(ask("1")).reply for owner in "abc"}
        contents = {"a": "fine", "b": "bad", "c": "well"}
        results = store.update_replies(
            [ReplyUpdate(owner, reply.id, contents[owner]) for owner, reply in replies.items()]
        )
        assert [one.error is None for one in results] == [True, False, True]
        assert "inside" not in str(results[1].error)
        assert [store.for_owner(owner).message(reply.id).content for owner, reply in replies.items()] == [
            "fine",
            "",
            "well",
        ]

    def test_threads_at_once_lose_nothing(self, store: Store) -> None:
        owner_store = store.for_owner("a")
        failed: list[BaseException] = []

        def chat() -> None:
            try:
                started = owner_store.start_turn(ask("first"))
                for number in range(5):
                    store.update_replies([ReplyUpdate("a", started.reply.id, f"reply {number}", state="finished")])
                    started = owner_store.start_turn(
                        ask(f"question {number}", started.conversation.id, started.reply.id)
                    )
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=chat) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert [len(tree.messages) for tree in owner_store.trees()] == [12] * 6


class TestHousekeeping:
    def test_only_the_silent_are_interrupted(self, store: Store) -> None:
        owner_store = store.for_owner("a")
        reply = owner_store.start_turn(ask("1", prefix="So")).reply
        assert store.interrupt_stale(timedelta(minutes=1)) == 0
        assert store.interrupt_stale(SILENT) == 1
        assert store.interrupt_stale(SILENT) == 0
        assert owner_store.message(reply.id) == replace(reply, state="interrupted")

    @pytest.mark.parametrize("ahead", [-60, -6, 6, 60])
    def test_a_clock_of_a_server_that_is_wrong_changes_nothing(
        self, postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
    ) -> None:
        store = Store.open(AppSettings(data_dir=tmp_path, database_url=postgresql.fresh()))
        owner_store = store.for_owner("a")
        first = owner_store.start_turn(ask("1"))
        right = now
        monkeypatch.setattr("chatui.store.rows.now", lambda: right() + timedelta(seconds=ahead))
        assert store.interrupt_stale(timedelta(seconds=5)) == 0
        owner_store.start_turn(ask("2"))
        monkeypatch.undo()
        assert store.stale_replies(timedelta(seconds=5)) == {}
        last = owner_store.start_turn(ask("3"))
        assert [one.title for one in owner_store.conversations()] == ["3", "2", "1"]
        assert first.reply.created < last.reply.created < right() + timedelta(seconds=5)
        store.close()

    def test_who_was_heard_since_is_not_interrupted(self, store: Store) -> None:
        replies = [store.for_owner(owner).start_turn(ask("1")).reply for owner in OWNERS]
        silent = store.stale_replies(SILENT)
        assert set(silent) == {(owner, reply.id) for owner, reply in zip(OWNERS, replies, strict=True)}
        store.update_replies([ReplyUpdate(OWNERS[0], replies[0].id, "x")])
        assert store.interrupt_stale(SILENT, silent) == 1
        assert store.for_owner(OWNERS[0]).message(replies[0].id).state == "running"
        assert store.for_owner(OWNERS[1]).message(replies[1].id).state == "interrupted"

    def test_an_interrupted_reply_is_found(self, store: Store) -> None:
        store.for_owner("a").start_turn(ask("1", prefix="unmistakable"))
        store.interrupt_stale(SILENT)
        assert len(store.for_owner("a").search("unmistakable")) == 1

    def test_purge_removes_the_deleted_and_only_them(self, store: Store) -> None:
        owner_store = store.for_owner("a")
        ids = [owner_store.start_turn(ask(f"{number} findable")).conversation.id for number in range(4)]
        for id in ids[:2]:
            owner_store.delete(id)
        before = list(owner_store.trees())
        assert store.purge(timedelta(hours=1)) == 0
        owner_store.restore(ids[1])
        owner_store.delete(ids[1])
        assert store.purge(timedelta(0)) == 2
        assert list(owner_store.trees()) == before
        assert {hit.conversation.id for hit in owner_store.search("findable")} == set(ids[2:])
        for id in ids[:2]:
            with pytest.raises(NotFoundError):
                owner_store.restore(id)
        assert counts(store) == (2, 4)
        assert indexed(store, "findable") == (2, 2)

    def test_purge_of_many(self, store: Store) -> None:
        owner_store = store.for_owner("a")
        (tree,) = owner_store.trees([owner_store.start_turn(ask("1")).conversation.id])
        copies = (replace(tree, conversation=replace(tree.conversation, id=str(number))) for number in range(61))
        for added in owner_store.add_trees(copies):
            owner_store.delete(added.id)
        assert store.purge(timedelta(0)) == 61  # three whole batches, and the rest
        assert counts(store) == (1, 2)

    def test_forget_removes_what_nobody_touched(self, store: Store) -> None:
        started = store.for_owner("a").start_turn(ask("1"))
        assert store.purge_temporary(timedelta(hours=1)) == []
        assert store.purge_temporary(timedelta(0)) == [started.conversation.id]
        assert counts(store) == (0, 0)

    def test_the_secret_is_the_databases_own(self, make_store: Callable[[], Store]) -> None:
        one, two = make_store(), make_store()
        assert len(one.cookie_secret()) == 32
        assert one.cookie_secret() == one.cookie_secret() != two.cookie_secret()


def counts(store: Store) -> tuple[int, int]:
    with store.database.maintaining() as connection:
        tables = (conversations, messages)
        chats, message_count = (
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables
        )
    return chats, message_count


def indexed(store: Store, word: str) -> tuple[int, int]:
    """How many titles and messages the index of words has with this word, whoever's they are."""
    sql = "SELECT count(*) FROM {0} WHERE words @@ to_tsquery('simple', :word)"
    names = ["conversations", "messages"]
    if store.database.sqlite:
        sql, names = "SELECT count(*) FROM {0} WHERE {0} MATCH :word", ["title_words", "message_words"]
    with store.database.maintaining() as connection:
        return tuple(connection.scalar(text(sql.format(name)), {"word": word}) for name in names)


class TestOtherVersions:
    """JSON that another version of chatui has written."""

    def rewrite(self, store: Store, table: Any, column: str, change: Callable[[dict[str, Any]], object]) -> None:
        with store.database.maintaining() as connection:
            sql = f"SELECT {column} FROM {table.name} WHERE {column} IS NOT NULL"
            value = json.loads(connection.execute(text(sql)).scalar_one())
            change(value)
            connection.execute(text(f"UPDATE {table.name} SET {column} = :new"), {"new": json.dumps(value)})

    def test_fields_that_we_do_not_know_are_passed_over(self, store: Store) -> None:
        started = store.for_owner("a").start_turn(ask("1"))
        store.update_replies([ReplyUpdate("a", started.reply.id, "x", state="finished", finish=FINISH)])
        self.rewrite(store, conversations, "persona", lambda persona: persona.update(voice="deep"))
        self.rewrite(store, messages, "finish", lambda finish: finish.update(energy=1, cached_tokens="many"))
        self.rewrite(
            store, messages, "author", lambda author: author["settings"].update(xtc=1, temperature=9.0, stop=[1])
        )
        assert store.for_owner("a").initial_persona(started.conversation.id) == PRESETS[0]
        reply = store.for_owner("a").message(started.reply.id)
        assert (reply.author, reply.finish) == (started.reply.author, FINISH)

    def test_fields_that_are_missing_are_their_defaults_or_nothing(self, store: Store) -> None:
        started = store.for_owner("a").start_turn(ask("1", prefix="So"))
        store.update_replies([ReplyUpdate("a", started.reply.id, "x", state="finished", finish=FINISH)])
        self.rewrite(store, conversations, "persona", lambda persona: persona.pop("examples"))
        self.rewrite(store, messages, "author", lambda author: author.pop("prefix"))
        self.rewrite(store, messages, "finish", lambda finish: finish.pop("seed"))
        assert store.for_owner("a").initial_persona(started.conversation.id) == replace(PRESETS[0], examples=())
        reply = store.for_owner("a").message(started.reply.id)
        assert started.reply.author is not None
        assert (reply.author, reply.finish) == (replace(started.reply.author, prefix=""), None)


class TestGuard:
    """The guard that all tests run under notices what it is there for."""

    @pytest.mark.parametrize(
        "statement",
        [
            select(messages),
            select(func.count()).select_from(conversations),
            select(personas.c.persona).where(personas.c.id == "x"),
            select(messages.c.id).where(messages.c.owner == conversations.c.owner, conversations.c.id == "x"),
            select(messages).join(conversations, conversations.c.id == messages.c.conversation),
            select(messages)
            .join(conversations, conversations.c.id == messages.c.conversation)
            .where(conversations.c.owner == "a"),
            select(messages).where(messages.c.seq > select(func.max(messages.c.seq)).scalar_subquery()),
            select(messages.alias("m")).where(text("m.id = 'owner = ?'")),
            select(messages).where(messages.c.owner == "a").union_all(select(messages)),
            update(messages).values(state="stopped"),
            update(messages).where(messages.c.id == "x").values(owner="b"),
            delete(conversations),
            delete(personas).where(personas.c.id == "x"),
            text("SELECT * FROM messages WHERE id = 'x'"),
            text("UPDATE conversations SET owner = :owner WHERE id = 'x'").bindparams(owner="a"),
            text("DELETE FROM personas"),
            text("INSERT INTO personas (id, persona) VALUES ('x', '{}')"),
        ],
        ids=str,
    )
    def test_a_statement_without_the_owner_fails(self, store: Store, statement: Any) -> None:
        with pytest.raises(OwnerMissingError), store.database.writing() as connection:
            connection.execute(statement)

    def test_many_at_once_fail(self, store: Store) -> None:
        with pytest.raises(OwnerMissingError), store.database.writing() as connection:
            connection.execute(update(messages).values(state="stopped"), [{}, {}])
        with pytest.raises(OwnerMissingError), store.database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM messages")

    def test_objects_fail(self, store: Store) -> None:
        class Kept:
            seq: int

        registry(metadata=metadata).map_imperatively(Kept, personas)
        with Session(store.database.engine) as session, pytest.raises(OwnerMissingError):
            session.scalars(select(Kept)).all()

    def test_the_index_of_words_needs_an_owner(self) -> None:
        with pytest.raises(OwnerMissingError):
            check_owner("SELECT rowid FROM message_words WHERE message_words MATCH ?")

    @pytest.mark.parametrize("table", [conversations, messages, personas], ids=str)
    def test_with_the_owner_or_for_all_owners_they_pass(self, store: Store, table: Any) -> None:
        with store.database.writing() as connection:
            connection.execute(select(table).where(table.c.owner == "a"))
            connection.execute(select(table.alias("x")).where(text("x.owner = :o")), {"o": "a"})
            connection.execute(delete(table).where(table.c.owner == "a", table.c.id == "x"))
            connection.execute(insert(personas).values(id=new_id(), owner="a", persona=PRESETS[0]))
            connection.execute(select(table), execution_options={ALL_OWNERS: True})


class Machine(RuleBasedStateMachine):
    """Two owners do whatever they like; a dictionary for each knows what must be there."""

    made = Bundle("messages")
    make: Callable[[], Store]

    def __init__(self) -> None:
        super().__init__()
        self.store = self.make()
        self.trees: dict[str, dict[str, dict[str, StoredMessage]]] = {owner: {} for owner in OWNERS}
        self.titles: dict[str, str] = {}
        self.leaves: dict[str, str] = {}
        self.deleted: set[str] = set()
        self.numbers = itertools.count()

    def teardown(self) -> None:
        self.store.close()

    def learn(self, owner: str, id: str, path: Sequence[StoredMessage]) -> None:
        tree = self.trees[owner].setdefault(id, {})
        for message in path:
            tree.setdefault(message.id, message)
        self.leaves[id] = path[-1].id

    def gone(self, message: tuple[str, str, str]) -> bool:
        owner, id, _ = message
        return id in self.deleted or id not in self.trees[owner]

    @rule(target=made, owner=st.sampled_from(OWNERS), question=st.text(max_size=80).map(lambda t: t.replace("\0", "")))
    def begin(self, owner: str, question: str) -> Any:
        started = self.store.for_owner(owner).start_turn(ask(question, prefix="So"))
        id = started.conversation.id
        self.learn(owner, id, started.path)
        self.titles[id] = first_words(question)
        return multiple(*((owner, id, message.id) for message in started.path))

    @rule(target=made, message=made, again=st.booleans())
    def go_on(self, message: tuple[str, str, str], again: bool) -> Any:
        owner, id, parent = message
        turn = ask(None if again else f"more {next(self.numbers)}", id, parent)
        role = self.trees[owner].get(id, {}).get(parent, StoredMessage("", "", None, "user", "", now())).role
        if self.gone(message) or (again and role != "user"):
            with pytest.raises(NotFoundError):
                self.store.for_owner(owner).start_turn(turn)
            return multiple()
        started = self.store.for_owner(owner).start_turn(turn)
        self.learn(owner, id, started.path)
        return owner, id, started.reply.id

    @rule(
        message=made, content=st.text(max_size=20), state=st.sampled_from(["running", "finished", "stopped", "failed"])
    )
    def write(self, message: tuple[str, str, str], content: str, state: Any) -> None:
        owner, id, reply = message
        content = content.replace("\0", "")
        self.store.update_replies([ReplyUpdate(owner, reply, content, state=state)])
        self.store.update_replies([ReplyUpdate(OWNERS[owner == OWNERS[0]], reply, "another's", state=state)])
        known = self.trees[owner].get(id, {}).get(reply)
        if known is not None and known.state == "running":
            self.trees[owner][id][reply] = replace(known, content=content, state=state)

    @rule()
    def crash(self) -> None:
        running = 0
        for tree in (tree for trees in self.trees.values() for tree in trees.values()):
            for message in list(tree.values()):
                if message.state == "running":
                    running += 1
                    tree[message.id] = replace(message, state="interrupted")
        assert self.store.interrupt_stale(SILENT) == running

    @rule(message=made)
    def select(self, message: tuple[str, str, str]) -> None:
        owner, id, version = message
        if not self.gone(message):
            leaf = self.store.for_owner(owner).select(version).leaf
            assert leaf is not None
            self.leaves[id] = leaf
            order = list(self.trees[owner][id])
            below = [one for one in order if version in self.ancestors(owner, id, one)]
            assert leaf == below[-1]

    def ancestors(self, owner: str, id: str, message: str | None) -> list[str]:
        found = []
        while message is not None:
            found.append(message)
            message = self.trees[owner][id][message].parent
        return found

    @rule(target=made, message=made)
    def branch(self, message: tuple[str, str, str]) -> Any:
        owner, id, end = message
        path = self.ancestors(owner, id, end) if not self.gone(message) else []
        if not path or any(self.trees[owner][id][one].state == "running" for one in path):
            return multiple()
        branched = self.store.for_owner(owner).branch(end)
        copied = self.store.for_owner(owner).path(branched.id)
        originals = [self.trees[owner][id][one].content for one in reversed(path)]
        assert [one.content for one in copied] == originals
        self.learn(owner, branched.id, copied)
        self.titles[branched.id] = self.titles[id]
        return multiple(*((owner, branched.id, one.id) for one in copied))

    @rule(message=made, title=st.sampled_from(["", "A name", " b "]))
    def rename(self, message: tuple[str, str, str], title: str) -> None:
        owner, id, _ = message
        if not self.gone(message):
            self.store.for_owner(owner).rename(id, title)
            asked = next(one.content for one in self.trees[owner][id].values() if one.role == "user")
            self.titles[id] = title.strip() or first_words(asked)

    @rule(message=made)
    def delete(self, message: tuple[str, str, str]) -> None:
        owner, id, _ = message
        if not self.gone(message):
            self.store.for_owner(owner).delete(id)
            self.deleted.add(id)

    @rule(message=made)
    def restore(self, message: tuple[str, str, str]) -> None:
        owner, id, _ = message
        if id in self.trees[owner]:
            self.store.for_owner(owner).restore(id)
            self.deleted.discard(id)

    @rule()
    def purge(self) -> None:
        assert self.store.purge(timedelta(0)) == len(self.deleted)
        for trees in self.trees.values():
            for id in self.deleted & trees.keys():
                del trees[id]
        self.deleted.clear()

    @rule(message=made)
    def rate(self, message: tuple[str, str, str]) -> None:
        owner, id, reply = message
        if not self.gone(message) and self.trees[owner][id][reply].role == "assistant":
            self.store.for_owner(owner).rate(reply, "like", "n")
            self.trees[owner][id][reply] = replace(self.trees[owner][id][reply], rating="like", note="n")

    @invariant()
    def the_store_has_what_it_should(self) -> None:
        for owner, known in self.trees.items():
            expected = {id: tree for id, tree in known.items() if id not in self.deleted}
            kept: dict[str, Tree] = {tree.conversation.id: tree for tree in self.store.for_owner(owner).trees()}
            assert kept.keys() == expected.keys()
            assert {one.id for one in self.store.for_owner(owner).conversations(1000)} == expected.keys()
            for id, tree in expected.items():
                assert kept[id].conversation.title == self.titles[id]
                assert kept[id].conversation.leaf == self.leaves[id]
                assert self.leaves[id] in tree
                assert [anonymous(one) for one in kept[id].messages] == [anonymous(one) for one in tree.values()]
                for one in kept[id].messages:
                    alike = [m.id for m in tree.values() if (m.parent, m.role) == (one.parent, one.role)]
                    assert one.versions == tuple(alike)


def anonymous(message: StoredMessage) -> StoredMessage:
    """Without what is checked apart from it."""
    return replace(message, versions=())


@pytest.mark.parametrize("make_store", ["sqlite", "memory", "postgresql"], indirect=True)
def test_nothing_is_ever_overwritten_or_lost(make_store: Callable[[], Store]) -> None:
    kind = type("MachineOnThisDatabase", (Machine,), {"make": staticmethod(make_store)})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=some_of(12),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
