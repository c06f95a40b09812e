"""Where layers with a sliding window have blocks, in models whose other layers see all tokens. Pure.

The layers with a window are a group with fewer blocks than the others. A block has a place there from when tokens are
about to be stored in it until its place is needed for another one and no table sees it there: the least recently used
go first.

Places never run out. A table sees no more blocks than `blocks_held` at once, and no more than it has: so as many places
are enough as all tables may see at once, or as there are blocks.
"""

from collections.abc import Callable
from typing import Protocol

from chatui.engine.batching.block_table import Block, BlockTable


class Memory(Protocol):
    """The keys and values of all blocks."""

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy those of the first `count` tokens of one block to another."""

    def clear(self, block: int) -> None:
        """Overwrite a block with zeros."""


class WindowBlocks:
    """The places 1 to `count` of a memory."""

    def __init__(self, count: int, memory: Memory, window: int, set_place: Callable[[int, int], None]) -> None:
        """Layers see at most `window` tokens. `set_place` gets a block's number and its place, 0 for none."""
        self.count, self.window = count, window
        self._memory, self._set_place = memory, set_place
        self._unused = list(range(count, 0, -1))
        self._cached: dict[Block, None] = {}  # the least recently used first

    def begin(self, table: BlockTable, part: Block | None) -> None:
        """A new table sees its blocks, but for those that are gone, and one more."""
        for block in [*table.blocks[table.gone :], *([] if part is None else [part])]:
            block.viewers += 1
            self._cached.pop(block, None)

    def advance(self, table: BlockTable, gone: int, begin: int, end: int) -> None:
        """The table sees its first `gone` blocks no more; those from `begin` to `end` are about to be filled."""
        for block in table.blocks[table.gone : gone]:
            self._release(block)
        table.gone = max(table.gone, gone)
        for block in table.blocks[max(begin, table.gone) : end]:
            if not block.place:
                self._take(block)

    def skip(self, table: BlockTable, gone: int, begin: int) -> None:
        """As `advance`, where the blocks from `begin` on get tokens that nobody stores here: a place that has some of
        them is given back, since it would not have all.
        """
        self.advance(table, gone, gone, gone)
        for block in table.blocks[begin:gone]:
            self.drop(block)

    def copy(self, source: Block, target: Block, count: int) -> None:
        """Copy the first `count` tokens of a block, which its table does not see any more, to one that it does."""
        self._take(target)
        self._memory.copy(source.place, target.place, count)
        self._release(source)

    def close(self, table: BlockTable) -> None:
        """The table sees nothing any more."""
        for block in reversed(table.blocks[table.gone :]):
            self._release(block)

    def drop(self, block: Block) -> None:
        """Nothing stays of a block that no table sees."""
        if not block.place:
            return
        self._cached.pop(block, None)
        if block.chat or block.spoiled:
            self._memory.clear(block.place)
        self._unused.append(block.place)
        self._set_place(block.number, 0)
        block.place = 0

    def _take(self, block: Block) -> None:
        if not self._unused:
            self.drop(next(iter(self._cached)))
        block.place, block.viewers = self._unused.pop(), 1
        self._set_place(block.number, block.place)

    def _release(self, block: Block) -> None:
        if block.place:
            block.viewers -= 1
            if not block.viewers:
                self._cached[block] = None
