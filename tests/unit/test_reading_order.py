"""Whose prompts a pass reads: nobody starves, and short prompts do not wait for long ones."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.engine.batching.reading_order import MIN_CHUNK, ReadingOrder


@dataclass(eq=False)
class Prompt:
    user: str
    unread: int


class Reader:
    """Reads pass by pass. As in a Scheduler, rows arrive between passes."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.order = ReadingOrder()
        self.rows: list[Prompt] = []

    def add(self, user: str, tokens: int) -> Prompt:
        row = Prompt(user, tokens)
        self.rows.append(row)
        return row

    def read(self) -> dict[Prompt, int]:
        counts = self.order.plan(self.rows, self.tokens)
        for row, count in counts.items():
            row.unread -= count
        self.order.record(counts)
        self.rows = [row for row in self.rows if row.unread]
        return counts


SIZES = st.sampled_from([1, 3, 15, 16, 40, 64, 100, 256, 257, 1000, 30_000])
ARRIVALS = st.lists(st.lists(st.tuples(st.sampled_from("abcde"), SIZES), max_size=4), min_size=1, max_size=25)
BUDGETS = st.sampled_from([8, 16, 32, 64, 128, 256])


@given(BUDGETS, ARRIVALS)
def test_a_pass_reads_what_it_may_and_no_crumbs(tokens: int, arrivals: list[list[tuple[str, int]]]) -> None:
    reader = Reader(tokens)
    for coming in arrivals:
        for user, size in coming:
            reader.add(user, size)
        before = {row: row.unread for row in reader.rows}
        counts = reader.read()
        assert bool(counts) == bool(before)
        assert all(0 < count <= before[row] for row, count in counts.items())
        assert sum(counts.values()) <= reader.tokens
        for row, count in list(counts.items())[1:]:
            assert count >= min(MIN_CHUNK, before[row])


@given(st.sampled_from([16, 64, 256]), st.lists(st.tuples(st.sampled_from("abcde"), SIZES), min_size=1, max_size=20))
def test_no_prompt_ends_later_than_if_all_users_shared_each_pass(tokens: int, prompts: list[tuple[str, int]]) -> None:
    reader = Reader(tokens)
    rows = [reader.add(user, size) for user, size in prompts]
    shared = when_shared([(row.user, row.unread) for row in rows])
    read = 0
    while reader.rows:
        before = set(reader.rows)
        read += sum(reader.read().values())
        for row in before - set(reader.rows):
            assert read <= shared[rows.index(row)] + tokens, "it ends with the pass in which it would end"


def when_shared(prompts: list[tuple[str, int]]) -> list[float]:
    """After how many tokens in all each prompt would end, if each token were shared by users, and by their prompts."""
    rests, ends, total = [float(size) for _, size in prompts], [0.0] * len(prompts), 0.0
    while any(rests):
        own = Counter(prompts[at][0] for at, rest in enumerate(rests) if rest)
        rates = {at: 1 / len(own) / own[prompts[at][0]] for at, rest in enumerate(rests) if rest}
        spent = min(rests[at] / rate for at, rate in rates.items())
        total += spent
        for at, rate in rates.items():
            rests[at] -= spent * rate
            if rests[at] < 1e-6:
                rests[at], ends[at] = 0.0, total
    return ends


@pytest.mark.parametrize("count", [2, 8])
def test_prompts_of_one_length_are_read_one_after_another(count: int) -> None:
    """Read in turns all would end together, at the very end."""
    reader = Reader(256)
    rows = [reader.add(f"user {number}", 780) for number in range(count)]
    ended = list[int]()
    while reader.rows:
        reader.read()
        ended.append(sum(not row.unread for row in rows))
    assert ended == [(passed + 1) * 256 // 780 for passed in range(len(ended) - 1)] + [count]


@given(
    st.sampled_from([32, 64, 128, 256]),
    st.lists(st.sampled_from([300, 5000, 30_000]), max_size=12),
    st.lists(st.lists(st.tuples(st.sampled_from("ab"), SIZES), max_size=3), min_size=15, max_size=15),
    st.data(),
)
def test_a_short_newcomer_waits_for_no_more_passes_than_there_are_users(
    budget: int, longs: list[int], floods: list[list[tuple[str, int]]], data: st.DataObject
) -> None:
    """Two users send as many prompts of any size as they like, before it comes and after."""
    reader = Reader(budget)
    for at, tokens in enumerate(longs):
        reader.add("ab"[at % 2], tokens)
    for coming in floods[:5]:
        for user, tokens in coming:
            reader.add(user, tokens)
        reader.read()
    newcomer = reader.add("new", data.draw(st.integers(1, reader.tokens // 2)))
    for coming in floods[5:8]:
        reader.read()
        for user, tokens in coming:
            reader.add(user, tokens)
    assert newcomer.unread == 0


@pytest.mark.parametrize("longs", [0, 1, 15])
def test_a_short_newcomer_is_read_with_the_next_pass(longs: int) -> None:
    reader = Reader(128)
    for _ in range(longs):
        reader.add("a", 30_000)
    reader.read()
    newcomer = reader.add("b", 50)
    counts = reader.read()
    assert newcomer.unread == 0
    assert sum(counts.values()) == (128 if longs else 50), "what is left is for those who wait"


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), SIZES), max_size=3), min_size=1, max_size=10))
def test_a_long_prompt_gets_its_share_whatever_two_others_send(floods: list[list[tuple[str, int]]]) -> None:
    reader = Reader(256)
    one = reader.add("one", 5000)
    passes = 0
    while one.unread:
        for user, tokens in floods[passes % len(floods)]:
            reader.add(user, tokens)
        reader.read()
        passes += 1
    assert passes <= 3 * 5000 / 256 + 2


def test_who_sends_many_prompts_has_no_larger_share() -> None:
    reader = Reader(64)
    crowd = [reader.add("a", 1000) for _ in range(10)]
    reader.read()
    one = reader.add("b", 1000)
    passes = 0
    while one.unread:
        reader.read()
        passes += 1
    assert passes <= 2 * 1000 / 64 + 2
    assert sum(row.unread for row in crowd) >= 10_000 - 1000 - 3 * 64


def test_of_prompts_that_have_ended_nothing_is_kept() -> None:
    reader = Reader(64)
    for number in range(20):
        reader.add(f"user {number}", 30)
        reader.read()
    assert len(reader.order._rests) <= 1


def test_a_prompt_that_is_read_again_from_its_start_has_lost_its_place() -> None:
    reader = Reader(64)
    again, other = reader.add("a", 100), reader.add("b", 120)
    reader.read()
    again.unread = 100
    reader.order.forget(again)
    reader.add("c", 80)
    assert list(reader.read()) == [reader.rows[-1]]
    assert other.unread == 120
