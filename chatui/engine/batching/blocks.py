"""Block tables: which K/V block holds which tokens, who uses it, and what a new prompt finds computed. Pure.

A block has room for BLOCK tokens. Full blocks are shared, found by a hash of all tokens up to their end, as in vLLM:
https://docs.vllm.ai/en/latest/design/prefix_caching.html. Blocks that nobody uses stay cached until room is needed;
the least recently used go first.

Where every layer has a sliding window, a table lets go of blocks that no token behind it sees any more, and a prompt
goes on behind the longest beginning whose last blocks, those in the window, are cached. Where only some have one, those
alone let go: see window_blocks.py.

Where a model keeps states beside keys and values, a prompt goes on only behind a block at whose end they were kept: see
state_snapshots.py.
"""

from collections.abc import Callable, Sequence

from chatui.engine.batching.block_digests import BlockDigests, chain_digest
from chatui.engine.batching.block_table import HOLE, Block, BlockTable, CachedPrefix
from chatui.engine.batching.state_snapshots import StateSnapshots
from chatui.engine.batching.window_blocks import Memory, WindowBlocks
from chatui.estimates import ATTENTION_BLOCK, blocks_for, blocks_held, blocks_in_window

BLOCK = ATTENTION_BLOCK
MIN_COPIED = 16
"""Tokens. A shorter common beginning is not worth a copy: every prompt has the template's first few tokens."""


