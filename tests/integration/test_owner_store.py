import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from chatui.chat import Finish, Role
from chatui.errors import ChatError, NotFoundError, TransferError
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS, Persona
from chatui.store.exporting import as_json
from chatui.store.owner_store import OwnerStore
from chatui.store.records import (
    Author,
    Conversation,
    NewTurn,
    OwnPersona,
    ReplyUpdate,
    StartedTurn,
    StoredMessage,
    Tree,
)
from chatui.store.rows import first_words
from chatui.store.store import Store
from tests.databases import FINISH, ask

pytest_plugins = ("tests.databases",)
OWNER = "login:ada"
HOSTILE = "'; DROP TABLE messages; -- \" % _ \\ %s :owner ? 🎉 日本 \u202e \r\n\ttab"


@pytest.fixture
def owner_store(store: Store) -> OwnerStore:
    return store.for_owner(OWNER)


def end(store: Store, started: StartedTurn, content: str = "An answer.", owner: str = OWNER) -> StoredMessage:
    store.update_replies([ReplyUpdate(owner, started.reply.id, content, "Hm.", "finished", FINISH)])
    return store.for_owner(owner).message(started.reply.id)


class TestBegin:
    def test_a_character_begins_and_its_other_greetings_are_versions_of_the_first(
        self, owner_store: OwnerStore
    ) -> None:
        turn = dataclasses.replace(ask("Who are you?"), greetings=("Welcome!", "Ahoy!"))
        started = owner_store.start_turn(turn)
        assert [(one.role, one.content) for one in started.path] == [
            ("assistant", "Welcome!"),
            ("user", "Who are you?"),
            ("assistant", ""),
        ]
        first, second = started.path[0].versions
        assert owner_store.select(second).leaf == second
        again = owner_store.start_turn(dataclasses.replace(turn, conversation=started.conversation.id, parent=second))
        assert [one.content for one in again.path] == ["Ahoy!", "Who are you?", ""]
        assert owner_store.path(started.conversation.id, started.reply.id)[0].id == first

    def test_a_character_begins_with_the_greeting_that_was_chosen(self, owner_store: OwnerStore) -> None:
        turn = dataclasses.replace(
            ask("Who are you?"), greetings=("Welcome!", "Ahoy!"), greeting=1, new_conversation_id="mine"
        )
        started = owner_store.start_turn(turn)
        assert started.conversation.id == "mine"
        assert [one.content for one in started.path] == ["Ahoy!", "Who are you?", ""]
        assert started.path[0].versions.index(started.path[0].id) == 1

    def test_a_new_conversation_has_a_question_and_a_running_reply(self, store: Store, owner_store: OwnerStore) -> None:
        started = owner_store.start_turn(ask("What is\n a haiku?", prefix="A haiku"))
        question, reply = started.path
        assert (question.role, question.content, question.state) == ("user", "What is\n a haiku?", "finished")
        assert (reply.role, reply.content, reply.state, reply.parent) == (
            "assistant",
            "A haiku",
            "running",
            question.id,
        )
        assert started.conversation.title == "What is a haiku?"
        assert started.conversation.leaf == reply.id == started.reply.id
        assert owner_store.initial_persona(started.conversation.id) == PRESETS[0]
        assert owner_store.path(started.conversation.id) == started.path
        assert owner_store.conversation(started.conversation.id) == started.conversation

    def test_every_field_comes_back(self, store: Store, owner_store: OwnerStore) -> None:
        settings = GenerationSettings(temperature=1.25, seed=2**32 - 1, stop=("a", "\n"), top_k=3)
        author = Author("m", "abc", "system\0" + HOSTILE, settings, 99, "prefix", "thought")
        card = {"name": "Ünï", "deep": [{"a": None}, 1.5]}
        persona = Persona("P", "🦜", "be", "hi", ("x", "y"), settings, "data:image/png;base64,AAAA", card)
        started = owner_store.start_turn(NewTurn(None, None, HOSTILE, author, persona))
        assert started.path[0].content == HOSTILE
        assert started.reply.author == author
        assert owner_store.initial_persona(started.conversation.id) == persona
        store.update_replies([ReplyUpdate(OWNER, started.reply.id, HOSTILE, HOSTILE, "failed", FINISH, HOSTILE)])
        reply = owner_store.message(started.reply.id)
        assert (reply.content, reply.reasoning, reply.state, reply.finish) == (HOSTILE, HOSTILE, "failed", FINISH)
        assert reply.error == HOSTILE

    @pytest.mark.parametrize("text", ["a\0b", "half \ud800 pair"])
    def test_what_no_database_can_keep_is_replaced(self, owner_store: OwnerStore, text: str) -> None:
        started = owner_store.start_turn(ask(text))
        assert "\ufffd" in started.path[0].content
        assert started.path[0] == owner_store.message(started.path[0].id)

    def test_another_version_of_a_reply(self, store: Store, owner_store: OwnerStore) -> None:
        first = owner_store.start_turn(ask("Why?"))
        end(store, first)
        second = owner_store.start_turn(ask(None, first.conversation.id, first.path[0].id))
        assert second.path[0] == first.path[0]
        assert second.reply.versions == (first.reply.id, second.reply.id)
        assert owner_store.message(first.reply.id).versions == second.reply.versions
        assert owner_store.conversation(first.conversation.id).leaf == second.reply.id

    def test_an_edited_first_question_begins_a_new_root(self, store: Store, owner_store: OwnerStore) -> None:
        first = owner_store.start_turn(ask("Wy?"))
        edited = owner_store.start_turn(ask("Why?", first.conversation.id))
        assert edited.path[0].versions == (first.path[0].id, edited.path[0].id)
        assert len(edited.path) == 2
        assert edited.conversation.title == "Wy?"

    def test_what_it_refers_to_must_be_there(self, store: Store, owner_store: OwnerStore) -> None:
        mine, second, other = (
            owner_store.start_turn(ask("a")),
            owner_store.start_turn(ask("b")),
            store.for_owner("login:bob").start_turn(ask("c")),
        )
        before = list(owner_store.trees())
        for turn in (
            ask("x", "missing"),
            ask("x", other.conversation.id),
            ask("x", mine.conversation.id, "missing"),
            ask("x", mine.conversation.id, other.reply.id),
            ask("x", mine.conversation.id, second.reply.id),
            ask("x", None, mine.reply.id),
            ask(None, mine.conversation.id, mine.reply.id),
            ask(None, mine.conversation.id, None),
            ask(None),
        ):
            with pytest.raises(NotFoundError):
                owner_store.start_turn(turn)
        assert list(owner_store.trees()) == before


