"""Copies of sequences' states at the ends of K/V blocks, from which later prompts go on. Pure.

Keys and values alone do not let a prompt go on behind a block where a model keeps states beside them. The least
recently used copies go first.
"""

from chatui.engine.batching.block_table import Block, BlockTable, States
from chatui.estimates import ATTENTION_BLOCK as BLOCK


class StateSnapshots:
    """At most `count` of them; none, and no need of any, where a model keeps no states."""

    def __init__(self, count: int = 0, empty: States | None = None) -> None:
        """`empty` are the states before a first token, None where a model keeps none."""
        self.count, self._empty = count, empty
        self._held: dict[Block, tuple[States, int]] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._held)

    def allow(self, block: Block | None, tokens: int, *, copied: bool = False) -> bool:
        """Whether a sequence can go on behind the first `tokens` of this block, or of a block `copied` from it."""
        if self._empty is None:
            return True
        return block in self._held and self._held[block][1] == tokens and not copied

    def start(self, block: Block | None) -> States | None:
        """The states for a sequence that begins, or goes on behind what this block holds."""
        if self._empty is None or block is None:
            return self._empty and self._empty.fork()
        self._held[block] = held = self._held.pop(block)
        return held[0].fork()

    def keep(self, block: Block, table: BlockTable) -> None:
        """Note that the states of the table are those behind all tokens of this block."""
        if table.states is None or self.allow(block, len(block.tokens)):
            return
        self._held.pop(block, None)
        self._held[block] = table.states.copy(), len(block.tokens)
        if len(self._held) > self.count:
            self.drop(next(iter(self._held)))

    def advance(self, block: Block, table: BlockTable) -> None:
        """As `keep`, at the end of a block, in place of those that were kept within the prompt or the reply so far: a
        long text would push out the ends of all others. Those at the end of the prompt stay, since the next turn may
        differ from there on.
        """
        known = self.allow(block, len(block.tokens))
        self.keep(block, table)
        if table.marked is not None:
            self.drop(table.marked)
        at_end = table.length // BLOCK == table.prompt_blocks
        table.marked = None if known or at_end else block

    def drop(self, block: Block) -> None:
        """Nothing stays of what the block holds."""
        self._held.pop(block, None)
