"""Whether products of int4 and int8 layers compute what PyTorch's do, and whether they are faster."""

import logging
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from chatui.engine.kernels.levels import GROUP
from chatui.engine.kernels.threads import one_thread

log = logging.getLogger(__name__)

Product = Callable[[Tensor, Tensor, Tensor], Tensor]
Pack = Callable[[Tensor, bool], Tensor]
"""Levels [out, in], and whether it is for our product or PyTorch's -> what that reads."""

# The layer that is checked, [outputs, inputs]. Each of these rows goes another way through the product.
CHECKED_SHAPE, CHECKED_ROWS = (64, 3 * GROUP), (1, 5, 9, 20)
# How far it may be from PyTorch's, relative to its size; rounding to bfloat16 stays below a hundredth.
TOLERANCE = 0.02
# The layer that is measured, how many rows it gets, and how often.
MEASURED_SHAPE, MEASURED_ROWS, TIMES = (256, 1024), (1, 8), 5


def agree(product: Product, pack: Pack) -> bool:
    """Whether the product of an int4 layer is PyTorch's own but for rounding, with few rows and with many."""
    sample = _Sample(*CHECKED_SHAPE, pack)
    for rows in CHECKED_ROWS:
        x = sample.activations(rows)
        expected = sample.pytorchs(x).float()
        if not (sample.ours(product, x).float() - expected).norm() <= TOLERANCE * expected.norm():
            return False
    return True


def agree_in_8_bits(product: Product, pack_int8: Callable[[Tensor], Tensor], pack: Pack) -> bool:
    """Whether the product of levels -128..127 is the sum of those that PyTorch makes of their halves."""
    (outputs, inputs), generator = CHECKED_SHAPE, torch.Generator().manual_seed(0)
    levels = torch.randint(0, 256, (outputs, inputs), generator=generator, dtype=torch.int32)
    own = pack_int8((levels - 128).to(torch.int8))
    high, low = (pack(half, False) for half in (levels >> 4, levels & 15))
    scale, zero = torch.rand(2, inputs // GROUP, outputs, generator=generator, dtype=torch.float32).bfloat16()
    halves = (high, torch.stack((16 * scale, zero), -1)), (low, torch.stack((scale, 8 * scale), -1))
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    for rows in CHECKED_ROWS:
        x = torch.randn(rows, inputs, generator=generator, dtype=torch.float32).bfloat16()
        expected = sum(multiply(x, half, GROUP, factors).float() for half, factors in halves)
        found = product(x, own, torch.stack((scale, zero), -1)).float()
        if not (found - expected).norm() <= TOLERANCE * expected.norm():
            return False
    return True


def is_faster(product: Product, pack: Pack) -> bool:
    """Whether it takes less time than PyTorch's, with one row and with some."""
    sample = _Sample(*MEASURED_SHAPE, pack)
    return _takes_less("int4", partial(sample.ours, product), sample.pytorchs)


def is_faster_in_8_bits(product: Product, pack_int8: Callable[[Tensor], Tensor]) -> bool:
    """Whether the product of levels -128..127 takes less time than PyTorch's of levels with a scale for each output."""
    outputs, inputs = MEASURED_SHAPE
    levels = torch.zeros(MEASURED_SHAPE, dtype=torch.int8)
    own, factors, scales = pack_int8(levels), torch.zeros(inputs // GROUP, outputs, 2), torch.zeros(outputs)
    factors, scales = factors.bfloat16(), scales.bfloat16()
    return _takes_less(
        "int8",
        lambda x: product(x, own, factors),
        lambda x: torch.ops.aten._weight_int8pack_mm(x, levels, scales),
    )


def _takes_less(kind: str, ours: Callable[[Tensor], Tensor], pytorchs: Callable[[Tensor], Tensor]) -> bool:
    """Whether the one product takes less time than the other, with each of MEASURED_ROWS."""
    ratios = list[float]()
    for rows in MEASURED_ROWS:
        x = torch.ones(rows, MEASURED_SHAPE[1], dtype=torch.bfloat16)
        own, other = seconds(partial(ours, x), partial(pytorchs, x), times=TIMES)
        ratios.append(own / other)
    log.info("products of %s layers take %s of PyTorch's time", kind, ", ".join(f"{ratio:.2f}" for ratio in ratios))
    return max(ratios) < 1


class _Sample:
    """A layer of random weights."""

    def __init__(self, outputs: int, inputs: int, pack: Pack) -> None:
        self._inputs, self._generator = inputs, torch.Generator().manual_seed(0)
        levels = torch.randint(0, 16, (outputs, inputs), generator=self._generator, dtype=torch.int32)
        factors = torch.rand(inputs // GROUP, outputs, 2, generator=self._generator, dtype=torch.float32)
        self._own, self._other, self._factors = pack(levels, True), pack(levels, False), factors.bfloat16()

    def activations(self, rows: int) -> Tensor:
        return torch.randn(rows, self._inputs, generator=self._generator, dtype=torch.float32).bfloat16()

    def ours(self, product: Product, x: Tensor) -> Tensor:
        return product(x, self._own, self._factors)

    def pytorchs(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._other, GROUP, self._factors)
        return result


def seconds(*calls: Callable[[], object], times: int) -> list[float]:
    """The shortest time of each, in turns, with one thread: on a busy machine several wait for each other."""
    best = [float("inf")] * len(calls)
    with one_thread():
        for _ in range(times):
            for at, call in enumerate(calls):
                begin = time.perf_counter()
                call()
                best[at] = min(best[at], time.perf_counter() - begin)
    return best