class TestTitle:
    @given(st.text(max_size=300))
    def test_first_words_are_one_short_line(self, text: str) -> None:
        title = first_words(text)
        assert 1 <= len(title) <= 60
        assert title == " ".join(title.split())
        line = " ".join(text.split())
        if 0 < len(line) <= 60:
            assert title == line.replace("\0", "\ufffd")
        if len(line) > 60:
            assert title.endswith("…")

    def test_it_is_cut_at_a_word(self) -> None:
        assert (
            first_words("word " * 30) == "word " * 10 + "word word…"[:9] + "…"
            or first_words("word " * 30)[-5:] == "word…"
        )
        assert first_words("x" * 100) == "x" * 59 + "…"

    def test_rename_and_back(self, owner_store: OwnerStore) -> None:
        started = owner_store.start_turn(ask("The first words"))
        id = started.conversation.id
        owner_store.rename(id, "  My\n own " + "x" * 300)
        renamed = owner_store.conversation(id)
        assert renamed.title.startswith("My own xxx")
        assert len(renamed.title) == 200
        assert renamed.named
        assert renamed.updated == started.conversation.updated
        owner_store.rename(id, " \n ")
        assert owner_store.conversation(id) == started.conversation


class TestList:
    def test_pinned_first_then_the_newest_and_every_page(self, owner_store: OwnerStore) -> None:
        ids = [owner_store.start_turn(ask(str(number))).conversation.id for number in range(9)]
        for id in (ids[2], ids[5]):
            owner_store.pin(id, True)
        owner_store.archive(ids[7], True)
        owner_store.delete(ids[8])
        owner_store.start_turn(ask("more", ids[0]))
        expected = [ids[5], ids[2], ids[0], ids[6], ids[4], ids[3], ids[1]]
        assert [one.id for one in owner_store.conversations()] == expected
        for size in (1, 2, 3, 7):
            paged: list[str] = []
            for _ in range(len(expected) + 1):
                page = owner_store.conversations(size, paged[-1] if paged else None)
                assert len(page) == min(size, len(expected) - len(paged))
                paged += [one.id for one in page]
            assert paged == expected
        assert [one.id for one in owner_store.conversations(archived=True)] == [ids[7]]

    def test_pin_and_archive_leave_the_order_alone(self, owner_store: OwnerStore) -> None:
        started = owner_store.start_turn(ask("a"))
        owner_store.pin(started.conversation.id, True)
        owner_store.archive(started.conversation.id, True)
        changed = owner_store.conversation(started.conversation.id)
        assert changed == dataclasses.replace(started.conversation, pinned=True, archived=True)
        owner_store.pin(started.conversation.id, False)
        owner_store.archive(started.conversation.id, False)
        assert owner_store.conversation(started.conversation.id) == started.conversation

    def test_the_shown_one_must_be_ones_own(self, store: Store, owner_store: OwnerStore) -> None:
        other = store.for_owner("login:bob").start_turn(ask("c")).conversation.id
        for id in (other, "missing", "\0", "' OR 1=1"):
            with pytest.raises(NotFoundError):
                owner_store.conversations(after=id)


