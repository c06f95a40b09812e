"""The keys and values of all sequences: one pair of tensors for each layer, in blocks of BLOCK tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from chatui.engine.batching.blocks import BLOCK
from chatui.engine.kernels.int8_kv import SCALE_BYTES
from chatui.estimates import blocks_held


@dataclass(frozen=True)
class KVLayout:
    """What one token takes in each layer: (kv heads, key size, value size); `dtype` of all of them.

    No layer sees more than a `window` of tokens, None where some see all.
    """

    layers: tuple[tuple[int, int, int], ...]
    dtype: torch.dtype
    window: int | None = None

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values for one token, all layers together."""
        return sum(heads * (key + value) for heads, key, value in self.layers) * self.dtype.itemsize

    def in_int8(self) -> "KVLayout":
        """The same in 8 bits, with a scale for each key and value: see int8_kv.py."""
        layers = ((heads, key + SCALE_BYTES, value + SCALE_BYTES) for heads, key, value in self.layers)
        return KVLayout(tuple(layers), torch.int8, self.window)


@dataclass(frozen=True)
class KVCache:
    """One tensor for each layer: `keys` [blocks, kv heads, head size, BLOCK], `values` [blocks, kv heads, BLOCK,
    head size]. Keys lie so that scores of neighbouring tokens are computed together. In int8 a head's scale counts as
    two more of its numbers. No layer sees more than a `window` of tokens, None where some see all.
    """

    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]
    window: int | None = field(default=None, kw_only=True)

    @classmethod
    def allocate(cls, shape: KVLayout, blocks: int, device: torch.device) -> "KVCache":
        """The blocks 0 to `blocks`, all zeros, since what lies behind a sequence's tokens is weighed with nothing and
        must be finite. On a CPU memory is taken only as blocks are filled.
        """
        keys = [_zeros((blocks + 1, h, k, BLOCK), shape.dtype, device) for h, k, _ in shape.layers]
        values = [_zeros((blocks + 1, h, BLOCK, v), shape.dtype, device) for h, _, v in shape.layers]
        return cls(keys, values, window=shape.window)

    @property
    def blocks(self) -> int:
        """How many blocks sequences may have: all but block 0."""
        return self.keys[0].shape[0] - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, whether they are filled or not."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values for one token, all layers together."""
        return sum(part.nbytes for part in self._parts(0, 1))

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


def fit(bytes_per_token: int, window: int | None, context: int, budget: int, conversations: int) -> tuple[int, int]:
    """(blocks, tokens that a conversation may have) within `budget` bytes: no more than so many whole ones need."""
    possible = budget // (BLOCK * bytes_per_token) - 1  # block 0 is not used
    each = blocks_held(context, window)
    blocks = max(1, min(conversations * each, possible))
    return blocks, context if blocks >= each else min(context, BLOCK * blocks)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU from calloc, whose pages are taken when they are first written to. torch.zeros writes to all."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    held = np.zeros(int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(held).view(dtype).view(shape)
