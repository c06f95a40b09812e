import unicodedata
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from chatui.store.owner_store import OwnerStore
from chatui.store.records import ReplyUpdate
from chatui.store.search import Query, excerpt, parse_query
from chatui.store.store import Store
from tests.databases import ask, fill
from tests.examples import some_of

pytest_plugins = ("tests.databases",)
WORDS = (
    "apple",
    "apples",
    "Bär",
    "naïve",
    "мой",
    "Ωmega",
    "x1",
    "2026",
    "don't",
    "e-mail",
    "snake_case",
    "日本語",
    "한국어",
)


@pytest.fixture
def owner_store(store: Store) -> OwnerStore:
    return store.for_owner("a")


def titles(owner_store: OwnerStore, text: str, limit: int = 30) -> list[str]:
    return [hit.conversation.title for hit in owner_store.search(text, limit)]


def answered(store: Store, question: str, answer: str, owner: str = "a") -> str:
    started = store.for_owner(owner).start_turn(ask(question))
    store.update_replies([ReplyUpdate(owner, started.reply.id, answer, state="finished")])
    return started.conversation.id


class TestWords:
    @pytest.mark.parametrize(
        ("text", "query"),
        [
            ("the naïve bear", "naive"),
            ("the naive bear", "NAÏVE"),
            ("ÉCOLE", "école"),
            ("e\u0301cole", "école"),
            ("Мой дядя", "МОЙ"),
            ("it's Bob's", "bob's"),
            ("mail bob@example.com now", "example.com"),
            ("see https://example.com/path/page?x=1", "path page"),
            ("a_snake_case name", "snake"),
            ("e-mail", "mail"),
            ("version 3.14.1", "3.14"),
            ("今天天气很好", "天气"),
            ("カタカナの文", "カナ"),
            ("สวัสดีชาวโลก", "ชาว"),
            ("हिन्दी में लिखो", "हिन्दी"),
            ("한국어 문장", "한국"),
            ("party 🎉 time", "🎉"),
            ("100% sure", "%"),
            ("C++ or C#", "c++"),
            ("ab" * 3000 + " end", "end"),
        ],
    )
    def test_what_is_written_is_found(self, store: Store, owner_store: OwnerStore, text: str, query: str) -> None:
        id = answered(store, "Question", text)
        answered(store, "Another", "Nothing of the kind")
        assert [hit.conversation.id for hit in owner_store.search(query)] == [id]

    def test_every_word_and_only_the_last_half_written(self, store: Store, owner_store: OwnerStore) -> None:
        answered(store, "one", "red apple trees")
        answered(store, "two", "red pears")
        assert titles(owner_store, "red app") == ["one"]
        assert titles(owner_store, "re apple") == []
        assert titles(owner_store, "apple RED") == ["one"]
        assert titles(owner_store, "red") == ["two", "one"]
        assert titles(owner_store, "red blue") == []

    def test_words_and_pieces_together(self, store: Store, owner_store: OwnerStore) -> None:
        answered(store, "one", "weather 今天天气很好")
        answered(store, "two", "weather 昨天")
        assert titles(owner_store, "weather 天气") == ["one"]
        assert titles(owner_store, "天气 weath") == ["one"]

    @pytest.mark.parametrize(
        "text", ["", " \n", "\0", '"', "'", "\\", "*", ":*", "()", "a OR", "NOT", "NEAR(", "a:b", "-"]
    )
    def test_anything_may_be_typed(self, store: Store, owner_store: OwnerStore, text: str) -> None:
        answered(store, "Question", "A plain sentence")
        assert owner_store.search(text) == []

    def test_operators_are_words(self, store: Store, owner_store: OwnerStore) -> None:
        answered(store, "plain", "apple")
        answered(store, "said", "apple or pear")
        assert titles(owner_store, "apple OR pear") == ["said"]
        assert titles(owner_store, "apple AND pear") == []

    def test_texts_of_any_length_can_be_kept(self, store: Store, owner_store: OwnerStore) -> None:
        huge = " ".join(f"word{number}é{'ﷺ' * (number % 3)}" for number in range(150_000))
        answered(store, "huge", huge + "x" * 100_000)
        assert titles(owner_store, "word77é") == ["huge"]


