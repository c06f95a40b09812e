import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from chatui.chat import Finish
from chatui.errors import ChatError, NotFoundError, TransferError
from chatui.personas import PRESETS, Persona
from chatui.settings import GenerationSettings
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
def shelf(store: Store) -> OwnerStore:
    return store.of(OWNER)


def end(store: Store, begun: StartedTurn, content: str = "An answer.", owner: str = OWNER) -> StoredMessage:
    store.write([ReplyUpdate(owner, begun.reply.id, content, "Hm.", "finished", FINISH)])
    return store.of(owner).message(begun.reply.id)


class TestBegin:
    def test_a_character_begins_and_its_other_greetings_are_versions_of_the_first(self, shelf: OwnerStore) -> None:
        turn = dataclasses.replace(ask("Who are you?"), greetings=("Welcome!", "Ahoy!"))
        begun = shelf.begin(turn)
        assert [(one.role, one.content) for one in begun.path] == [
            ("assistant", "Welcome!"),
            ("user", "Who are you?"),
            ("assistant", ""),
        ]
        first, second = begun.path[0].versions
        assert shelf.select(second).leaf == second
        again = shelf.begin(dataclasses.replace(turn, conversation=begun.conversation.id, parent=second))
        assert [one.content for one in again.path] == ["Ahoy!", "Who are you?", ""]
        assert shelf.path(begun.conversation.id, begun.reply.id)[0].id == first

    def test_a_character_begins_with_the_greeting_that_was_chosen(self, shelf: OwnerStore) -> None:
        turn = dataclasses.replace(ask("Who are you?"), greetings=("Welcome!", "Ahoy!"), greeting=1, new="mine")
        begun = shelf.begin(turn)
        assert begun.conversation.id == "mine"
        assert [one.content for one in begun.path] == ["Ahoy!", "Who are you?", ""]
        assert begun.path[0].versions.index(begun.path[0].id) == 1

    def test_a_new_conversation_has_a_question_and_a_running_reply(self, store: Store, shelf: OwnerStore) -> None:
        begun = shelf.begin(ask("What is\n a haiku?", prefix="A haiku"))
        question, reply = begun.path
        assert (question.role, question.content, question.state) == ("user", "What is\n a haiku?", "finished")
        assert (reply.role, reply.content, reply.state, reply.parent) == (
            "assistant",
            "A haiku",
            "running",
            question.id,
        )
        assert begun.conversation.title == "What is a haiku?"
        assert begun.conversation.leaf == reply.id == begun.reply.id
        assert shelf.began_with(begun.conversation.id) == PRESETS[0]
        assert shelf.path(begun.conversation.id) == begun.path
        assert shelf.conversation(begun.conversation.id) == begun.conversation

    def test_every_field_comes_back(self, store: Store, shelf: OwnerStore) -> None:
        settings = GenerationSettings(temperature=1.25, seed=2**32 - 1, stop=("a", "\n"), top_k=3)
        author = Author("m", "abc", "system\0" + HOSTILE, settings, 99, "prefix", "thought")
        card = {"name": "Ünï", "deep": [{"a": None}, 1.5]}
        persona = Persona("P", "🦜", "be", "hi", ("x", "y"), settings, "data:image/png;base64,AAAA", card)
        begun = shelf.begin(NewTurn(None, None, HOSTILE, author, persona))
        assert begun.path[0].content == HOSTILE
        assert begun.reply.author == author
        assert shelf.began_with(begun.conversation.id) == persona
        store.write([ReplyUpdate(OWNER, begun.reply.id, HOSTILE, HOSTILE, "failed", FINISH, HOSTILE)])
        reply = shelf.message(begun.reply.id)
        assert (reply.content, reply.reasoning, reply.state, reply.finish) == (HOSTILE, HOSTILE, "failed", FINISH)
        assert reply.error == HOSTILE

    @pytest.mark.parametrize("text", ["a\0b", "half \ud800 pair"])
    def test_what_no_database_can_keep_is_replaced(self, shelf: OwnerStore, text: str) -> None:
        begun = shelf.begin(ask(text))
        assert "\ufffd" in begun.path[0].content
        assert begun.path[0] == shelf.message(begun.path[0].id)

    def test_another_version_of_a_reply(self, store: Store, shelf: OwnerStore) -> None:
        first = shelf.begin(ask("Why?"))
        end(store, first)
        second = shelf.begin(ask(None, first.conversation.id, first.path[0].id))
        assert second.path[0] == first.path[0]
        assert second.reply.versions == (first.reply.id, second.reply.id)
        assert shelf.message(first.reply.id).versions == second.reply.versions
        assert shelf.conversation(first.conversation.id).leaf == second.reply.id

    def test_an_edited_first_question_begins_a_new_root(self, store: Store, shelf: OwnerStore) -> None:
        first = shelf.begin(ask("Wy?"))
        edited = shelf.begin(ask("Why?", first.conversation.id))
        assert edited.path[0].versions == (first.path[0].id, edited.path[0].id)
        assert len(edited.path) == 2
        assert edited.conversation.title == "Wy?"

    def test_what_it_refers_to_must_be_there(self, store: Store, shelf: OwnerStore) -> None:
        mine, second, other = shelf.begin(ask("a")), shelf.begin(ask("b")), store.of("login:bob").begin(ask("c"))
        before = list(shelf.trees())
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
                shelf.begin(turn)
        assert list(shelf.trees()) == before


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

    def test_rename_and_back(self, shelf: OwnerStore) -> None:
        begun = shelf.begin(ask("The first words"))
        id = begun.conversation.id
        shelf.rename(id, "  My\n own " + "x" * 300)
        renamed = shelf.conversation(id)
        assert renamed.title.startswith("My own xxx")
        assert len(renamed.title) == 200
        assert renamed.named
        assert renamed.updated == begun.conversation.updated
        shelf.rename(id, " \n ")
        assert shelf.conversation(id) == begun.conversation


