from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui import lorebook
from chatui.lorebook import Book, Entry, activate_entries, budget, tokens
from chatui.macros import MacroValues

MACRO_VALUES = MacroValues("Ann", "Robo", "m", datetime(2026, 11, 24, 15, 4), seed=7, chat="c")
CONTEXT = 8192
WORDS = ("dragon", "castle", "king", "sword", "moat", "bread")
KEYS = st.lists(st.sampled_from(WORDS), max_size=2).map(tuple)
ENTRIES = st.lists(
    st.builds(
        Entry,
        index=st.just(0),
        content=st.lists(
            st.sampled_from([*WORDS, "{{hidden_key:king}}", "{{random:a,bb}}", "x" * 200]), max_size=4
        ).map(" ".join),
        keys=KEYS,
        secondary_keys=KEYS,
        selective_logic=st.integers(0, 3),
        exclude_keys=KEYS,
        constant=st.booleans(),
        order=st.integers(0, 3).map(float),
        priority=st.integers(0, 3).map(float),
        probability=st.sampled_from([0.0, 50.0, 100.0]),
        depth=st.none() | st.integers(0, 3),
        scan_depth=st.none() | st.integers(0, 3),
        exclude_recursion=st.booleans(),
        prevent_recursion=st.booleans(),
        delay_until_recursion=st.booleans(),
    ),
    max_size=12,
).map(lambda entries: tuple(replace(entry, index=index) for index, entry in enumerate(entries)))
BOOKS = st.builds(Book, ENTRIES, st.integers(0, 5), st.none() | st.integers(0, 200), st.booleans())
MESSAGES = st.lists(st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join), max_size=5)


def entries(*made: dict[str, Any]) -> tuple[Entry, ...]:
    return tuple(Entry(index=index, **{"content": f"entry {index}", **each}) for index, each in enumerate(made))


def activated_indices(
    book: Book, *texts: str, macro_values: MacroValues = MACRO_VALUES, context: int = CONTEXT
) -> list[int]:
    return [each.entry.index for each in activate_entries(book, texts, macro_values, context)]


def test_constant_entries_and_those_whose_key_was_said() -> None:
    book = Book(entries({"constant": True}, {"keys": ("Dragon",)}, {"keys": ("elf", "orc")}, {"keys": ()}))
    assert activated_indices(book) == [0]
    assert activated_indices(book, "a dragon!") == [0, 1]
    assert activated_indices(book, "an ORC") == [0, 2]


def test_only_the_last_messages_are_searched() -> None:
    book = Book(entries({"keys": ("dragon",)}, {"keys": ("dragon",), "scan_depth": 3}, {"keys": ("x",)}))
    assert activated_indices(book, "dragon", "b", "c") == [1]
    assert activated_indices(book, "a", "dragon", "c") == [0, 1]
    assert activated_indices(replace(book, scan_depth=3), "dragon", "b", "c") == [0, 1]
    assert activated_indices(replace(book, scan_depth=0), "dragon") == [1]


@pytest.mark.parametrize(
    ("selective_logic", "expected"),
    [
        (lorebook.AND_ANY, {"a b", "a c", "a b c"}),
        (lorebook.AND_ALL, {"a b c"}),
        (lorebook.NOT_ANY, {"a"}),
        (lorebook.NOT_ALL, {"a", "a b", "a c"}),
    ],
)
def test_secondary_keys(selective_logic: int, expected: set[str]) -> None:
    book = Book(entries({"keys": ("a",), "secondary_keys": ("b", "c"), "selective_logic": selective_logic}))
    texts = ("a", "b", "c", "a b", "a c", "b c", "a b c")
    assert {text for text in texts if activated_indices(book, text)} == expected


def test_the_order_is_that_of_insertion_then_of_the_book() -> None:
    orders = (5, 1, 5, 0, 1)
    book = Book(entries(*({"constant": True, "order": order} for order in orders)))
    assert activated_indices(book) == [3, 1, 4, 0, 2]


def test_what_does_not_fit_goes_by_priority_and_constants_stay() -> None:
    size = {"content": "x" * 30, "keys": ("k",)}
    book = Book(
        entries(
            {**size, "priority": 1},
            {**size, "priority": 9},
            {**size, "priority": 5},
            {**size, "constant": True},
        ),
        token_budget=20,
    )
    assert tokens("x" * 30) == 10
    assert activated_indices(book, "k") == [1, 3]
    assert activated_indices(replace(book, token_budget=39), "k") == [1, 2, 3]
    assert activated_indices(replace(book, token_budget=0), "k") == []


def test_of_one_that_does_not_fit_the_next_is_tried() -> None:
    book = Book(entries({"constant": True, "content": "x" * 90}, {"constant": True, "content": "x"}), token_budget=5)
    assert activated_indices(book) == [1]


def test_a_book_never_takes_more_than_half_of_the_context() -> None:
    assert budget(Book((), token_budget=10**9), 1000) == 500
    assert budget(Book(()), 1000) == 250
    assert budget(Book((), token_budget=100), 1000) == 100


