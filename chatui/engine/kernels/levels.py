"""Weights as 4-bit levels: read from a GGUF file's blocks, kept in a safetensors file."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.integrations.gguf.dequant import dequantize

from chatui.gguf_file import read_gguf_header
from chatui.stored_tensors import GGUF_LEVELS, GgufType, StoredTensor

GROUP = 32
SUFFIX = ".nibbles"

# Weights worked on at a time, so that what is unpacked for a moment stays small beside the model.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Levels:
    """A matrix of shape [out, in] as levels 0..15: weight = (level - 8) * scale + zero, in groups of 32 columns.

    `nibbles` is uint8 [out, planes * in / 2], the even column in the low half of a byte; `scales_and_zeros` is
    bfloat16 [planes * in / 32, out, 2]. Two planes side by side are summed: they hold the high and the low half
    of 8-bit levels.
    """

    nibbles: Tensor
    scales_and_zeros: Tensor

    def dequantized(self, in_features: int) -> Tensor:
        """The weights, float32 [out, in]."""
        levels = unpacked(self.nibbles).float().reshape(len(self.nibbles), -1, GROUP) - 8
        scale, zero = self.scales_and_zeros.float().transpose(0, 1).unsqueeze(-1).unbind(2)
        weight: Tensor = (levels * scale + zero).reshape(len(levels), -1, in_features).sum(1)
        return weight

    def of_joined(self, in_features: int) -> Tensor | None:
        """Scales and zeros of both planes `joined`: bfloat16 [in / 32, out, 2], weight = number * scale + zero.

        None where there is one plane, or where the two are not the halves of 8-bit levels.
        """
        if self.nibbles.shape[1] != in_features:
            return None
        (high, zero), (low, middle) = (plane.unbind(-1) for plane in self.scales_and_zeros.chunk(2))
        are_halves = torch.equal(high, 16 * low) and torch.equal(middle, 8 * low)
        return torch.stack((low, zero), -1) if are_halves else None


def packed(levels: Tensor) -> Tensor:
    """Levels 0..15, uint8 [..., columns], two to a byte."""
    return levels[..., 0::2] | levels[..., 1::2] << 4


def unpacked(nibbles: Tensor) -> Tensor:
    """The inverse of `packed`."""
    return torch.stack((nibbles & 15, nibbles >> 4), -1).flatten(-2)


def joined(nibbles: Tensor) -> Tensor:
    """Two planes of `nibbles` as numbers -128..127, int8 [out, in]."""
    high, low = map(unpacked, nibbles.chunk(2, 1))
    return (high << 4 | low).sub_(128).view(torch.int8)


class LevelsFile(Mapping[str, Levels]):
    """The levels of a model's layers by their names, each read from the file when asked for."""

    def __init__(self, path: Path) -> None:
        file: Any = safe_open(path, "pt")
        self._tensor: Callable[[str], Tensor] = file.get_tensor
        self.label: str = file.metadata()["label"]
        self._names = [name.removesuffix(SUFFIX) for name in file.offset_keys() if name.endswith(SUFFIX)]

    def __getitem__(self, name: str) -> Levels:
        if name not in self._names:
            raise KeyError(name)
        return Levels(self._tensor(name + SUFFIX), self._tensor(f"{name}.scales_and_zeros"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def save(levels: Mapping[str, Levels], path: Path) -> None:
    """Write what LevelsFile reads; the file is the same for every kind of CPU."""
    tensors, label = {}, levels.label if isinstance(levels, GgufLevels) else ""
    for name, one in levels.items():
        tensors[name + SUFFIX] = one.nibbles.contiguous()
        tensors[f"{name}.scales_and_zeros"] = one.scales_and_zeros.contiguous()
    save_file(tensors, path, metadata={"label": label})


class GgufLevels(Mapping[str, Levels]):
    """The levels that a GGUF file has for layers that were loaded from it, each unpacked when asked for.

    `weights` are the dense weights [out, in] as transformers unpacked them. Which tensor a layer comes from, and in
    which order its rows are, is found by comparing rows, so no architecture's names or permutations are known here.
    """

    def __init__(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        shapes = {tuple(weight.shape) for weight in weights.values()}
        matrices = [_Blocks(path, tensor) for tensor in read_gguf_header(path) if tensor.dtype in GGUF_LEVELS]
        matrices = [blocks for blocks in matrices if blocks.shape in shapes]
        sought = {name: _row_hashes(weight) for name, weight in weights.items()} if matrices else {}
        self._found: dict[str, tuple[_Blocks, Tensor]] = {}
        # transformers unpacks in float32 or in the dtype of the weights.
        ways = dict.fromkeys((kind, each.dtype) for kind in (torch.float32, None) for each in weights.values())
        for working, dtype in ways:
            known = dict[tuple[tuple[int, ...], int], tuple[_Blocks, Tensor]]()
            for blocks in matrices if len(self._found) < len(sought) else ():
                hashes = blocks.hashes(dtype, working or dtype)
                known[blocks.shape, int(hashes.sum())] = blocks, hashes
            for name, row_hashes in sought.items():
                match = known.get((tuple(weights[name].shape), int(row_hashes.sum())))
                if match is not None and (order := _order(match[1], row_hashes)) is not None:
                    self._found.setdefault(name, (match[0], order))

    @property
    def label(self) -> str:
        """The kind of most of the weights: Q4_1 or one of its like."""
        sizes: Counter[str] = Counter()
        for blocks, _ in self._found.values():
            sizes[blocks.type.label] += blocks.tensor.elements
        return sizes.most_common(1)[0][0] if sizes else ""

    def __getitem__(self, name: str) -> Levels:
        blocks, order = self._found[name]
        levels = blocks.levels()
        if torch.equal(order, torch.arange(len(order))):
            return levels
        return Levels(levels.nibbles[order], levels.scales_and_zeros[:, order])

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


class _Blocks:
    """A matrix in a GGUF file: rows of blocks of weights with their scales.

    https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (block_q4_0 and its like)
    """

    def __init__(self, path: Path, tensor: StoredTensor) -> None:
        self.path, self.tensor = path, tensor
        self.shape = tuple(reversed(tensor.shape))

    @property
    def type(self) -> GgufType:
        """The type of the blocks, one of GGUF_LEVELS."""
        return GGUF_LEVELS[self.tensor.dtype]

    def levels(self) -> Levels:
        read = READERS[self.type.label]
        return stacked(_levels(*read(part), self.type.planes) for part in self._parts())

    def hashes(self, dtype: torch.dtype, working: torch.dtype) -> Tensor:
        """The rows' hashes where transformers has unpacked them in `working` and then taken over `dtype`."""
        number = int(self.tensor.dtype.removeprefix("GGUF-"))
        parts = (dequantize(part, number, working).view(len(part), -1) for part in self._parts())
        return torch.cat([_row_hashes(part.to(dtype)) for part in parts])

    def _parts(self) -> Iterator[Tensor]:
        """Some rows at a time: uint8 [rows, blocks, bytes in a block]."""
        rows, columns = self.shape
        shape = (rows, columns // self.type.elements, self.type.size)
        data = np.memmap(self.path, np.uint8, "r", self.tensor.offset, shape)
        step = max(1, CHUNK // columns)
        for start in range(0, rows, step):
            yield torch.from_numpy(np.array(data[start : start + step]))


Numbers = tuple[Tensor, Tensor, Tensor]
"""Groups of 32 weights = number * scale + minimum. Numbers have the shape [..., 32], the others float32 [..., 1].

Numbers are 0..15 where one plane holds them, else -128..127.
"""


def _read_q4_0(blocks: Tensor) -> Numbers:
    scale = _half(blocks, 0)
    return _nibbles(blocks[..., 2:], 16).flatten(-2), scale, -8 * scale


def _read_q4_1(blocks: Tensor) -> Numbers:
    return _nibbles(blocks[..., 4:], 16).flatten(-2), _half(blocks, 0), _half(blocks, 2)


def _read_q8_0(blocks: Tensor) -> Numbers:
    scale = _half(blocks, 0)
    return blocks[..., 2:].view(torch.int8), scale, 0 * scale


def _read_q4_k(blocks: Tensor) -> Numbers:
    return _nibbles(blocks[..., 16:], 32), *_k_scales(blocks)


def _read_q5_k(blocks: Tensor) -> Numbers:
    high = _bits(blocks[..., 16:48], range(8), 32) & 1
    return (_nibbles(blocks[..., 48:], 32) | high << 4).to(torch.int8), *_k_scales(blocks)


def _read_q6_k(blocks: Tensor) -> Numbers:
    """Its scales are of 16 weights. Of two neighbours the larger is kept, and a quarter of it is the unit for both.

    So numbers of the larger are exact, and those of the smaller are rounded to an eighth of the larger scale at most.
    """
    low = _nibbles(blocks[..., :128], 64).reshape(*blocks.shape[:-1], 16, 16)
    high = (_bits(blocks[..., 128:192], (0, 2, 4, 6), 32) & 3).reshape(low.shape)
    numbers = (low | high << 4).to(torch.int8) - 32
    scales = (_half(blocks, 208) * blocks[..., 192:208].view(torch.int8)).unflatten(-1, (8, 2))
    larger = scales.gather(-1, scales.abs().argmax(-1, keepdim=True))
    ratios = torch.where(larger == 0, 0, 4 * scales / larger).flatten(-2).unsqueeze(-1)
    rounded = (numbers * ratios).round().clamp(-128, 127).to(torch.int8)
    return rounded.reshape(*blocks.shape[:-1], 8, GROUP), larger / 4, 0 * larger


READERS: Mapping[str, Callable[[Tensor], Numbers]] = {
    "Q4_0": _read_q4_0,
    "Q4_1": _read_q4_1,
    "Q8_0": _read_q8_0,
    "Q4_K": _read_q4_k,
    "Q5_K": _read_q5_k,
    "Q6_K": _read_q6_k,
}
"""They read blocks, uint8 [..., bytes in a block], by the label of their type."""


def _levels(numbers: Tensor, scale: Tensor, minimum: Tensor, planes: int) -> Levels:
    """Levels of whole rows; the first dimension is that of the rows."""
    numbers, scale, minimum = numbers.flatten(1), scale.flatten(1), minimum.flatten(1)
    if planes == 1:
        nibbles = packed(numbers)
        pairs = torch.stack((scale, minimum + 8 * scale), -1)
    else:
        shifted = numbers.view(torch.uint8) ^ 128
        nibbles = torch.cat([packed(plane) for plane in (shifted >> 4, shifted & 15)], -1)
        high, low = torch.stack((16 * scale, minimum), -1), torch.stack((scale, 8 * scale), -1)
        pairs = torch.cat((high, low), 1)
    return Levels(nibbles, pairs.transpose(0, 1).bfloat16())


def _bits(data: Tensor, shifts: Sequence[int], width: int) -> Tensor:
    """`data` [..., n * width] shifted to the right by each of `shifts`: [..., n * shifts, width]."""
    shift = torch.tensor(list(shifts), dtype=torch.uint8).unsqueeze(-1)
    shifted: Tensor = (data.unflatten(-1, (-1, 1, width)) >> shift).flatten(-3, -2)
    return shifted


def _nibbles(data: Tensor, width: int) -> Tensor:
    """Of each `width` bytes the low halves, then the high ones: [..., 2 * n, width]."""
    return _bits(data, (0, 4), width) & 15


def _k_scales(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The scales and minima of the 8 groups of a block of Q4_K or Q5_K: ggml-quants.c, get_scale_min_k4."""
    first, second, third = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    scales = torch.cat((first & 63, third & 15 | first >> 6 << 4), -1)
    minima = torch.cat((second & 63, third >> 4 | second >> 6 << 4), -1)
    return (_half(blocks, 0) * scales).unsqueeze(-1), -(_half(blocks, 2) * minima).unsqueeze(-1)


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 number at this byte of each block as float32, [..., 1]."""
    number: Tensor = blocks[..., start : start + 2].contiguous().view(torch.float16).float()
    return number


def stacked(parts: Iterable[Levels]) -> Levels:
    """One below the other, as rows of one matrix."""
    whole = list(parts)
    return Levels(torch.cat([part.nibbles for part in whole]), torch.cat([part.scales_and_zeros for part in whole], 1))


def _row_hashes(weight: Tensor) -> Tensor:
    """A 64-bit number for each row of a matrix, the same wherever the same row stands: int64 [rows]."""
    words = weight.detach().contiguous().view(torch.int64)
    factors = torch.randint(-(2**62), 2**62, (words.shape[1],), generator=torch.Generator().manual_seed(0)) * 2 + 1
    found = []
    for part in torch.split(words, max(1, CHUNK // weight.shape[1])):
        mixed = part * factors
        # A product's low bits depend on low bits only; the shift lets all of a word reach all of the sum.
        found.append(((mixed ^ mixed >> 29) * factors).sum(1))
    return torch.cat(found)


def _order(rows: Tensor, targets: Tensor) -> Tensor | None:
    """The index in `rows` of each target, or None where one is missing."""
    order = torch.empty_like(targets)
    order[targets.argsort(stable=True)] = rows.argsort(stable=True)
    return order if torch.equal(rows[order], targets) else None