class TestList:
    def test_pinned_first_then_the_newest_and_every_page(self, shelf: OwnerStore) -> None:
        ids = [shelf.begin(ask(str(number))).conversation.id for number in range(9)]
        for id in (ids[2], ids[5]):
            shelf.pin(id, True)
        shelf.archive(ids[7], True)
        shelf.delete(ids[8])
        shelf.begin(ask("more", ids[0]))
        expected = [ids[5], ids[2], ids[0], ids[6], ids[4], ids[3], ids[1]]
        assert [one.id for one in shelf.conversations()] == expected
        for size in (1, 2, 3, 7):
            paged: list[str] = []
            for _ in range(len(expected) + 1):
                page = shelf.conversations(size, paged[-1] if paged else None)
                assert len(page) == min(size, len(expected) - len(paged))
                paged += [one.id for one in page]
            assert paged == expected
        assert [one.id for one in shelf.conversations(archived=True)] == [ids[7]]

    def test_pin_and_archive_leave_the_order_alone(self, shelf: OwnerStore) -> None:
        begun = shelf.begin(ask("a"))
        shelf.pin(begun.conversation.id, True)
        shelf.archive(begun.conversation.id, True)
        changed = shelf.conversation(begun.conversation.id)
        assert changed == dataclasses.replace(begun.conversation, pinned=True, archived=True)
        shelf.pin(begun.conversation.id, False)
        shelf.archive(begun.conversation.id, False)
        assert shelf.conversation(begun.conversation.id) == begun.conversation

    def test_the_shown_one_must_be_ones_own(self, store: Store, shelf: OwnerStore) -> None:
        other = store.of("login:bob").begin(ask("c")).conversation.id
        for id in (other, "missing", "\0", "' OR 1=1"):
            with pytest.raises(NotFoundError):
                shelf.conversations(after=id)


class TestVersions:
    def test_select_goes_on_to_the_newest_leaf_below(self, store: Store, shelf: OwnerStore) -> None:
        first = shelf.begin(ask("1"))
        id = first.conversation.id
        deeper = shelf.begin(ask("2", id, first.reply.id))
        other = shelf.begin(ask(None, id, first.path[0].id))
        newest = shelf.begin(ask(None, id, deeper.path[2].id))
        shelf.select(other.reply.id)
        assert shelf.select(first.reply.id).leaf == newest.reply.id
        assert shelf.path(id) == newest.path
        assert shelf.select(deeper.reply.id).leaf == deeper.reply.id
        assert shelf.select(other.reply.id).leaf == other.reply.id
        assert shelf.path(id, deeper.reply.id)[-1].id == deeper.reply.id

    def test_path_to_a_leaf_elsewhere(self, store: Store, shelf: OwnerStore) -> None:
        one, two = shelf.begin(ask("1")), shelf.begin(ask("2"))
        with pytest.raises(NotFoundError):
            shelf.path(one.conversation.id, two.reply.id)

    def test_branch_copies_the_path_and_no_more(self, store: Store, shelf: OwnerStore) -> None:
        first = shelf.begin(ask("1"))
        id = first.conversation.id
        end(store, first)
        shelf.rate(first.reply.id, "like", "good")
        shelf.begin(ask(None, id, first.path[0].id))
        shelf.rename(id, "Mine")
        shelf.pin(id, True)
        branched = shelf.branch(first.reply.id)
        assert (branched.title, branched.named, branched.pinned) == ("Mine", True, False)
        copied = shelf.path(branched.id)
        assert [one.content for one in copied] == ["1", "An answer."]
        assert copied[1].rating == "like"
        assert copied[1].versions == (copied[1].id,)
        assert not {one.id for one in copied} & {first.path[0].id, first.reply.id}
        assert shelf.path(id, first.reply.id)[1] == shelf.message(first.reply.id)
        assert shelf.conversations()[1].id == branched.id

    def test_a_running_reply_cannot_be_branched(self, shelf: OwnerStore) -> None:
        begun = shelf.begin(ask("1"))
        with pytest.raises(ChatError, match="still being written"):
            shelf.branch(begun.reply.id)
        assert shelf.branch(begun.path[0].id).leaf