class TestVersions:
    def test_select_goes_on_to_the_newest_leaf_below(self, store: Store, owner_store: OwnerStore) -> None:
        first = owner_store.start_turn(ask("1"))
        id = first.conversation.id
        deeper = owner_store.start_turn(ask("2", id, first.reply.id))
        other = owner_store.start_turn(ask(None, id, first.path[0].id))
        newest = owner_store.start_turn(ask(None, id, deeper.path[2].id))
        owner_store.select(other.reply.id)
        assert owner_store.select(first.reply.id).leaf == newest.reply.id
        assert owner_store.path(id) == newest.path
        assert owner_store.select(deeper.reply.id).leaf == deeper.reply.id
        assert owner_store.select(other.reply.id).leaf == other.reply.id
        assert owner_store.path(id, deeper.reply.id)[-1].id == deeper.reply.id

    def test_path_to_a_leaf_elsewhere(self, store: Store, owner_store: OwnerStore) -> None:
        one, two = owner_store.start_turn(ask("1")), owner_store.start_turn(ask("2"))
        with pytest.raises(NotFoundError):
            owner_store.path(one.conversation.id, two.reply.id)

    def test_branch_copies_the_path_and_no_more(self, store: Store, owner_store: OwnerStore) -> None:
        first = owner_store.start_turn(ask("1"))
        id = first.conversation.id
        end(store, first)
        owner_store.rate(first.reply.id, "like", "good")
        owner_store.start_turn(ask(None, id, first.path[0].id))
        owner_store.rename(id, "Mine")
        owner_store.pin(id, True)
        branched = owner_store.branch(first.reply.id)
        assert (branched.title, branched.named, branched.pinned) == ("Mine", True, False)
        copied = owner_store.path(branched.id)
        assert [one.content for one in copied] == ["1", "An answer."]
        assert copied[1].rating == "like"
        assert copied[1].versions == (copied[1].id,)
        assert not {one.id for one in copied} & {first.path[0].id, first.reply.id}
        assert owner_store.path(id, first.reply.id)[1] == owner_store.message(first.reply.id)
        assert owner_store.conversations()[1].id == branched.id

    def test_a_running_reply_cannot_be_branched(self, owner_store: OwnerStore) -> None:
        started = owner_store.start_turn(ask("1"))
        with pytest.raises(ChatError, match="still being written"):
            owner_store.branch(started.reply.id)
        assert owner_store.branch(started.path[0].id).leaf


class TestDelete:
    def test_deleted_is_as_good_as_missing_until_restored(self, store: Store, owner_store: OwnerStore) -> None:
        started = owner_store.start_turn(ask("findme"))
        id = started.conversation.id
        owner_store.delete(id)
        for call in every_call(owner_store, id, started.reply.id, started.path[0].id):
            with pytest.raises(NotFoundError):
                call()
        assert owner_store.conversations() == []
        assert owner_store.search("findme") == []
        assert list(owner_store.trees()) == []
        assert owner_store.restore(id) == started.conversation
        assert owner_store.path(id) == started.path
        assert [hit.conversation.id for hit in owner_store.search("findme")] == [id]

    def test_a_reply_goes_on_while_its_conversation_is_deleted(self, store: Store, owner_store: OwnerStore) -> None:
        started = owner_store.start_turn(ask("1"))
        owner_store.delete(started.conversation.id)
        store.update_replies([ReplyUpdate(OWNER, started.reply.id, "whole", state="finished")])
        owner_store.restore(started.conversation.id)
        assert owner_store.message(started.reply.id).content == "whole"


