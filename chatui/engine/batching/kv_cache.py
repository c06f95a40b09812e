"""The keys and values of all sequences: one pair of tensors for each layer, in blocks of BLOCK tokens.

Where some layers have a sliding window and others see all, there are two groups of layers, as in vLLM:
https://docs.vllm.ai/en/latest/design/hybrid_kv_cache_manager.html. A block then has a place in the tensors of the
layers with a window only while some sequence sees it there, or room is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
import torch

from chatui.engine.batching.blocks import BLOCK, BlockPool
from chatui.engine.batching.state_snapshots import StateSnapshots
from chatui.engine.batching.window_blocks import WindowBlocks
from chatui.engine.kernels.int8_kv import SCALE_BYTES
from chatui.kv_size import KVSize, WindowedLayers


@dataclass(frozen=True)
class KVLayout:
    """What one token takes in each layer: (kv heads, key size, value size); `dtype` of all of them.

    `windows` are how many tokens each layer sees, None where it sees all; empty stands for layers that all do. A layer
    that stores nothing for a token takes (0, 0, 0); such layers keep `state_bytes` of each sequence together.
    """

    layers: tuple[tuple[int, int, int], ...]
    dtype: torch.dtype
    windows: tuple[int | None, ...] = ()
    state_bytes: int = 0

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values for one token, all layers together."""
        return sum(heads * (key + value) for heads, key, value in self.layers) * self.dtype.itemsize

    @property
    def window(self) -> int | None:
        """How many tokens a layer sees at most, None where some see all."""
        return _window_of_all(self.windows)

    @property
    def windowed(self) -> WindowedLayers | None:
        """What the layers with a window take, where others see all."""
        known = [window for window in self.windows if window is not None]
        if not 0 < len(known) < len(self.windows):
            return None
        kept = tuple(compress(self.layers, [window is not None for window in self.windows]))
        return WindowedLayers(max(known), KVLayout(kept, self.dtype).bytes_per_token)

    @property
    def size(self) -> KVSize:
        """What predictions know of it."""
        return KVSize(self.bytes_per_token, self.window, self.windowed, self.state_bytes)

    def in_int8(self) -> "KVLayout":
        """The same in 8 bits, with a scale for each key and value: see int8_kv.py."""
        layers = ((heads, key + SCALE_BYTES, value + SCALE_BYTES) for heads, key, value in self.layers)
        return KVLayout(tuple(layers), torch.int8, self.windows, self.state_bytes)