class BlockPool:
    """The blocks 1 to `count` of a memory. Block 0 is never given out: it fills up tables of different lengths."""

    def __init__(
        self,
        count: int,
        memory: Memory,
        window: int | None = None,
        window_blocks: WindowBlocks | None = None,
        snapshots: StateSnapshots | None = None,
    ) -> None:
        """Each token sees at most `window` tokens, itself among them; all before it where that is None. Where
        only some layers have a window, `window_blocks` is about those. `snapshots` are of states beside keys and
        values.
        """
        self.count, self._memory, self._window, self.window_blocks = count, memory, window, window_blocks
        self._snapshots = StateSnapshots() if snapshots is None else snapshots
        self._unused = list(range(count, 0, -1))
        self._cached: dict[Block, None] = {}  # the least recently used first
        self._whole: dict[tuple[str, bytes], Block] = {}
        self._following: dict[bytes, dict[Block, None]] = {}

    @property
    def free(self) -> int:
        """How many blocks hold nothing."""
        return len(self._unused)

    @property
    def cached(self) -> int:
        """How many blocks hold what nobody uses."""
        return len(self._cached)

    def fits(self, digests: BlockDigests, chat: str = "", spare: int = 0) -> bool:
        """Whether `open` would give a table."""
        return self._plan(digests, chat, spare) is not None

    def open(self, digests: BlockDigests, chat: str = "", spare: int = 0) -> BlockTable | None:
        """A table with room for the tokens of `digests`, which holds what is computed of them already, never all: the
        last is read anew. In a window there is room for as many as the table holds at once: see `grow`.

        None if that leaves fewer than `spare` blocks for others. Of a `chat` with a name, nobody else reads what is
        stored in the table from now on.
        """
        found = self._plan(digests, chat, spare)
        if found is None:
            return None
        whole = len(found.whole)
        table = BlockTable(chat, list(found.whole), BLOCK * whole, digests.of(whole), gone=self.unseen(whole))
        for block in table.held:
            self._use(block)
        if self.window_blocks is not None:
            self.window_blocks.begin(table, found.part)
        if found.part is not None:
            self._use(found.part)
            if found.goes_on:
                table.blocks.append(found.part)
                table.length += found.common
            else:
                self._copy(table, found.part, found.common)
        table.states = self._snapshots.start(table.blocks[-1] if table.blocks else None)
        table.prompt_blocks = (len(digests.ids) - 1) // BLOCK
        self._extend(table, self._end(digests, whole))
        return table

    def grow(self, table: BlockTable, count: int) -> bool:
        """Give the table room for `count` more tokens; False, and no block, if there are not enough.

        It lets go of what none of them sees.
        """
        unseen, end = self.unseen(table.length // BLOCK), blocks_for(table.length + count)
        if self.window_blocks is None:
            for index in range(table.gone, unseen):
                self._release(table.blocks[index])
                table.blocks[index] = HOLE
            table.gone = max(table.gone, unseen)
        enough = self._extend(table, end)
        if enough and self.window_blocks is not None:
            self.window_blocks.advance(table, unseen, table.length // BLOCK, end)
        return enough

    def skip(self, table: BlockTable, digests: BlockDigests, whole: int) -> bool:
        """Let the table of these tokens hold none of them, and go on where the window behind the first `whole` blocks
        begins; what is in the window comes from elsewhere. False, and nothing, if there are not enough blocks.

        Where only some layers have a window, the table keeps what it holds, and goes on there with those only.
        """
        gone = self.unseen(whole)
        if self.window_blocks is not None:
            self.window_blocks.skip(table, gone, table.length // BLOCK)
            return True
        own = sum(block.users == 1 for block in table.blocks[table.gone :])
        if self._end(digests, whole) - gone > self.free + self.cached + own:
            return False
        self.close(table)
        table.blocks, table.gone = [HOLE] * gone, gone
        table.length, table.digest = BLOCK * gone, digests.of(gone)
        return self._extend(table, self._end(digests, whole))

    def is_whole(self, table: BlockTable) -> bool:
        """Whether the table holds all that the next token sees."""
        return table.gone <= self.unseen(table.length // BLOCK)

    def unseen(self, blocks: int) -> int:
        """How many of so many full blocks no token behind them sees, in layers with a window."""
        window = self._window if self.window_blocks is None else self.window_blocks.window
        return 0 if window is None else max(0, blocks - blocks_in_window(window))

    def longest(
        self,
        held: int,
        gone: int,
        limit: int,
        is_there: Callable[[int], bool],
        is_windowed: Callable[[int], bool] = lambda _: True,
    ) -> int:
        """How many blocks, `limit` at most, the longest beginning has of which all is there that tokens behind it see.

        The blocks from `gone` to `held` are; `is_there` tells it of the one that ends so many blocks, and `is_windowed`
        of what layers with a window have of that beside.
        """
        whole, row = held, held - gone
        for count in range(held + 1, limit + 1):
            there = is_there(count)
            if not there and self._window is None:
                break
            row = row + 1 if there and is_windowed(count) else 0
            if row >= count - self.unseen(count):
                whole = count
        return whole

    def fill(self, table: BlockTable, ids: Sequence[int]) -> None:
        """Note that the keys and values of `ids` are stored behind those of the table, which has room for them."""
        at = 0
        while at < len(ids):
            block = table.blocks[table.length // BLOCK]
            if not block.tokens:
                block.before = table.digest
                self._following.setdefault(block.before, {})[block] = None
            added = ids[at : at + BLOCK - len(block.tokens)]
            block.tokens += added
            table.length += len(added)
            at += len(added)
            if len(block.tokens) == BLOCK:
                table.digest = chain_digest(block.before, block.tokens)
                self._list(block, table.digest, self._lookup(table.digest, table.chat))
        if table.states is not None and ids:
            table.states.commit()
            if table.length % BLOCK == 0:
                self._snapshots.advance(self._lookup(table.digest, table.chat) or block, table)

    def close(self, table: BlockTable) -> None:
        """Give the blocks back; what they hold may serve other prompts. Later blocks go before earlier ones."""
        blocks = table.held
        if self.window_blocks is not None:
            self.window_blocks.close(table)
        if table.length % BLOCK:
            self._snapshots.keep(table.blocks[table.length // BLOCK], table)
        table.blocks, table.length, table.digest, table.saved, table.gone = [], 0, b"", 0, 0
        table.states = None
        for block in reversed(blocks):
            self._release(block)

    def discard(self, table: BlockTable) -> None:
        """Give back blocks whose contents are no good; each is cleared as soon as nobody uses it.

        What the table had let go of was good: logits from it were numbers.
        """
        table.states = None
        for block in table.held:
            block.spoiled = True
            self._unlist(block)
        self.close(table)

    def forget(self, chat: str) -> None:
        """Clear what only this chat may read, and no table uses."""
        for block in [block for block in self._cached if chat and block.chat == chat]:
            self._drop(block)

    def clear(self) -> None:
        """Clear all that is cached."""
        for block in list(self._cached):
            block.spoiled = True
            self._drop(block)

    def _plan(self, digests: BlockDigests, chat: str, spare: int) -> CachedPrefix | None:
        """What is computed of these tokens, if there is room for the rest."""
        found = self._find(digests, chat)
        # What is copied from may have to go itself.
        for option in (found, CachedPrefix(found.whole, None, 0, False)):
            kept = [*option.whole, *([] if option.part is None else [option.part])]
            needed = self._end(digests, len(option.whole)) - len(option.whole) - option.goes_on
            if needed + spare <= self.free + self.cached - sum(not block.users for block in kept):
                return option
        return None

    def _find(self, digests: BlockDigests, chat: str) -> CachedPrefix:
        limit = len(digests.ids) - 1

        def find(end: int) -> Block | None:
            return self._lookup(digests.of(end), chat)

        count = self.longest(
            0, 0, limit // BLOCK, lambda end: find(end) is not None, lambda end: self._is_windowed(find(end))
        )
        part, common, goes_on = self._part(digests, chat, count)
        while part is None and count and not self._snapshots.allow(find(count), BLOCK):
            count -= 1
            part, common, goes_on = self._part(digests, chat, count)
        holes = self.unseen(count) if self.window_blocks is None else 0
        whole = [HOLE] * holes + [block for end in range(holes + 1, count + 1) if (block := find(end)) is not None]
        return CachedPrefix(whole, part, common, goes_on)

    def _part(self, digests: BlockDigests, chat: str, whole: int) -> tuple[Block | None, int, bool]:
        """(block, tokens, whether it goes on) of what is computed behind so many whole blocks."""
        rest = digests.ids[BLOCK * whole : min(len(digests.ids) - 1, BLOCK * (whole + 1))]
        part, common, goes_on = None, 0, False
        for block in self._following.get(digests.of(whole), ()):
            readable = block.chat in ("", chat) and self._is_windowed(block)
            if readable and (length := _common(block.tokens, rest)):
                free = not block.users and block.chat == chat and length == len(block.tokens) < BLOCK
                is_allowed = self._snapshots.allow(block, length, copied=not free)
                is_worth_it = is_allowed and (free or BLOCK * whole + length >= MIN_COPIED)
                if is_worth_it and (length, free) > (common, goes_on):
                    part, common, goes_on = block, length, free
        return part, common, goes_on

    def _end(self, digests: BlockDigests, whole: int) -> int:
        """Where blocks end that a table of these tokens is opened with behind so many that are computed."""
        count = len(digests.ids)
        if self._window is None:
            return blocks_for(count)
        return min(blocks_for(count), self.unseen(whole) + blocks_held(count, self._window))

    def _extend(self, table: BlockTable, end: int) -> bool:
        """Let the table end with so many blocks, if it has fewer; False, and nothing, if there are not enough."""
        needed = end - len(table.blocks)
        if needed > self.free + self.cached:
            return False
        table.blocks += [self._take(table.chat) for _ in range(needed)]
        return True

    def _copy(self, table: BlockTable, source: Block, count: int) -> None:
        """Let the table go on with a copy of the first `count` tokens of a block that it does not use any more."""
        copied = self._take(table.chat)
        self._memory.copy(source.number, copied.number, count)
        if self.window_blocks is not None:
            self.window_blocks.copy(source, copied, count)
        table.blocks.append(copied)
        self.fill(table, source.tokens[:count])
        self._release(source)

    def _is_windowed(self, block: Block | None) -> bool:
        """Whether layers with a window have the block too, where those are a group of their own."""
        return self.window_blocks is None or (block is not None and block.place > 0)

    def _list(self, block: Block, digest: bytes, known: Block | None) -> None:
        """Let prompts find a full block behind this digest; of two the one that is `known`, unless that has less."""
        if known is not None and (known.chat != block.chat or self._has_more(known, block)):
            self._unlist(block)
            return
        if known in self._cached:
            self._drop(known)
        elif known is not None:
            self._unlist(known)
        self._whole[block.chat, digest] = block

    def _has_more(self, known: Block, block: Block) -> bool:
        """Whether of two equal blocks this known one has no less than the other. One that nobody uses, and at whose end
        no states are kept where the model has any, would go before those of the other.
        """
        stays = known not in self._cached or self._snapshots.allow(known, BLOCK)
        return stays and (self._is_windowed(known) or not block.place)

    def _lookup(self, digest: bytes, chat: str) -> Block | None:
        """The full block behind whose last token this is the digest, if this chat may read it."""
        return self._whole.get(("", digest)) or self._whole.get((chat, digest))

    def _take(self, chat: str) -> Block:
        if not self._unused:
            self._drop(next(iter(self._cached)))
        return Block(self._unused.pop(), chat)

    def _use(self, block: Block) -> None:
        block.users += 1
        self._cached.pop(block, None)

    def _release(self, block: Block) -> None:
        block.users -= 1
        if not block.users:
            if block in self._following.get(block.before, ()):
                self._cached[block] = None
            else:
                self._drop(block)

    def _drop(self, block: Block) -> None:
        """Nothing stays of what the block holds."""
        self._cached.pop(block, None)
        self._unlist(block)
        if self.window_blocks is not None:
            self.window_blocks.drop(block)
        self._snapshots.drop(block)
        if block.chat or block.spoiled:
            self._memory.clear(block.number)
        self._unused.append(block.number)

    def _unlist(self, block: Block) -> None:
        """No prompt finds the block from now on."""
        listed = self._following.get(block.before, {})
        if block not in listed:
            return
        del listed[block]
        if not listed:
            del self._following[block.before]
        if len(block.tokens) == BLOCK:
            key = block.chat, chain_digest(block.before, block.tokens)
            if self._whole.get(key) is block:
                del self._whole[key]


def _common(held: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common beginning."""
    limit = min(len(held), len(ids))
    return next((at for at in range(limit) if held[at] != ids[at]), limit)