def test_what_is_told_calls_up_more_in_a_recursive_book() -> None:
    made = entries(
        {"keys": ("dragon",), "content": "It guards the castle."},
        {"keys": ("castle",), "content": "A king built it.{{hidden_key:sword}}"},
        {"keys": ("king",), "content": "dragon"},
        {"keys": ("sword",)},
    )
    assert activated_indices(Book(made), "dragon") == [0]
    assert activated_indices(Book(made, recursive=True), "dragon") == [0, 1, 2, 3]
    deaf = (made[0], replace(made[1], exclude_recursion=True), *made[2:])
    assert activated_indices(Book(deaf, recursive=True), "dragon") == [0]
    silent = (made[0], replace(made[1], prevent_recursion=True), *made[2:])
    assert activated_indices(Book(silent, recursive=True), "dragon") == [0, 1]
    late = (made[0], replace(made[1], delay_until_recursion=True), *made[2:])
    assert activated_indices(Book(late, recursive=True), "castle") == []
    assert activated_indices(Book(late, recursive=True), "dragon") == [0, 1, 2, 3]


def test_recursion_ends() -> None:
    made = entries(*({"keys": (f"<{at}>",), "content": f"<{at + 1}>"} for at in range(50)))
    assert activated_indices(Book(made, recursive=True), "<0>") == list(range(lorebook.MAX_RECURSION_ROUNDS + 1))


def test_excluded_words_keep_an_entry_away() -> None:
    book = Book(entries({"keys": ("dragon",), "exclude_keys": ("toy",)}))
    assert activated_indices(book, "a dragon") == [0]
    assert activated_indices(book, "a toy dragon") == []


def test_macros_in_keys_and_contents() -> None:
    book = Book(entries({"keys": ("{{user}}",), "content": "{{char}} knows {{user}}."}))
    assert [each.text for each in activate_entries(book, ["I am Ann"], MACRO_VALUES, CONTEXT)] == ["Robo knows Ann."]


def test_by_chance_but_by_the_seed() -> None:
    book = Book(entries(*({"constant": True, "probability": 50} for _ in range(100))))
    assert activated_indices(book) == activated_indices(book)
    assert 20 < len(activated_indices(book)) < 80
    assert activated_indices(book) != activated_indices(book, macro_values=replace(MACRO_VALUES, seed=8))


@given(BOOKS, MESSAGES, st.integers(0, 2000))
def test_of_any_book(book: Book, texts: list[str], context: int) -> None:
    found = activate_entries(book, texts, MACRO_VALUES, context)
    places = [(each.entry.order, each.entry.index) for each in found]
    assert places == sorted(set(places))
    assert sum(tokens(each.text) for each in found) <= budget(book, context)
    assert activate_entries(book, texts, MACRO_VALUES, context) == found
    assert all(each.text and each.entry.probability > 0 for each in found)
    shuffled = replace(book, entries=tuple(reversed(book.entries)))
    assert activate_entries(shuffled, texts, MACRO_VALUES, context) == found


@given(BOOKS, MESSAGES)
def test_an_entry_is_told_only_with_a_reason(book: Book, texts: list[str]) -> None:
    """Where there is room and no recursion: exactly what the specification says of each entry by itself."""
    book = replace(book, token_budget=10**6, recursive=False)
    found = {each.entry.index for each in activate_entries(book, texts, MACRO_VALUES, 10**6)}
    for entry in book.entries:
        depth = book.scan_depth if entry.scan_depth is None else entry.scan_depth
        searched = "\n".join(texts[-depth:] if depth else [])
        has = [key in searched for key in entry.secondary_keys]
        agrees = not has or [any(has), not all(has), not any(has), all(has)][entry.selective_logic]
        called = entry.constant or (any(key in searched for key in entry.keys) and agrees)
        barred = entry.delay_until_recursion or any(key in searched for key in entry.exclude_keys)
        if not called or barred:
            assert entry.index not in found
        elif entry.probability == 100 and entry.content.replace("{{hidden_key:king}}", "").strip():
            assert entry.index in found


def test_many_keys_are_looked_for_in_less_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched, times what it is searched for, has a limit: the newest text is searched."""
    monkeypatch.setattr(lorebook, "MAX_COMPARISONS", 12_000)
    book = Book(entries(*({"keys": (f"key{at:03}",)} for at in range(100))))
    assert activated_indices(book, "key001", "key002") == [1, 2]
    far = ("key001" + "x" * 20, "key002")
    assert activated_indices(book, *far) == [2]
    assert activated_indices(replace(book, entries=book.entries[:50]), *far) == [1, 2]


def test_a_long_conversation_is_searched_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lorebook, "MAX_SCAN_LENGTH", 10)
    book = Book(entries({"keys": ("old",)}, {"keys": ("new",)}))
    assert activated_indices(book, "old" + "x" * 20 + "new") == [1]


def test_a_book_of_thousands_of_entries() -> None:
    made = entries(*({"keys": (f"word {at:04}",), "content": "x" * 700} for at in range(5000)))
    assert activated_indices(Book(made, recursive=True), "word 4999 " + "y" * 30_000 + " word 0017 ") == [17, 4999]