class TestDelete:
    def test_deleted_is_as_good_as_missing_until_restored(self, store: Store, shelf: OwnerStore) -> None:
        begun = shelf.begin(ask("findme"))
        id = begun.conversation.id
        shelf.delete(id)
        for call in every_call(shelf, id, begun.reply.id, begun.path[0].id):
            with pytest.raises(NotFoundError):
                call()
        assert shelf.conversations() == []
        assert shelf.search("findme") == []
        assert list(shelf.trees()) == []
        assert shelf.restore(id) == begun.conversation
        assert shelf.path(id) == begun.path
        assert [hit.conversation.id for hit in shelf.search("findme")] == [id]

    def test_a_reply_goes_on_while_its_conversation_is_deleted(self, store: Store, shelf: OwnerStore) -> None:
        begun = shelf.begin(ask("1"))
        shelf.delete(begun.conversation.id)
        store.write([ReplyUpdate(OWNER, begun.reply.id, "whole", state="finished")])
        shelf.restore(begun.conversation.id)
        assert shelf.message(begun.reply.id).content == "whole"


def every_call(shelf: OwnerStore, id: str, reply: str, question: str) -> list[Callable[[], object]]:
    """Every method that takes an id; all but restore(), which is for deleted ones."""
    return [
        lambda: shelf.conversation(id),
        lambda: shelf.path(id),
        lambda: shelf.path(id, reply),
        lambda: shelf.message(reply),
        lambda: shelf.begin(ask("x", id)),
        lambda: shelf.begin(ask("x", id, reply)),
        lambda: shelf.begin(ask(None, id, question)),
        lambda: shelf.select(reply),
        lambda: shelf.rename(id, "x"),
        lambda: shelf.rename(id, ""),
        lambda: shelf.pin(id, True),
        lambda: shelf.archive(id, True),
        lambda: shelf.delete(id),
        lambda: shelf.branch(question),
        lambda: shelf.rate(reply, "like"),
        lambda: list(shelf.trees([id])),
    ]


class TestOwners:
    def test_anothers_is_as_good_as_missing(self, store: Store, shelf: OwnerStore) -> None:
        begun = shelf.begin(ask("private"))
        id, kept = begun.conversation.id, shelf.keep(PRESETS[0])
        before = list(shelf.trees()), shelf.personas()
        other = store.of("login:adam")
        calls = every_call(other, id, begun.reply.id, begun.path[0].id)
        missing = every_call(other, "missing", "missing", "missing")
        calls += [lambda: other.restore(id), lambda: other.forget(kept.id), lambda: other.keep(PRESETS[1], kept.id)]
        missing += [lambda: other.restore("-"), lambda: other.forget("-"), lambda: other.keep(PRESETS[1], "-")]
        for call, same in zip(calls, missing, strict=True):
            with pytest.raises(NotFoundError) as caught:
                call()
            with pytest.raises(NotFoundError) as expected:
                same()
            assert str(caught.value) == str(expected.value)
        store.write([ReplyUpdate("login:adam", begun.reply.id, "changed", state="finished")])
        assert (other.conversations(), other.personas(), other.search("private"), list(other.trees())) == ([],) * 4
        assert (list(shelf.trees()), shelf.personas()) == before

    @pytest.mark.parametrize("owner", ["", "a\0b", "a\ud800"])
    def test_an_owner_has_a_name(self, store: Store, owner: str) -> None:
        with pytest.raises(ValueError, match="owner"):
            store.of(owner)

    @pytest.mark.parametrize("owner", ["login:ADA", "login:ada ", "login", "ada", "login:ad_", "login:%", "登录:ada"])
    def test_names_that_look_alike_are_others(self, store: Store, shelf: OwnerStore, owner: str) -> None:
        shelf.begin(ask("private thing"))
        store.of(owner).begin(ask("ours"))
        assert [one.title for one in store.of(owner).conversations()] == ["ours"]
        assert store.of(owner).search("private") == []