@dataclass(frozen=True)
class KVCache:
    """One tensor for each layer: `keys` [blocks, kv heads, head size, BLOCK], `values` [blocks, kv heads, BLOCK,
    head size]. Keys lie so that scores of neighbouring tokens are computed together. In int8 a head's scale counts as
    two more of its numbers. `windows` are those of KVLayout.

    Where there are two groups of layers, `places` [blocks] are those of each block in the tensors of layers with a
    window: 0 where it has none.
    """

    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]
    windows: tuple[int | None, ...] = field(default=(), kw_only=True)
    places: torch.Tensor | None = field(default=None, kw_only=True)

    @classmethod
    def allocate(
        cls, shape: KVLayout, blocks: int, device: torch.device, windowed_blocks: int | None = None
    ) -> "KVCache":
        """The blocks 0 to `blocks`, all zeros, since what lies behind a sequence's tokens is weighed with nothing and
        must be finite. On a CPU memory is taken only as blocks are filled.

        With `windowed_blocks` layers with a window have so many blocks of their own.
        """
        few = blocks if windowed_blocks is None else windowed_blocks
        windows = shape.windows or [None] * len(shape.layers)
        counts = [1 + (blocks if window is None else few) for window in windows]
        sizes = list(zip(counts, shape.layers, strict=True))
        keys = [_zeros((count, h, k, BLOCK), shape.dtype, device) for count, (h, k, _) in sizes]
        values = [_zeros((count, h, BLOCK, v), shape.dtype, device) for count, (h, _, v) in sizes]
        places = None if windowed_blocks is None else torch.zeros(blocks + 1, dtype=torch.long, device=device)
        return cls(keys, values, windows=shape.windows, places=places)

    @classmethod
    def of(cls, tensors: Sequence[torch.Tensor]) -> "KVCache":
        """The cache with these `tensors`."""
        half = len(tensors) // 2
        return cls(tensors[:half], tensors[half : 2 * half], places=tensors[-1] if len(tensors) % 2 else None)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All keys, then all values, then the places if there are any."""
        return [*self.keys, *self.values, *([] if self.places is None else [self.places])]

    @property
    def window(self) -> int | None:
        """How many tokens a layer sees at most, None where some see all."""
        return _window_of_all(self.windows)

    def places_in(self, tables: torch.Tensor) -> torch.Tensor:
        """Where layers with a window have the blocks of these tables."""
        return tables if self.places is None else self.places[tables]

    @property
    def windowed(self) -> "KVCache | None":
        """The group of layers with a window, None where there is one group."""
        return self._group([window is not None for window in self.windows]) if self.places is not None else None

    @property
    def full(self) -> "KVCache":
        """The group of layers that see all; all layers where there is one group."""
        return self._group([window is None for window in self.windows]) if self.places is not None else self

    def _group(self, chosen: Sequence[bool]) -> "KVCache":
        keys, values = (list(compress(each, chosen)) for each in (self.keys, self.values))
        return KVCache(keys, values, windows=tuple(compress(self.windows, chosen)))

    @property
    def blocks(self) -> int:
        """How many blocks sequences may have: all but block 0."""
        return (self.keys[0] if self.places is None else self.places).shape[0] - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, whether they are filled or not."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values for one token, all layers together."""
        return sum(part.nbytes for part in self._parts(0, 1))

    def new_pool(self, snapshots: StateSnapshots | None = None) -> BlockPool:
        """All blocks, none of which holds anything."""
        window, some, places = self.window, self.windowed, self.places
        if some is None or some.window is None or places is None:
            return BlockPool(self.blocks, self, window, snapshots=snapshots)
        window_blocks = WindowBlocks(some.blocks, some, some.window, places.__setitem__)
        return BlockPool(self.blocks, self.full, window_blocks=window_blocks)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy those of the first `count` tokens of one block to another."""
        for keys in self.keys:
            keys[target, :, :, :count] = keys[source, :, :, :count]
        for values in self.values:
            values[target, :, :count] = values[source, :, :count]

    def clear(self, block: int) -> None:
        """Overwrite a block with zeros."""
        for tensor in (*self.keys, *self.values):
            tensor[block].zero_()

    def read(self, block: int, count: int) -> memoryview:
        """A copy of the first `count` tokens of a block, as bytes: the keys of all layers, then the values."""
        data: Any = torch.cat([part.flatten() for part in self._parts(block, count)]).view(torch.uint8).cpu().numpy()
        return memoryview(data)

    def write(self, block: int, count: int, data: bytearray) -> None:
        """Overwrite the first `count` tokens of a block with what `read` gave."""
        parts = self._parts(block, count)
        held = torch.frombuffer(data, dtype=parts[0].dtype).to(parts[0].device)
        for part, stored in zip(parts, held.split([part.numel() for part in parts]), strict=True):
            part.copy_(stored.view(part.shape))

    def _parts(self, block: int, count: int) -> list[torch.Tensor]:
        keys = [each[block, :, :, :count] for each in self.keys]
        return keys + [each[block, :, :count] for each in self.values]


def _window_of_all(windows: Sequence[int | None]) -> int | None:
    """How many tokens a layer sees at most, None where some see all."""
    known = [window for window in windows if window is not None]
    return max(known) if known and len(known) == len(windows) else None


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU from calloc, whose pages are taken when they are first written to. torch.zeros writes to all."""
    if device.type != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    held = np.zeros(int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(held).view(dtype).view(shape)
