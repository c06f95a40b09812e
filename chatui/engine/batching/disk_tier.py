"""What the pool of K/V blocks has on disk: blocks are written as they fill up, and read where memory has them no more.

All of a reply is on disk soon after its end, so nothing is to be done when its blocks are given to others, when the
model is unloaded, or when the process is killed. Blocks of temporary chats are neither written nor read.

Where layers with a window are a group of their own, what they have of a block is in a file of its own, which is read
only for blocks that are seen.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from chatui.engine.batching.block_digests import BlockDigests, chain_digest
from chatui.engine.batching.block_table import Block, BlockTable
from chatui.engine.batching.blocks import BLOCK, BlockPool
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.kv_files import KVFiles

READ_AHEAD = 8
"""Blocks of a sequence that are read from disk before the first of them is put into its table."""
MAX_SAVED = 8
"""Blocks that are copied at once, to be written."""
WINDOWED = "w"
"""Ends the name of what layers with a window have of a block."""


@dataclass(frozen=True)
class StoredBlock:
    """A block on disk: its `name`, how many tokens, and whether what layers with a window have of it is `seen`."""

    name: str
    count: int
    seen: bool


Reading = tuple[int, "list[Future[bytearray | None]]"]
"""A block that is being read: its tokens, and what each group of layers has of them, the one with a window last."""


@dataclass(eq=False)
class Restoring:
    """The blocks of one table that are still to be read. Those that are being read come first."""

    waiting: deque[StoredBlock]
    reading: deque[Reading] = field(default_factory=deque)

    @property
    def done(self) -> bool:
        """Whether there is none."""
        return not (self.waiting or self.reading)


class DiskTier:
    """Moves blocks between a pool's memory and files; without `files` it does nothing."""

    def __init__(self, pool: BlockPool, cache: KVCache, files: KVFiles | None) -> None:
        self._pool, self._files = pool, files
        self._full, self._windowed = cache.full, cache.windowed

    def restore(self, table: BlockTable, digests: BlockDigests) -> Restoring | None:
        """Begin to read what is on disk of these tokens behind what the table holds; None if that is nothing.

        Where they have a window, the table may skip to one that is on disk: until that is read, it is not whole.
        """
        if self._files is None or table.chat:
            return None
        whole, found = self._find(self._files, table, digests)
        if self._pool.unseen(whole) > table.length // BLOCK and not self._pool.skip(table, digests, whole):
            return None
        restoring = Restoring(deque(found))
        self._read_ahead(self._files, restoring)
        return None if restoring.done else restoring

    def advance(self, table: BlockTable, ids: Sequence[int], restoring: Restoring) -> int:
        """Put blocks that have been read into the table, some at most. Returns how many tokens it holds more."""
        before = table.length
        for _ in range(min(READ_AHEAD, len(restoring.reading))):
            if self._files is None or not all(part.done() for part in restoring.reading[0][1]):
                break
            count, reading = restoring.reading.popleft()
            end = BLOCK * (table.length // BLOCK) + count
            parts = [part for each in reading if (part := each.result()) is not None]
            if len(parts) < len(reading) or not self._pool.grow(table, end - table.length):  # the rest is computed
                restoring.waiting.clear()
                restoring.reading.clear()
                break
            self._put(table.blocks[table.length // BLOCK], count, parts)
            self._pool.fill(table, ids[table.length : end])
            self._read_ahead(self._files, restoring)
        return table.length - before

    @staticmethod
    def wait(several: Sequence[Restoring], seconds: float) -> None:
        """Wait until one of them can advance, so many seconds at most."""
        unread = [[part for part in restoring.reading[0][1] if not part.done()] for restoring in several]
        if all(unread):
            wait([part for parts in unread for part in parts], seconds, FIRST_COMPLETED)

    def save(self, table: BlockTable) -> None:
        """Have full blocks of the table written, some at most, which are not on disk yet."""
        if self._files is None or table.chat:
            return
        table.saved = max(table.saved, table.gone if self._windowed is None else 0)
        for index in range(table.saved, min(table.saved + MAX_SAVED, table.length // BLOCK)):
            block = table.blocks[index]
            if not self._save(self._files, block, BLOCK, chain_digest(block.before, block.tokens).hex()):
                return
            table.saved = index + 1

    def finish(self, table: BlockTable) -> None:
        """Have all of the table written, since its reply has ended."""
        if self._files is None or table.chat or not table.length:
            return
        saved = -1
        while saved < table.saved:
            saved = table.saved
            self.save(table)
        names, rest = _names(table), table.length % BLOCK
        if saved == table.length // BLOCK and rest:
            block = table.blocks[saved]
            names.append(chain_digest(table.digest, block.tokens).hex())
            self._save(self._files, block, rest, names[-1])
        self._files.touch(self._parts(names))

    def remove(self, table: BlockTable) -> None:
        """Remove what was written of the table: it is no good."""
        if self._files is not None:
            self._files.remove(self._parts(_names(table)))

    def _parts(self, names: Sequence[str]) -> list[str]:
        """All names under which there may be files of blocks with these."""
        return list(names) if self._windowed is None else [part for name in names for part in (name, name + WINDOWED)]

    def _save(self, files: KVFiles, block: Block, count: int, name: str) -> bool:
        """Whether what memory has of the block is on disk, or will be soon."""
        parts = [(name, self._full, block.number)]
        if self._windowed is not None and block.place:
            parts.append((name + WINDOWED, self._windowed, block.place))
        for part, cache, number in parts:
            if part not in files:
                if files.full:
                    return False
                files.write(part, cache.read(number, count))
        return True

    def _put(self, block: Block, count: int, parts: Sequence[bytearray]) -> None:
        """Overwrite so many tokens of a block with what each group of layers has of them."""
        self._full.write(block.number, count, parts[0])
        if self._windowed is not None and len(parts) > 1:
            self._windowed.write(block.place, count, parts[1])

    def _read_ahead(self, files: KVFiles, restoring: Restoring) -> None:
        while restoring.waiting and len(restoring.reading) < READ_AHEAD:
            block = restoring.waiting.popleft()
            parts = [files.read(block.name, block.count * self._full.bytes_per_token)]
            if self._windowed is not None and block.seen:
                parts.append(files.read(block.name + WINDOWED, block.count * self._windowed.bytes_per_token))
            restoring.reading.append((block.count, parts))

    def _find(self, files: KVFiles, table: BlockTable, digests: BlockDigests) -> tuple[int, list[StoredBlock]]:
        """How many whole blocks the table may hold with those on disk, and what is to be read for it.

        The last token is read anew.
        """
        ids, limit, held = digests.ids, len(digests.ids) - 1, table.length // BLOCK

        def is_windowed(name: str) -> bool:
            return self._windowed is None or name + WINDOWED in files

        whole = self._pool.longest(
            held,
            table.gone,
            limit // BLOCK,
            lambda count: digests.of(count).hex() in files,
            lambda count: is_windowed(digests.of(count).hex()),
        )
        unseen = self._pool.unseen(whole)
        first = held if self._windowed is not None else max(held, unseen)
        found = [StoredBlock(digests.of(count).hex(), BLOCK, count > unseen) for count in range(first + 1, whole + 1)]
        begin = BLOCK * whole
        rest = ids[begin : min(begin + BLOCK, limit)]
        for count in range(len(rest), max(0, table.length - begin), -1):
            name = chain_digest(digests.of(whole), rest[:count]).hex()
            if name in files and is_windowed(name):
                return whole, [*found, StoredBlock(name, count, True)]
        return whole, found


def _names(table: BlockTable) -> list[str]:
    """Those of its full blocks, without those that it has let go of."""
    full = [block for block in table.held if len(block.tokens) == BLOCK]
    return [chain_digest(block.before, block.tokens).hex() for block in full]