class TestRating:
    def test_only_replies_and_short_notes(self, store: Store, shelf: OwnerStore) -> None:
        begun = shelf.begin(ask("1"))
        reply = end(store, begun)
        shelf.rate(reply.id, "dislike", "wrong")
        assert shelf.message(reply.id) == dataclasses.replace(reply, rating="dislike", note="wrong")
        shelf.rate(reply.id, None)
        assert shelf.message(reply.id) == reply
        with pytest.raises(ChatError, match="Only replies"):
            shelf.rate(begun.path[0].id, "like")
        with pytest.raises(ChatError, match="2,001"):
            shelf.rate(reply.id, "like", "x" * 2001)


def tree_of(*messages: StoredMessage, leaf: str | None = None, title: str = "T", pinned: bool = False) -> Tree:
    moment = datetime(2020, 5, 17, 12, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    return Tree(Conversation("c", title, True, leaf, pinned, False, moment, moment, PRESETS[1]), messages)


def said(id: str, parent: str | None, **more: object) -> StoredMessage:
    moment = datetime(2020, 5, 17, 12, 30, 0, 123456, tzinfo=UTC)
    return dataclasses.replace(StoredMessage(id, "c", parent, "user", id, moment), **more)


class TestTransfer:
    def test_what_is_exported_can_be_added_again(self, store: Store, shelf: OwnerStore) -> None:
        first = shelf.begin(ask("1"))
        end(store, first)
        shelf.begin(ask(None, first.conversation.id, first.path[0].id))
        shelf.rate(first.reply.id, "like", "n")
        shelf.archive(shelf.begin(ask("2")).conversation.id, True)
        store.interrupt(timedelta(seconds=-60))
        trees = list(shelf.trees())
        other = store.of("login:bob")
        added = other.add(trees)
        assert [anonymous(tree) for tree in other.trees()] == [anonymous(tree) for tree in trees]
        assert added == [other.conversation(tree.conversation.id) for tree in other.trees()]
        assert list(shelf.trees()) == trees

    def test_times_are_kept_in_utc_and_running_replies_are_over(self, shelf: OwnerStore) -> None:
        (added,) = shelf.add([tree_of(said("a", None, state="running"), leaf="a")])
        conversation = shelf.conversation(added.id)
        assert conversation.created == datetime(2020, 5, 17, 7, 0, tzinfo=UTC)
        assert conversation.created.utcoffset() == timedelta(0)
        (message,) = shelf.path(added.id)
        assert message.created == datetime(2020, 5, 17, 12, 30, 0, 123456, tzinfo=UTC)
        assert message.state == "interrupted"

    def test_no_title_becomes_the_first_words(self, shelf: OwnerStore) -> None:
        (added,) = shelf.add([tree_of(said("hello you", None), title=" ")])
        assert (added.title, added.named) == ("hello you", False)

    def test_anything_wrong_changes_nothing(self, store: Store, shelf: OwnerStore) -> None:
        good = tree_of(said("a", None))
        for bad in (
            tree_of(said("a", None), said("b", "missing")),
            tree_of(said("b", "a"), said("a", None)),
            tree_of(said("a", None), leaf="b"),
            tree_of(said("a", None), said("a", None)),
        ):
            with pytest.raises(TransferError):
                shelf.add([good, bad])
        with pytest.raises(ZeroDivisionError):
            shelf.add(good for _ in range(1 // len(shelf.conversations())))
        assert shelf.conversations() == []

    def test_only_these_in_this_order_lazily(self, store: Store, shelf: OwnerStore) -> None:
        ids = [shelf.begin(ask(str(number))).conversation.id for number in range(3)]
        assert [tree.conversation.id for tree in shelf.trees([ids[2], ids[0]])] == [ids[2], ids[0]]
        trees = shelf.trees()
        next(trees)
        shelf.begin(ask("while another is read"))
        assert len(list(trees)) == 2


def anonymous(tree: Tree) -> Tree:
    """The same with places instead of ids."""
    places = {message.id: str(place) for place, message in enumerate(tree.messages)}
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
    def test_keep_replace_forget(self, shelf: OwnerStore) -> None:
        first, second = shelf.keep(PRESETS[0]), shelf.keep(PRESETS[1])
        assert shelf.personas() == [first, second]
        assert shelf.keep(PRESETS[2], first.id) == OwnPersona(first.id, PRESETS[2])
        assert shelf.personas() == [OwnPersona(first.id, PRESETS[2]), second]
        shelf.forget(first.id)
        assert shelf.personas() == [second]
        with pytest.raises(NotFoundError, match="persona"):
            shelf.forget(first.id)

    def test_a_conversation_keeps_the_persona_as_it_was(self, shelf: OwnerStore) -> None:
        kept = shelf.keep(PRESETS[3])
        begun = shelf.begin(dataclasses.replace(ask("1"), persona=kept.persona))
        shelf.keep(PRESETS[4], kept.id)
        assert shelf.began_with(begun.conversation.id) == PRESETS[3]


def test_finish_is_kept_exactly(store: Store, shelf: OwnerStore) -> None:
    begun = shelf.begin(ask("1"))
    finish = Finish("length", 1, 2, 2**32 - 1, 1e-9, 0.1 + 0.2, 12345.678901234567, 8)
    store.write([ReplyUpdate(OWNER, begun.reply.id, "x", state="finished", finish=finish)])
    assert shelf.message(begun.reply.id).finish == finish


def chain(shelf: OwnerStore, messages: int, letters: int = 1) -> str:
    """The id of a conversation of so many messages, each of them below the one before."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    roles = ("user", "assistant")
    path = tuple(
        StoredMessage(str(n), "c", str(n - 1) if n else None, roles[n % 2], f"{n:0{letters}}", moment)
        for n in range(messages)
    )
    conversation = Conversation("c", "Long", True, str(messages - 1), False, False, moment, moment, Persona(name="p"))
    return shelf.add([Tree(conversation, path)])[0].id


class TestLongConversations:
    def test_the_end_of_a_path_is_read(self, shelf: OwnerStore) -> None:
        id = chain(shelf, 500)
        whole = shelf.path(id)
        assert [message.content for message in whole] == [str(n) for n in range(500)]
        end = shelf.shown(id, 7, 1000)
        assert (end.messages, end.earlier) == (whole[-7:], 493)
        assert shelf.shown(id, 1000, 1000).earlier == 167  # 333 messages of three characters are 999
        assert shelf.read(id, 9).messages == whole[-3:]
        assert shelf.read(id, 9, whole[10].id).earlier == 3
        assert shelf.read(id, None).messages == whole

    def test_the_leaf_is_read_however_long_it_is(self, shelf: OwnerStore) -> None:
        id = chain(shelf, 5, letters=100)
        assert (len(shelf.read(id, 1).messages), shelf.shown(id, 3, 1).earlier) == (1, 4)

    def test_a_question_reads_no_more_of_it_than_is_asked_for(self, shelf: OwnerStore) -> None:
        id = chain(shelf, 300)
        leaf = shelf.path(id)[-1].id
        begun = shelf.begin(ask("And?", id, leaf), characters=40)
        assert begun.path[-1] == begun.reply
        assert begun.earlier + len(begun.path) == 302
        assert len(begun.path) == 14  # "", "And?" and twelve of three characters

    def test_what_is_asked_of_the_database_does_not_grow_with_the_conversation(self, store: Store) -> None:
        def statements(messages: int) -> int:
            shelf = store.of(f"owner {messages}")
            id = chain(shelf, messages)
            leaf = shelf.path(id)[-1].id
            count = 0

            def executed(connection: Any, cursor: Any, *_: Any) -> None:
                nonlocal count
                count += 1

            event.listen(store.database.engine, "after_cursor_execute", executed)
            shelf.begin(ask("And?", id, leaf), characters=40)
            event.remove(store.database.engine, "after_cursor_execute", executed)
            return count

        assert statements(300) == statements(900)

    def test_many_first_messages_share_their_versions(self, shelf: OwnerStore) -> None:
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        roots = tuple(StoredMessage(str(n), "c", None, "user", f"{n}", moment) for n in range(3000))
        conversation = Conversation("c", "Wide", True, "2999", False, False, moment, moment, Persona(name="p"))
        (tree,) = shelf.trees([shelf.add([Tree(conversation, roots)])[0].id])
        assert len({id(message.versions) for message in tree.messages}) == 1
        assert len("".join(as_json([tree]))) < 3000 * 400
        assert shelf.path(tree.conversation.id)[0].versions == tree.messages[0].versions
        assert shelf.select(tree.messages[5].id).leaf == tree.messages[5].id