def every_call(owner_store: OwnerStore, id: str, reply: str, question: str) -> list[Callable[[], object]]:
    """Every method that takes an id; all but restore(), which is for deleted ones."""
    return [
        lambda: owner_store.conversation(id),
        lambda: owner_store.path(id),
        lambda: owner_store.path(id, reply),
        lambda: owner_store.message(reply),
        lambda: owner_store.start_turn(ask("x", id)),
        lambda: owner_store.start_turn(ask("x", id, reply)),
        lambda: owner_store.start_turn(ask(None, id, question)),
        lambda: owner_store.select(reply),
        lambda: owner_store.rename(id, "x"),
        lambda: owner_store.rename(id, ""),
        lambda: owner_store.pin(id, True),
        lambda: owner_store.archive(id, True),
        lambda: owner_store.delete(id),
        lambda: owner_store.branch(question),
        lambda: owner_store.rate(reply, "like"),
        lambda: list(owner_store.trees([id])),
    ]


class TestOwners:
    def test_anothers_is_as_good_as_missing(self, store: Store, owner_store: OwnerStore) -> None:
        started = owner_store.start_turn(ask("private"))
        id, kept = started.conversation.id, owner_store.save_persona(PRESETS[0])
        before = list(owner_store.trees()), owner_store.personas()
        other = store.for_owner("login:adam")
        calls = every_call(other, id, started.reply.id, started.path[0].id)
        missing = every_call(other, "missing", "missing", "missing")
        calls += [
            lambda: other.restore(id),
            lambda: other.delete_persona(kept.id),
            lambda: other.save_persona(PRESETS[1], kept.id),
        ]
        missing += [
            lambda: other.restore("-"),
            lambda: other.delete_persona("-"),
            lambda: other.save_persona(PRESETS[1], "-"),
        ]
        for call, same in zip(calls, missing, strict=True):
            with pytest.raises(NotFoundError) as caught:
                call()
            with pytest.raises(NotFoundError) as expected:
                same()
            assert str(caught.value) == str(expected.value)
        store.update_replies([ReplyUpdate("login:adam", started.reply.id, "changed", state="finished")])
        assert (other.conversations(), other.personas(), other.search("private"), list(other.trees())) == ([],) * 4
        assert (list(owner_store.trees()), owner_store.personas()) == before

    @pytest.mark.parametrize("owner", ["", "a\0b", "a\ud800"])
    def test_an_owner_has_a_name(self, store: Store, owner: str) -> None:
        with pytest.raises(ValueError, match="owner"):
            store.for_owner(owner)

    @pytest.mark.parametrize("owner", ["login:ADA", "login:ada ", "login", "ada", "login:ad_", "login:%", "登录:ada"])
    def test_names_that_look_alike_are_others(self, store: Store, owner_store: OwnerStore, owner: str) -> None:
        owner_store.start_turn(ask("private thing"))
        store.for_owner(owner).start_turn(ask("ours"))
        assert [one.title for one in store.for_owner(owner).conversations()] == ["ours"]
        assert store.for_owner(owner).search("private") == []


class TestRating:
    def test_only_replies_and_short_notes(self, store: Store, owner_store: OwnerStore) -> None:
        started = owner_store.start_turn(ask("1"))
        reply = end(store, started)
        owner_store.rate(reply.id, "dislike", "wrong")
        assert owner_store.message(reply.id) == dataclasses.replace(reply, rating="dislike", note="wrong")
        owner_store.rate(reply.id, None)
        assert owner_store.message(reply.id) == reply
        with pytest.raises(ChatError, match="Only replies"):
            owner_store.rate(started.path[0].id, "like")
        with pytest.raises(ChatError, match="2,001"):
            owner_store.rate(reply.id, "like", "x" * 2001)


