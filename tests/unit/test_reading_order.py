"""Whose prompts a pass reads: nobody starves, and short prompts do not wait for long ones."""

from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatui.engine.batching.reading_order import MIN_CHUNK, PATIENCE_SECONDS, ReadingOrder

PASS = 0.1
"""Seconds."""


@dataclass(eq=False)
class Prompt:
    user: str
    unread: int
    read_at: float
    is_short: bool


class Reader:
    """Reads pass by pass. As in a Scheduler, rows arrive between passes."""

    def __init__(self, tokens: int, long_tokens: int) -> None:
        self.tokens, self.long_tokens = tokens, long_tokens
        self.order, self.now = ReadingOrder(), 100.0
        self.rows: list[Prompt] = []

    def add(self, user: str, tokens: int) -> Prompt:
        self.now += PASS / 1000
        row = Prompt(user, tokens, self.now, tokens <= 256)
        self.rows.append(row)
        return row

    def read(self) -> dict[Prompt, int]:
        counts = self.order.plan(self.rows, self.tokens, self.long_tokens, self.now)
        self.now += PASS
        for row, count in counts.items():
            row.unread -= count
            row.read_at = self.now
        self.order.record(list(counts), self.now)
        users = {row.user for row in self.rows}
        self.rows = [row for row in self.rows if row.unread]
        for user in users - {row.user for row in self.rows}:
            self.order.forget(user)
        return counts


SIZES = st.sampled_from([1, 3, 15, 16, 40, 64, 100, 256, 257, 1000, 30_000])
ARRIVALS = st.lists(st.lists(st.tuples(st.sampled_from("abcde"), SIZES), max_size=4), min_size=1, max_size=25)
BUDGETS = st.sampled_from([(8, 8), (16, 8), (32, 8), (32, 32), (64, 16), (128, 32), (256, 64), (256, 256)])


@given(BUDGETS, ARRIVALS)
def test_a_pass_reads_what_it_may_and_no_crumbs(
    budgets: tuple[int, int], arrivals: list[list[tuple[str, int]]]
) -> None:
    reader = Reader(*budgets)
    for coming in arrivals:
        for user, tokens in coming:
            reader.add(user, tokens)
        before = {row: row.unread for row in reader.rows}
        counts = reader.read()
        assert bool(counts) == bool(before)
        assert all(0 < count <= before[row] for row, count in counts.items())
        assert sum(counts.values()) <= reader.tokens
        assert sum(count for row, count in counts.items() if not row.is_short) <= reader.long_tokens
        for row, count in list(counts.items())[1:]:
            assert count >= min(MIN_CHUNK, before[row], reader.long_tokens)


@given(BUDGETS, ARRIVALS)
@example((256, 64), [[("a", 257), ("b", 257)]])
def test_every_user_is_read_after_as_many_passes_as_there_were_users(
    budgets: tuple[int, int], arrivals: list[list[tuple[str, int]]]
) -> None:
    """Whatever the others send meanwhile, and whoever comes."""
    reader, allowed = Reader(*budgets), dict[str, int]()
    for coming in [*arrivals, *[[]] * 8]:
        for user, tokens in coming:
            reader.add(user, tokens)
        users = {row.user for row in reader.rows}
        read = {row.user for row in reader.read()}
        left = {row.user for row in reader.rows}
        for user in left:
            # Where others have come since, they are behind.
            allowed[user] = len(left | users) if user in read else allowed.get(user, len(users)) - 1
        allowed = {user: passes for user, passes in allowed.items() if user in left}
        assert all(passes > 0 for passes in allowed.values())


@given(
    st.sampled_from([(32, 32), (64, 16), (128, 32), (256, 64)]),
    st.lists(st.sampled_from([300, 5000, 30_000]), max_size=12),
    st.lists(st.lists(st.tuples(st.sampled_from("ab"), SIZES), max_size=3), min_size=15, max_size=15),
    st.data(),
)
def test_a_short_newcomer_waits_for_no_more_passes_than_there_are_users(
    budgets: tuple[int, int], longs: list[int], floods: list[list[tuple[str, int]]], data: st.DataObject
) -> None:
    """Two users send as many prompts of any size as they like, before it comes and after."""
    reader = Reader(*budgets)
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
    reader = Reader(128, 32)
    for _ in range(longs):
        reader.add("a", 30_000)
    reader.read()
    newcomer = reader.add("b", 50)
    counts = reader.read()
    assert newcomer.unread == 0
    assert sum(counts.values()) == 50 + (32 if longs else 0), "what is left is for those who wait"


def test_long_prompts_of_users_advance_alike() -> None:
    """Though one has sent many, and another sends short ones all the time."""
    reader = Reader(64, 64)
    crowd = [reader.add("a", 30_000) for _ in range(10)]
    one = reader.add("b", 30_000)
    for _ in range(90):
        reader.add("c", 20)
        reader.read()
    read = sum(30_000 - row.unread for row in crowd), 30_000 - one.unread
    assert abs(read[0] - read[1]) <= 64
    assert sum(read) >= 90 * 32


def test_of_ones_own_prompts_none_is_passed_over_for_long() -> None:
    reader = Reader(64, 64)
    rows = [reader.add("a", 1000 * (number + 1)) for number in range(5)]
    while reader.rows:
        reader.read()
        waits = [reader.now - row.read_at for row in rows if row.unread]
        assert max(waits, default=0.0) <= PATIENCE_SECONDS + 6 * PASS


def test_of_users_without_rows_nothing_is_kept() -> None:
    reader = Reader(64, 64)
    for number in range(20):
        reader.add(f"user {number}", 30)
        reader.read()
    assert reader.order._read_at == {}
