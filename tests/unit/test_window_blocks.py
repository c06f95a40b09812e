"""Places of layers with a window: who sees them, that they never run out, and that memory holds what tables see."""

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from chatui.engine.batching.block_digests import BlockDigests
from chatui.engine.batching.block_table import Block, BlockTable
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.window_blocks import WindowBlocks
from chatui.estimates import blocks_held
from tests.examples import some_of
from tests.unit.test_blocks import SECRET, Machine, Memory, Pool, known

LONG = tuple(range(20 * BLOCK + 10))
UNLIMITED = 10**6
"""Tokens of a conversation."""


class MixedPool(Pool):
    """A pool whose tables are written to in both groups of layers."""

    def __init__(self, count: int, window: int, rows: int) -> None:
        """Layers with the window have what so many rows see at once."""
        self.windows, self.places = Memory(count), [0] * (count + 1)
        self._given = WindowBlocks(
            min(count, rows * blocks_held(UNLIMITED, window)), self.windows, window, self.places.__setitem__
        )
        super().__init__(count)

    def new_windowed(self) -> WindowBlocks:
        return self._given

    def store(self, table: BlockTable, ids: Sequence[int]) -> None:
        for at, token in enumerate(ids, table.length):
            if at // BLOCK >= table.gone:  # else what comes from elsewhere is not seen
                place = table.blocks[at // BLOCK].place
                assert place
                self.windows.blocks[place][at % BLOCK] = token
        super().store(table, ids)

    def seen(self, table: BlockTable) -> list[int | None]:
        """What layers with a window have of the blocks that are not gone."""
        tokens = [token for block in table.blocks[table.gone :] for token in self.windows.blocks[block.place]]
        return tokens[: table.length - BLOCK * table.gone]

    @property
    def used_places(self) -> int:
        """How many places tables see."""
        return self._given.count - len(self._given._unused) - len(self._given._cached)

    def with_places(self) -> list[Block]:
        return [block for blocks in self._following.values() for block in blocks if block.place]


def opened(pool: MixedPool, ids: Sequence[int]) -> BlockTable:
    table = pool.open(BlockDigests(ids))
    assert table is not None
    return table


def test_layers_with_a_window_hold_no_more_than_is_seen_and_the_others_all() -> None:
    pool = MixedPool(30, 100, rows=1)
    assert pool._given.count == 7
    table = pool.read(LONG)
    assert pool.memory.tokens == set(LONG)
    assert pool.seen(table)[-99:] == list(LONG[-99:])
    assert pool.grow(table, 1)
    assert (table.gone, pool.used_places) == (18, 3)
    pool.close(table)
    assert pool.used_places == 0


def test_a_prompt_goes_on_where_all_blocks_and_the_last_places_are_there() -> None:
    pool = MixedPool(60, 100, rows=1)
    pool.cache(LONG)
    table = opened(pool, [*LONG, 1])
    assert (table.length, table.gone) == (len(LONG), 18)
    assert pool.seen(table) == list(LONG[18 * BLOCK :])
    assert pool.held(table) == list(LONG[18 * BLOCK :])
    pool.close(table)
    assert known(pool, [*LONG[: 10 * BLOCK], 1]) == 0, "its window is gone"
    pool.cache([7] * (4 * BLOCK))
    assert known(pool, [*LONG, 1]) == len(LONG), "what is seen goes last"
    pool.cache([8] * BLOCK)
    assert known(pool, [*LONG, 1]) == 20 * BLOCK, "and of that the end goes first"


def test_what_was_read_again_for_its_window_is_found_the_next_time() -> None:
    pool = MixedPool(60, 100, rows=1)
    pool.cache(LONG)
    numbers = pool.cache(LONG[: 10 * BLOCK])
    assert numbers[0] != 1, "in other blocks"
    assert known(pool, [*LONG[: 10 * BLOCK], 1]) == 10 * BLOCK
    assert not any(block.number == 10 for block in pool._cached), "of the same tokens nothing stays twice"


def test_the_copy_of_a_block_is_one_in_both_groups() -> None:
    pool = MixedPool(30, 100, rows=1)
    pool.cache(LONG[:100])
    table = pool.read([*LONG[:90], 1, 2])
    assert pool.seen(table) == pool.held(table) == [*LONG[:90], 1, 2]


def test_a_place_with_a_part_of_a_block_is_given_back_where_the_rest_comes_from_elsewhere() -> None:
    pool, digests = MixedPool(20, 1, rows=1), BlockDigests([5] * (2 * BLOCK + 1))
    pool.cache([*[5] * 63, 6])
    table = pool.open(digests)
    assert table is not None
    assert (table.length, table.blocks[0].place > 0) == (63, True)
    assert pool.skip(table, digests, 2)
    assert (table.gone, table.blocks[0].place, pool.is_whole(table)) == (1, 0, False)
    assert pool.grow(table, 2 * BLOCK - table.length)
    pool.store(table, [5] * (2 * BLOCK - table.length))
    assert pool.is_whole(table)
    pool.close(table)
    assert known(pool, [*[5] * BLOCK, 7]) < BLOCK, "layers with a window have nothing of the first block"


class MixedMachine(Machine):
    """As for one group of layers, and with no more rows than there are places for."""

    pool: MixedPool

    @initialize(
        count=st.integers(3, 16),
        window=st.sampled_from([1, 2, BLOCK, BLOCK + 1, BLOCK + 2, 100]),
        rows=st.integers(1, 4),
    )
    def start(self, count: int, window: int, rows: int) -> None:
        self.begin(MixedPool(count, window, rows), window, None)
        self.rows = rows

    @invariant()
    def layers_with_a_window_hold_what_is_seen(self) -> None:
        for table, stored in self.tables.items():
            assert self.pool.seen(table) == stored[BLOCK * table.gone :]
            others = [token for number in table.numbers for token in self.pool.memory.blocks[number]]
            assert others[: table.length] == stored, "the others hold all"

    @invariant()
    def places_are_counted(self) -> None:
        windowed, viewers = self.pool._given, dict[Block, int]()
        for table in self.tables:
            for block in table.blocks[table.gone :]:
                if block.place:
                    viewers[block] = viewers.get(block, 0) + 1
        assert all(block.viewers == count for block, count in viewers.items())
        assert self.pool.used_places == len(viewers)
        blocks = {*self.pool._cached, *(block for table in self.tables for block in table.blocks)}
        placed = [block for block in blocks if block.place]
        assert sorted([*windowed._unused, *(block.place for block in placed)]) == list(range(1, windowed.count + 1))
        assert self.pool.places == [
            next((block.place for block in placed if block.number == number), 0)
            for number in range(self.pool.count + 1)
        ]

    @invariant()
    def cached_places_hold_what_they_say(self) -> None:
        for block in self.pool.with_places():
            assert self.pool.windows.blocks[block.place][: len(block.tokens)] == block.tokens

    @invariant()
    def what_a_chat_alone_has_written_lies_in_its_own_places(self) -> None:
        chats = {block.place: block.chat for table in self.tables for block in table.blocks if block.place}
        chats |= {block.place: block.chat for block in self.pool._cached if block.place}
        for place, tokens in enumerate(self.pool.windows.blocks):
            for token in tokens:
                assert token is None or token < SECRET or chats[place] == chr(token)


TestMixedMachine = MixedMachine.TestCase
TestMixedMachine.settings = settings(max_examples=some_of(60), stateful_step_count=25, deadline=None)
