"""What the pool of K/V blocks has on disk: blocks are written as they fill up, and read where memory has them no more.

All of a reply is on disk soon after its end, so nothing is to be done when its blocks are given to others, when the
model is unloaded, or when the process is killed. Blocks of temporary chats are neither written nor read.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from chatui.engine.batching.blocks import BLOCK, BlockDigests, BlockPool, BlockTable, chain_digest
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.kv_files import KVFiles

READ_AHEAD = 8
"""Blocks of a sequence that are read from disk before the first of them is put into its table."""
MAX_SAVED = 8
"""Blocks that are copied at once, to be written."""


@dataclass(eq=False)
class Restoring:
    """The blocks of one table that are still to be read: (name, tokens). Those that are being read come first."""

    waiting: deque[tuple[str, int]]
    reading: "deque[tuple[int, Future[bytearray | None]]]" = field(default_factory=deque)

    @property
    def done(self) -> bool:
        """Whether there is none."""
        return not (self.waiting or self.reading)


class DiskTier:
    """Moves blocks between a pool's memory and files; without `files` it does nothing."""

    def __init__(self, pool: BlockPool, cache: KVCache, files: KVFiles | None) -> None:
        self._pool, self._cache, self._files = pool, cache, files

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
            if self._files is None or not restoring.reading[0][1].done():
                break
            count, read = restoring.reading.popleft()
            end = BLOCK * (table.length // BLOCK) + count
            data = read.result()
            if data is None or not self._pool.grow(table, end - table.length):  # the rest is computed
                restoring.waiting.clear()
                restoring.reading.clear()
                break
            self._cache.write(table.blocks[table.length // BLOCK].number, count, data)
            self._pool.fill(table, ids[table.length : end])
            self._read_ahead(self._files, restoring)
        return table.length - before

    @staticmethod
    def wait(several: Sequence[Restoring], seconds: float) -> None:
        """Wait until one of them can advance, so many seconds at most."""
        wait([restoring.reading[0][1] for restoring in several], seconds, FIRST_COMPLETED)

    def save(self, table: BlockTable) -> None:
        """Have full blocks of the table written, some at most, which are not on disk yet."""
        if self._files is None or table.chat:
            return
        table.saved = max(table.saved, table.gone)
        for index in range(table.saved, min(table.saved + MAX_SAVED, table.length // BLOCK)):
            block = table.blocks[index]
            if not self._save(self._files, block.number, BLOCK, chain_digest(block.before, block.tokens).hex()):
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
            self._save(self._files, block.number, rest, names[-1])
        self._files.touch(names)

    def remove(self, table: BlockTable) -> None:
        """Remove what was written of the table: it is no good."""
        if self._files is not None:
            self._files.remove(_names(table))

    def _save(self, files: KVFiles, block: int, count: int, name: str) -> bool:
        """Whether the block is on disk, or will be soon."""
        if name not in files:
            if files.full:
                return False
            files.write(name, self._cache.read(block, count))
        return True

    def _read_ahead(self, files: KVFiles, restoring: Restoring) -> None:
        while restoring.waiting and len(restoring.reading) < READ_AHEAD:
            name, count = restoring.waiting.popleft()
            restoring.reading.append((count, files.read(name, count * self._cache.bytes_per_token)))

    def _find(self, files: KVFiles, table: BlockTable, digests: BlockDigests) -> tuple[int, list[tuple[str, int]]]:
        """How many whole blocks the table may hold with those on disk, and (name, tokens) of what is to be read for it.

        The last token is read anew.
        """
        ids, limit, held = digests.ids, len(digests.ids) - 1, table.length // BLOCK
        whole = self._pool.longest(held, table.gone, limit // BLOCK, lambda count: digests.of(count).hex() in files)
        first = max(held, self._pool.unseen(whole))
        found = [(digests.of(count).hex(), BLOCK) for count in range(first + 1, whole + 1)]
        begin = BLOCK * whole
        rest = ids[begin : min(begin + BLOCK, limit)]
        for count in range(len(rest), max(0, table.length - begin), -1):
            name = chain_digest(digests.of(whole), rest[:count]).hex()
            if name in files:
                return whole, [*found, (name, count)]
        return whole, found


def _names(table: BlockTable) -> list[str]:
    """Those of its full blocks, without those that it has let go of."""
    full = table.blocks[table.gone : table.length // BLOCK]
    return [chain_digest(block.before, block.tokens).hex() for block in full]