def tree_of(*messages: StoredMessage, leaf: str | None = None, title: str = "T", pinned: bool = False) -> Tree:
    moment = datetime(2020, 5, 17, 12, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    return Tree(Conversation("c", title, True, leaf, pinned, False, moment, moment, PRESETS[1]), messages)


def user_message(id: str, parent: str | None, **more: Any) -> StoredMessage:
    moment = datetime(2020, 5, 17, 12, 30, 0, 123456, tzinfo=UTC)
    return dataclasses.replace(StoredMessage(id, "c", parent, "user", id, moment), **more)


class TestTransfer:
    def test_what_is_exported_can_be_added_again(self, store: Store, owner_store: OwnerStore) -> None:
        first = owner_store.start_turn(ask("1"))
        end(store, first)
        owner_store.start_turn(ask(None, first.conversation.id, first.path[0].id))
        owner_store.rate(first.reply.id, "like", "n")
        owner_store.archive(owner_store.start_turn(ask("2")).conversation.id, True)
        store.interrupt_stale(timedelta(seconds=-60))
        trees = list(owner_store.trees())
        other = store.for_owner("login:bob")
        added = other.add_trees(trees)
        assert [anonymous(tree) for tree in other.trees()] == [anonymous(tree) for tree in trees]
        assert added == [other.conversation(tree.conversation.id) for tree in other.trees()]
        assert list(owner_store.trees()) == trees

    def test_times_are_kept_in_utc_and_running_replies_are_over(self, owner_store: OwnerStore) -> None:
        (added,) = owner_store.add_trees([tree_of(user_message("a", None, state="running"), leaf="a")])
        conversation = owner_store.conversation(added.id)
        assert conversation.created == datetime(2020, 5, 17, 7, 0, tzinfo=UTC)
        assert conversation.created.utcoffset() == timedelta(0)
        (message,) = owner_store.path(added.id)
        assert message.created == datetime(2020, 5, 17, 12, 30, 0, 123456, tzinfo=UTC)
        assert message.state == "interrupted"

    def test_no_title_becomes_the_first_words(self, owner_store: OwnerStore) -> None:
        (added,) = owner_store.add_trees([tree_of(user_message("hello you", None), title=" ")])
        assert (added.title, added.named) == ("hello you", False)

    def test_anything_wrong_changes_nothing(self, store: Store, owner_store: OwnerStore) -> None:
        good = tree_of(user_message("a", None))
        for bad in (
            tree_of(user_message("a", None), user_message("b", "missing")),
            tree_of(user_message("b", "a"), user_message("a", None)),
            tree_of(user_message("a", None), leaf="b"),
            tree_of(user_message("a", None), user_message("a", None)),
        ):
            with pytest.raises(TransferError):
                owner_store.add_trees([good, bad])
        with pytest.raises(ZeroDivisionError):
            owner_store.add_trees(good for _ in range(1 // len(owner_store.conversations())))
        assert owner_store.conversations() == []

    def test_only_these_in_this_order_lazily(self, store: Store, owner_store: OwnerStore) -> None:
        ids = [owner_store.start_turn(ask(str(number))).conversation.id for number in range(3)]
        assert [tree.conversation.id for tree in owner_store.trees([ids[2], ids[0]])] == [ids[2], ids[0]]
        trees = owner_store.trees()
        next(trees)
        owner_store.start_turn(ask("while another is read"))
        assert len(list(trees)) == 2


def anonymous(tree: Tree) -> Tree:
    """The same with places instead of ids."""
    places = {message.id: str(index) for index, message in enumerate(tree.messages)}
    messages = tuple(
        dataclasses.replace(
            message,
            id=places[message.id],
            conversation="",
            parent=message.parent and places[message.parent],
            versions=tuple(places[id] for id in message.versions),
        )
        for message in tree.messages
    )
    leaf = tree.conversation.leaf
    return Tree(dataclasses.replace(tree.conversation, id="", leaf=leaf and places[leaf]), messages)


class TestPersonas:
    def test_keep_replace_forget(self, owner_store: OwnerStore) -> None:
        first, second = owner_store.save_persona(PRESETS[0]), owner_store.save_persona(PRESETS[1])
        assert owner_store.personas() == [first, second]
        assert owner_store.save_persona(PRESETS[2], first.id) == OwnPersona(first.id, PRESETS[2])
        assert owner_store.personas() == [OwnPersona(first.id, PRESETS[2]), second]
        owner_store.delete_persona(first.id)
        assert owner_store.personas() == [second]
        with pytest.raises(NotFoundError, match="persona"):
            owner_store.delete_persona(first.id)

    def test_a_conversation_keeps_the_persona_as_it_was(self, owner_store: OwnerStore) -> None:
        kept = owner_store.save_persona(PRESETS[3])
        started = owner_store.start_turn(dataclasses.replace(ask("1"), persona=kept.persona))
        owner_store.save_persona(PRESETS[4], kept.id)
        assert owner_store.initial_persona(started.conversation.id) == PRESETS[3]


def test_finish_is_kept_exactly(store: Store, owner_store: OwnerStore) -> None:
    started = owner_store.start_turn(ask("1"))
    finish = Finish("length", 1, 2, 2**32 - 1, 1e-9, 0.1 + 0.2, 12345.678901234567, 8)
    store.update_replies([ReplyUpdate(OWNER, started.reply.id, "x", state="finished", finish=finish)])
    assert owner_store.message(started.reply.id).finish == finish


def chain(owner_store: OwnerStore, messages: int, letters: int = 1) -> str:
    """The id of a conversation of so many messages, each of them below the one before."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    roles: tuple[Role, Role] = ("user", "assistant")
    path = tuple(
        StoredMessage(str(n), "c", str(n - 1) if n else None, roles[n % 2], f"{n:0{letters}}", moment)
        for n in range(messages)
    )
    conversation = Conversation("c", "Long", True, str(messages - 1), False, False, moment, moment, Persona(name="p"))
    return owner_store.add_trees([Tree(conversation, path)])[0].id


class TestLongConversations:
    def test_the_end_of_a_path_is_read(self, owner_store: OwnerStore) -> None:
        id = chain(owner_store, 500)
        whole = owner_store.path(id)
        assert [message.content for message in whole] == [str(n) for n in range(500)]
        end = owner_store.visible_path(id, 7, 1000)
        assert (end.messages, end.earlier) == (whole[-7:], 493)
        assert owner_store.visible_path(id, 1000, 1000).earlier == 167  # 333 messages of three characters are 999
        assert owner_store.context_path(id, 9).messages == whole[-3:]
        assert owner_store.context_path(id, 9, whole[10].id).earlier == 3
        assert owner_store.context_path(id, None).messages == whole

    def test_the_leaf_is_read_however_long_it_is(self, owner_store: OwnerStore) -> None:
        id = chain(owner_store, 5, letters=100)
        assert (len(owner_store.context_path(id, 1).messages), owner_store.visible_path(id, 3, 1).earlier) == (1, 4)

    def test_a_question_reads_no_more_of_it_than_is_asked_for(self, owner_store: OwnerStore) -> None:
        id = chain(owner_store, 300)
        leaf = owner_store.path(id)[-1].id
        started = owner_store.start_turn(ask("And?", id, leaf), characters=40)
        assert started.path[-1] == started.reply
        assert started.earlier + len(started.path) == 302
        assert len(started.path) == 14  # "", "And?" and twelve of three characters

    def test_what_is_asked_of_the_database_does_not_grow_with_the_conversation(self, store: Store) -> None:
        def statements(messages: int) -> int:
            owner_store = store.for_owner(f"owner {messages}")
            id = chain(owner_store, messages)
            leaf = owner_store.path(id)[-1].id
            count = 0

            def executed(connection: Any, cursor: Any, *_: Any) -> None:
                nonlocal count
                count += 1

            event.listen(store.database.engine, "after_cursor_execute", executed)
            owner_store.start_turn(ask("And?", id, leaf), characters=40)
            event.remove(store.database.engine, "after_cursor_execute", executed)
            return count

        assert statements(300) == statements(900)

    def test_many_first_messages_share_their_versions(self, owner_store: OwnerStore) -> None:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        roots = tuple(StoredMessage(str(n), "c", None, "user", f"{n}", moment) for n in range(3000))
        conversation = Conversation("c", "Wide", True, "2999", False, False, moment, moment, Persona(name="p"))
        (tree,) = owner_store.trees([owner_store.add_trees([Tree(conversation, roots)])[0].id])
        assert len({id(message.versions) for message in tree.messages}) == 1
        assert len("".join(as_json([tree]))) < 3000 * 400
        assert owner_store.path(tree.conversation.id)[0].versions == tree.messages[0].versions
        assert owner_store.select(tree.messages[5].id).leaf == tree.messages[5].id
