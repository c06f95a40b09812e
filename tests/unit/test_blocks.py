"""Block tables: what a prompt finds, what is shared, what goes first, and that memory holds what the tables say."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatui.engine.batching import block_digests
from chatui.engine.batching.block_digests import BlockDigests, chain_digest
from chatui.engine.batching.block_table import HOLE, Block, BlockTable
from chatui.engine.batching.blocks import BLOCK, BlockPool
from chatui.engine.batching.window_blocks import WindowBlocks
from chatui.estimates import MAX_CHUNK, blocks_for, blocks_held
from tests.examples import some_of

LONG = list(range(1000, 1000 + 3 * BLOCK + 10))


class Memory:
    """Blocks that hold tokens instead of keys and values; None is a zero."""

    def __init__(self, count: int) -> None:
        self.blocks: list[list[int | None]] = [[None] * BLOCK for _ in range(count + 1)]

    def copy(self, source: int, target: int, count: int) -> None:
        self.blocks[target][:count] = self.blocks[source][:count]

    def clear(self, block: int) -> None:
        self.blocks[block] = [None] * BLOCK

    @property
    def tokens(self) -> set[int | None]:
        return {token for block in self.blocks for token in block} - {None}


class Pool(BlockPool):
    """A pool whose tables are written to as a forward pass does."""

    def __init__(self, count: int = 20, window: int | None = None) -> None:
        self.memory, windowed = Memory(count), self.new_windowed()
        super().__init__(count, self.memory, window, windowed)

    def new_windowed(self) -> WindowBlocks | None:
        """Where layers with a window have blocks, if those are a group of their own."""
        return None

    def store(self, table: BlockTable, ids: Sequence[int]) -> None:
        for at, token in enumerate(ids, table.length):
            assert table.blocks[at // BLOCK] is not HOLE
            self.memory.blocks[table.blocks[at // BLOCK].number][at % BLOCK] = token
        self.fill(table, ids)

    def read(self, ids: Sequence[int], chat: str = "") -> BlockTable:
        """A table that holds all of the prompt."""
        table = self.open(BlockDigests(ids), chat)
        assert table is not None
        assert self.read_on(table, ids)
        return table

    def read_on(self, table: BlockTable, ids: Sequence[int]) -> bool:
        """Read the rest in pieces, as far as there are blocks; whether that was all."""
        while piece := ids[table.length : table.length + MAX_CHUNK]:
            if not self.grow(table, len(piece)):
                return False
            self.store(table, piece)
        return True

    def cache(self, ids: Sequence[int], chat: str = "") -> list[int]:
        """Read a prompt and leave; the blocks that it had."""
        table = self.read(ids, chat)
        numbers = table.numbers
        self.close(table)
        return numbers

    def held(self, table: BlockTable) -> list[int | None]:
        """All that is stored, but for holes."""
        numbers = table.numbers[table.gone :]
        return [token for number in numbers for token in self.memory.blocks[number]][
            : table.length - BLOCK * table.gone
        ]


def opened(pool: Pool, ids: Sequence[int], chat: str = "") -> BlockTable:
    table = pool.open(BlockDigests(ids), chat)
    assert table is not None
    return table


def known(pool: Pool, ids: Sequence[int]) -> int:
    """How many tokens of a prompt are cached."""
    found = pool._find(BlockDigests(ids), "")
    return BLOCK * len(found.whole) + found.common


def test_the_same_beginning_is_in_the_same_blocks() -> None:
    pool = Pool()
    first = pool.read([*LONG, 1])
    second = opened(pool, [*LONG, 2])
    assert second.numbers[:3] == first.numbers[:3]
    assert second.numbers[3] != first.numbers[3], "the last, which is not full, is copied"
    assert second.length == len(LONG)
    assert pool.held(second) == LONG


def test_a_conversation_goes_on_in_its_own_last_block() -> None:
    pool = Pool()
    numbers = pool.cache(LONG)
    table = opened(pool, [*LONG, *range(BLOCK)])
    assert table.numbers[:4] == numbers
    assert table.length == len(LONG)
    assert len(table.numbers) == blocks_for(len(LONG) + BLOCK)


def test_the_last_token_is_read_anew() -> None:
    pool = Pool()
    for ids in (LONG, LONG[: 2 * BLOCK], [7]):
        pool.cache(ids)
        table = opened(pool, ids)
        assert table.length == len(ids) - 1
        pool.close(table)


def test_where_prompts_part_within_a_block_the_beginning_is_copied_and_the_other_stays() -> None:
    pool = Pool()
    pool.cache(LONG)
    table = pool.read([*LONG[:100], 1, 2, 3])
    assert pool.held(table) == [*LONG[:100], 1, 2, 3]
    pool.close(table)
    again = opened(pool, [*LONG, 5])
    assert again.length == len(LONG)
    assert pool.held(again) == LONG


def test_tables_with_another_salt_share_nothing() -> None:
    pool = Pool()
    pool.cache(LONG)
    salted = pool.open(BlockDigests([*LONG, 1], b"other"))
    assert salted is not None
    assert salted.length == 0
    pool.store(salted, LONG)
    pool.close(salted)
    for salt in (b"", b"other"):
        table = pool.open(BlockDigests([*LONG, 2], salt))
        assert table is not None
        assert table.length == len(LONG)
        assert pool.held(table) == LONG
        assert (table.numbers[0] == 1) == (salt == b"")
    assert known(pool, LONG[:20]) == 19


def test_a_prompt_that_waits_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, hashed = Pool(5), list[int]()
    pool.cache([1] * (3 * BLOCK))
    taken, waiting = pool.read([2] * BLOCK), BlockDigests([1] * (5 * BLOCK))

    def counted(before: bytes, tokens: Sequence[int]) -> bytes:
        hashed.append(len(tokens))
        return chain_digest(before, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(block_digests, "chain_digest", counted)
        for _ in range(5):
            assert not pool.fits(waiting)
        assert hashed == [BLOCK] * 4, "those that are cached, and one more"
    pool.close(taken)
    table = pool.open(waiting)
    assert table is not None
    assert pool.held(table) == [1] * (3 * BLOCK)
    assert table.digest == BlockDigests([1] * (3 * BLOCK)).of(3)


def test_what_is_being_written_is_found_too() -> None:
    pool = Pool()
    going_on = pool.read(LONG[:30])
    other = opened(pool, LONG[:50])
    assert other.length == 30
    assert other.numbers[0] != going_on.numbers[0]


def test_the_least_recently_used_goes_first_and_the_end_before_the_beginning() -> None:
    pool = Pool(6)
    for token in (1, 2):
        pool.cache([token] * (2 * BLOCK))
    pool.close(opened(pool, [1] * (2 * BLOCK + 1)))
    pool.cache([3] * (3 * BLOCK))
    assert (known(pool, [1] * 200), known(pool, [2] * 200)) == (2 * BLOCK, BLOCK)
    pool = Pool(4)
    pool.cache([1] * (3 * BLOCK))
    pool.cache([2] * (2 * BLOCK))
    assert (known(pool, [1] * 200), known(pool, [2] * 200)) == (2 * BLOCK, 2 * BLOCK)


def test_there_is_none_where_the_blocks_are_in_use() -> None:
    pool = Pool(4)
    table = pool.read(LONG[: 3 * BLOCK])
    assert not pool.fits(BlockDigests([1] * (2 * BLOCK)))
    assert pool.open(BlockDigests([1] * (2 * BLOCK))) is None
    assert pool.fits(BlockDigests([1] * BLOCK))
    assert not pool.fits(BlockDigests([1] * BLOCK), spare=1)
    assert pool.grow(table, BLOCK)
    assert not pool.grow(table, BLOCK + 1)
    assert len(table.blocks) == 4
    pool.close(table)
    assert pool.fits(BlockDigests([1] * (4 * BLOCK)))


def test_a_full_pool_makes_room_for_a_prompt_that_goes_on_differently() -> None:
    pool = Pool(4)
    pool.cache(LONG)
    table = pool.read([*LONG[:-5], 1, 2])
    assert pool.held(table) == [*LONG[:-5], 1, 2]


class TestChatsThatAreForgotten:
    def test_nothing_is_left_of_it_and_others_stay(self) -> None:
        pool = Pool()
        pool.cache([1, 2, 3])
        pool.cache([4, 5, 6], "other")
        pool.cache([7, 8, 9, 10], "passing")
        pool.cache([7, 8, 9, 12], "passing")
        pool.forget("passing")
        assert pool.memory.tokens == {1, 2, 3, 4, 5, 6}
        pool.forget("")
        assert pool.memory.tokens == {1, 2, 3, 4, 5, 6}

    def test_nobody_else_finds_it_and_it_finds_what_all_may_read(self) -> None:
        pool = Pool()
        pool.cache(LONG)
        private = pool.read([*LONG[: 2 * BLOCK], *range(BLOCK), 5], "passing")
        assert opened(pool, [*LONG[: 2 * BLOCK], *range(BLOCK), 5]).length == 2 * BLOCK
        assert opened(pool, [*LONG[: 2 * BLOCK], *range(BLOCK), 5], "other").length == 2 * BLOCK
        pool.close(private)
        assert opened(pool, [*LONG[: 2 * BLOCK], *range(BLOCK), 5], "passing").length == 3 * BLOCK

    def test_it_does_not_write_into_blocks_of_others(self) -> None:
        pool = Pool()
        pool.cache(LONG)
        pool.cache([*LONG, 1, 2], "passing")
        pool.forget("passing")
        assert opened(pool, [*LONG, 9]).length == len(LONG)

    def test_blocks_that_make_room_are_cleared(self) -> None:
        pool = Pool(4)
        pool.cache(LONG, "passing")
        pool.read([1])
        assert LONG[-1] not in pool.memory.tokens


def test_what_is_discarded_is_cleared_when_its_last_user_has_gone() -> None:
    pool = Pool()
    victim = pool.read([*LONG, 1])
    other = pool.read([*LONG, 2])
    pool.discard(victim)
    assert pool.held(other) == [*LONG, 2]
    assert opened(pool, [*LONG, 3]).length == 0
    pool.close(other)
    assert pool.memory.tokens <= {2, *LONG[3 * BLOCK :]}, "but what the other wrote itself"


def test_clearing_leaves_nothing() -> None:
    pool = Pool()
    pool.cache(LONG)
    pool.clear()
    assert (pool.free, pool.cached, pool.memory.tokens) == (20, 0, set())


class TestWindows:
    """Of 100 tokens: those behind a full block see at most two whole ones."""

    LONG = tuple(range(20 * BLOCK + 10))

    def test_a_long_prompt_needs_only_blocks_for_its_window_and_what_is_read_at_once(self) -> None:
        pool = Pool(blocks_held(len(self.LONG), 100), 100)
        assert pool.count == 7
        table = pool.read(self.LONG)
        assert pool.held(table)[-99:] == list(self.LONG[-99:])
        assert table.numbers[:14] == [0] * 14
        assert pool.grow(table, 1)
        assert (table.gone, table.numbers[:18]) == (18, [0] * 18)
        assert len(set(table.numbers[18:])) == len(table.numbers[18:]) <= 7

    def test_its_end_is_found_though_its_beginning_has_gone(self) -> None:
        pool = Pool(8, 100)
        pool.cache(self.LONG)
        table = opened(pool, [*self.LONG, 1, 2])
        assert (table.length, table.gone) == (len(self.LONG), 18)
        assert pool.held(table) == list(self.LONG[18 * BLOCK :])

    def test_without_one_of_the_last_blocks_an_earlier_end_is_found_or_none(self) -> None:
        for gone, found in ((19, 19), (18, 18), (0, 20), (17, 20)):
            pool = Pool(30, 100)
            pool.cache(self.LONG)
            pool._drop(pool._whole["", BlockDigests(self.LONG).of(gone + 1)])
            assert known(pool, [*self.LONG, 1]) // BLOCK == found
        pool = Pool(30, 100)
        pool.cache(self.LONG)
        for count in (2, 4, 6, 8, 10, 12, 14, 16, 18, 20):
            pool._drop(pool._whole["", BlockDigests(self.LONG).of(count)])
        assert known(pool, [*self.LONG, 1]) == BLOCK, "nothing is behind the first"

    def test_what_somebody_else_sees_is_not_let_go_of(self) -> None:
        pool = Pool(30, 100)
        first = pool.read(self.LONG[: 5 * BLOCK])
        second = pool.read([*self.LONG[: 5 * BLOCK], 1])
        shared = second.numbers[3:5]
        assert shared == first.numbers[3:5]
        assert pool.read_on(second, [*self.LONG[: 5 * BLOCK], *[1] * (5 * BLOCK)])
        assert second.numbers[3:5] == [0, 0]
        assert first.numbers[3:5] == shared
        assert pool.held(first)[-99:] == list(self.LONG[5 * BLOCK - 99 : 5 * BLOCK])

    def test_a_table_skips_to_a_window_only_where_there_are_blocks_for_it(self) -> None:
        pool, digests = Pool(12, 100), BlockDigests(self.LONG)
        first = pool.read(self.LONG[:128])
        table = pool.open(digests)
        assert table is not None
        assert pool.skip(table, digests, 20)
        assert (table.length, table.gone, pool.is_whole(table)) == (18 * BLOCK, 18, False)
        pool.store(table, self.LONG[table.length :])
        assert pool.is_whole(table)
        assert table.digest == digests.of(20)
        pool.close(table)
        others = pool.read([7] * (2 * BLOCK))
        table = pool.open(digests)
        assert table is not None
        assert table.length == len(self.LONG) - 1, "now it is found"
        for each in (first, others, table):
            pool.close(each)
        pool.clear()
        assert pool.free == pool.count

    def test_a_table_that_shares_blocks_may_have_no_room_to_skip(self) -> None:
        """Those that others use stay where they are."""
        pool, digests = Pool(8, 100), BlockDigests(self.LONG)
        pool.read(self.LONG[:129])
        table = pool.open(digests)
        assert table is not None
        before = table.numbers
        assert not pool.skip(table, digests, 10)
        assert (table.length, table.numbers) == (129, before)


WINDOWS = st.sampled_from([None, None, 1, 2, BLOCK, BLOCK + 1, BLOCK + 2, 100])
PROMPTS = st.builds(
    lambda start, repeats, end: [*[start] * repeats, *end],
    st.integers(0, 1),
    st.sampled_from([0, 5, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 8 * BLOCK, 12 * BLOCK]),
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
)
CHATS = st.sampled_from(["", "", "a", "b"])
SECRET = ord("a")
"""Chats with a name write the number of their name, which no prompt has."""


class Machine(RuleBasedStateMachine):
    """Rows come, write and go in any order; `tables` mirrors what each of them has stored."""

    @initialize(count=st.integers(3, 16), window=WINDOWS)
    def start(self, count: int, window: int | None) -> None:
        self.begin(Pool(count, window), window, window)

    def begin(self, pool: Pool, window: int | None, window_of_all: int | None) -> None:
        """Layers have the `window`, or None of them does; all have the second one."""
        self.pool, self.window, self.window_of_all, self.rows = pool, window, window_of_all, 100
        self.tables: dict[BlockTable, list[int]] = {}

    @rule(ids=PROMPTS, chat=CHATS, spare=st.integers(0, 1), skips=st.booleans())
    def come(self, ids: list[int], chat: str, spare: int, skips: bool) -> None:
        if len(self.tables) == self.rows:
            return
        digests = BlockDigests(ids)
        fits = self.pool.fits(digests, chat, spare)
        table = self.pool.open(digests, chat, spare)
        assert (table is not None) == fits
        if table is None:
            assert self.tables or blocks_held(len(ids), self.window_of_all) + spare > self.pool.count
            return
        assert table.length < len(ids)
        assert self.pool.held(table) == ids[BLOCK * table.gone : table.length]
        assert self.pool.is_whole(table)
        self.tables[table] = ids[: table.length]
        whole = (len(ids) - 1) // BLOCK
        if skips and self.pool.unseen(whole) > table.length // BLOCK and self.pool.skip(table, digests, whole):
            # Nobody sees this until it is whole.
            assert self.pool.grow(table, BLOCK * whole - table.length)
            self.pool.store(table, ids[table.length : BLOCK * whole])
            assert self.pool.is_whole(table)
        has_room = self.pool.read_on(table, ids)
        self.tables[table] = ids[: table.length]
        if not has_room:
            assert len(self.tables) > 1
            self.leaves(table, fails=False)

    def leaves(self, table: BlockTable, fails: bool) -> None:
        del self.tables[table]
        if fails:
            self.pool.discard(table)
        else:
            self.pool.close(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), ids=st.lists(st.integers(0, 2), min_size=1, max_size=70))
    def go_on(self, data: st.DataObject, ids: list[int]) -> None:
        table = data.draw(st.sampled_from(list(self.tables)))
        ids = [ord(table.chat)] * len(ids) if table.chat else ids
        if self.pool.grow(table, len(ids)):
            self.pool.store(table, ids)
            self.tables[table] += ids

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), fails=st.booleans())
    def leave(self, data: st.DataObject, fails: bool) -> None:
        table = data.draw(st.sampled_from(list(self.tables)))
        self.leaves(table, fails)

    @rule(chat=CHATS)
    def forget(self, chat: str) -> None:
        self.pool.forget(chat)
        assert not any(chat and block.chat == chat for block in self.pool._cached)

    @invariant()
    def tables_hold_what_was_stored(self) -> None:
        for table, stored in self.tables.items():
            assert table.length == len(stored)
            assert self.pool.held(table) == stored[BLOCK * table.gone :]
            assert table.digest == BlockDigests(stored).of(len(stored) // BLOCK)

    @invariant()
    def all_that_is_seen_is_there(self) -> None:
        assert (HOLE.users, HOLE.tokens, HOLE.spoiled) == (1, [], False)
        for table, stored in self.tables.items():
            first_seen = 0 if self.window is None else max(0, len(stored) - self.window + 1)
            assert BLOCK * table.gone <= first_seen
            holes = 0 if self.window_of_all is None else table.gone
            assert all((block is HOLE) == (at < holes) for at, block in enumerate(table.blocks))

    @invariant()
    def blocks_are_counted(self) -> None:
        used = {block for table in self.tables for block in table.held}
        assert self.pool.free + self.pool.cached + len(used) == self.pool.count
        numbers = [*self.pool._unused, *(block.number for block in (*self.pool._cached, *used))]
        assert sorted(numbers) == list(range(1, self.pool.count + 1))
        for block in used:
            tables = [table for table in self.tables if block in table.blocks]
            assert block.users == len(tables)
            assert len(tables) == 1 or len(block.tokens) == BLOCK, "only full blocks are shared"
            assert all(block.chat in ("", table.chat) for table in tables)

    @invariant()
    def what_is_listed_can_be_found_and_is_sound(self) -> None:
        listed: list[Block] = [block for blocks in self.pool._following.values() for block in blocks]
        assert not any(block.spoiled for block in listed)
        assert set(self.pool._cached) <= set(listed)
        assert set(self.pool._whole.values()) == {block for block in listed if len(block.tokens) == BLOCK}

    @invariant()
    def cached_blocks_hold_what_they_say(self) -> None:
        for block in self.pool._cached:
            assert self.pool.memory.blocks[block.number][: len(block.tokens)] == block.tokens

    @invariant()
    def what_a_chat_alone_has_written_lies_in_its_own_blocks(self) -> None:
        chats = {block.number: block.chat for table in self.tables for block in table.blocks}
        chats |= {block.number: block.chat for block in self.pool._cached}
        for number, tokens in enumerate(self.pool.memory.blocks):
            for token in tokens:
                assert token is None or token < SECRET or chats[number] == chr(token)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=some_of(60), stateful_step_count=25, deadline=None)


@given(st.lists(PROMPTS, min_size=1, max_size=6), WINDOWS)
def test_alone_in_a_pool_there_is_always_room_for_what_fits_it(prompts: list[list[int]], window: int | None) -> None:
    pool = Pool(max(blocks_held(len(ids), window) for ids in prompts), window)
    for ids in prompts:
        pool.cache(ids)