class TestHits:
    def test_one_hit_for_each_conversation_the_newest_match_first(self, store: Store, owner_store: OwnerStore) -> None:
        first = answered(store, "first", "needle one")
        answered(store, "second", "needle two")
        answered(store, "third", "hay")
        assert titles(owner_store, "needle") == ["second", "first"]
        owner_store.start_turn(ask("needle three", first))
        hits = owner_store.search("needle")
        assert [hit.conversation.title for hit in hits] == ["first", "second"]
        assert (hits[0].before, hits[0].match, hits[0].after) == ("", "needle", " three")
        assert titles(owner_store, "needle", 1) == ["first"]
        assert titles(owner_store, "needle", 0) == []

    def test_titles_archived_ones_and_renamed_ones(self, store: Store, owner_store: OwnerStore) -> None:
        id = answered(store, "Question", "Answer")
        owner_store.rename(id, "Überraschung für Eva")
        (hit,) = owner_store.search("uberra")
        assert (hit.conversation.id, hit.match) == (id, "")
        owner_store.archive(id, True)
        assert titles(owner_store, "eva") == ["Überraschung für Eva"]
        owner_store.rename(id, "Else")
        assert titles(owner_store, "eva") == []
        assert titles(owner_store, "else") == ["Else"]

    def test_a_reply_is_found_once_it_has_ended(self, store: Store, owner_store: OwnerStore) -> None:
        started = owner_store.start_turn(ask("Question"))
        store.update_replies([ReplyUpdate("a", started.reply.id, "needle")])
        assert owner_store.search("needle") == []
        store.update_replies([ReplyUpdate("a", started.reply.id, "pin", state="stopped")])
        assert owner_store.search("needle") == []
        assert len(owner_store.search("pin")) == 1
        owner_store.rate(started.reply.id, "like", "needle")
        assert len(owner_store.search("pin")) == 1

    def test_other_owners_deleted_and_purged_ones_are_not(self, store: Store, owner_store: OwnerStore) -> None:
        answered(store, "theirs", "needle", "b")
        id = answered(store, "mine", "needle")
        assert titles(owner_store, "needle") == ["mine"]
        owner_store.delete(id)
        for _ in range(2):
            assert owner_store.search("needle") == owner_store.search("mine") == []
            store.purge(timedelta(0))
        assert titles(store.for_owner("b"), "needle") == ["theirs"]

    def test_imported_and_branched_ones_are(self, store: Store, owner_store: OwnerStore) -> None:
        id = answered(store, "mine", "needle")
        store.for_owner("b").add_trees(owner_store.trees())
        assert titles(store.for_owner("b"), "needle") == ["mine"]
        leaf = owner_store.conversation(id).leaf
        assert leaf is not None
        owner_store.branch(leaf)
        assert titles(owner_store, "needle") == ["mine", "mine"]

    def test_old_matches_are_found_past_many_new_messages(self, store: Store) -> None:
        fill(store, "a", 45, 100)
        fill(store, "b", 10, 10, seed=1)
        owner_store = store.for_owner("a")
        assert len(owner_store.search("rare")) == len(owner_store.search("w1 rare")) == 1
        found = owner_store.search("w0")
        assert len(found) == 30
        newest = owner_store.conversations(30)
        assert [hit.conversation for hit in found] == newest
        assert len(owner_store.search("w0", 100)) == 45
        assert len(store.for_owner("b").search("w0", 100)) == 10


class TestPlans:
    def test_sqlite_asks_the_index_first(self) -> None:
        store = Store.in_memory()
        plans: list[str] = []
        owner_store = store.for_owner("a")
        with store.database.engine.connect() as connection:
            raw = connection.connection.driver_connection
        assert raw is not None
        seen: list[str] = []
        raw.set_trace_callback(seen.append)
        owner_store.search("word")
        raw.set_trace_callback(None)
        for sql in (sql for sql in seen if "MATCH" in sql):
            plans += [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}")]
        assert len([plan for plan in plans if "VIRTUAL TABLE" in plan]) == 2
        assert not [plan for plan in plans if plan.startswith(("SCAN messages", "SCAN conversations"))]
        store.close()


class TestExcerpt:
    @given(st.text(max_size=200), st.text(max_size=30))
    def test_it_is_a_piece_of_the_text(self, content: str, typed: str) -> None:
        query = parse_query(typed)
        assume(query.words or query.substrings)
        before, match, after = excerpt(content, query)
        assert before + match + after in content
        assert len(before) <= 60 >= len(after)

    def test_whole_words_come_before_parts(self) -> None:
        assert excerpt("pineapple, Äpple", Query(("apple",), False, ())) == ("pineapple, ", "Äpple", "")
        assert excerpt("apples", Query(("apple",), False, ())) == ("", "", "apples")
        assert excerpt("apples", Query(("apple",), True, ())) == ("", "apple", "s")


@pytest.fixture
def shared(make_store: Callable[[], Store]) -> Store:
    store = make_store()
    for number, word in enumerate(WORDS):
        answered(store, f"title{number}", f"The word {word} is here")
    return store


@settings(max_examples=some_of(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    typed=st.lists(
        st.sampled_from([*WORDS, "is", "'", '"*', "\0", "🎉", "NOT", "%", "¼", "x²", "Ⅳ"]) | st.text(max_size=6),
        max_size=4,
    ),
)
def test_a_hit_has_every_word(shared: Store, typed: list[str]) -> None:
    for hit in shared.for_owner("a").search(" ".join(typed), 100):
        path = shared.for_owner("a").path(hit.conversation.id)
        texts = [hit.conversation.title, *(message.content for message in path)]
        plain = [unaccented(text) for text in texts]
        for word in parse_query(" ".join(typed)).words:
            assert any(unaccented(word) in text for text in plain)


def unaccented(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
