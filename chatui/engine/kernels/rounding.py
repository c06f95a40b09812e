"""Dense weights rounded to levels of 4 or 8 bits, in groups of 32 columns with a scale and a zero."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from chatui.engine.kernels.levels import CHUNK, GROUP, Levels, packed, stacked
from chatui.engine.kernels.threads import one_thread

# Each takes 3 ns per weight on two cores; two lessen the squared error of normal weights by 12 %, a third by 2 % more.
REFITS = 2
TINY = 1e-30

Made = TypeVar("Made")


def rounded(weight: Tensor) -> Levels:
    """Levels for a dense matrix [out, in]: nearest ones in each group's range, refitted to lessen the squared error."""
    return stacked(_by_parts(_rounded, weight))


def _rounded(weight: Tensor) -> Levels:
    groups = weight.float().reshape(len(weight), -1, GROUP)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    mean = groups.mean(-1, keepdim=True)
    best = _nearest(groups, (high - low) / 15, (high - low) / 15 * 8 + low)
    for _ in range(REFITS):
        # The straight line that best maps the levels to the weights: linear regression.
        centre = best[0].mean(-1, keepdim=True)
        distance = best[0] - centre
        scale = (distance * groups).sum(-1, keepdim=True) / distance.square().sum(-1, keepdim=True).clamp(min=TINY)
        tried = _nearest(groups, scale, mean - scale * centre)
        better = tried[3] < best[3]
        best = tuple(torch.where(better, new, old) for new, old in zip(tried, best, strict=True))
    levels, scale, zero, _ = best
    nibbles = packed((levels + 8).to(torch.uint8).flatten(1))
    return Levels(nibbles, torch.cat((scale, zero), -1).transpose(0, 1).bfloat16())


def _nearest(groups: Tensor, scale: Tensor, zero: Tensor) -> tuple[Tensor, ...]:
    """Levels -8..7, the scale and zero that the kernel will read, which are bfloat16, and the squared error."""
    scale, zero = scale.bfloat16().float(), zero.bfloat16().float()
    levels = ((groups - zero) / scale.clamp(min=TINY)).round_().clamp_(-8, 7)
    return levels, scale, zero, (levels * scale).add_(zero).sub_(groups).square_().sum(-1, keepdim=True)


def rounded_to_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Levels -128..127 for a dense matrix, int8 [out, in], the nearest ones in each group's range.

    With them come scales and zeros, bfloat16 [in / 32, out, 2]: weight = level * scale + zero.
    """
    parts = _by_parts(_rounded_to_8_bits, weight)
    return torch.cat([levels for levels, _ in parts]), torch.cat([factors for _, factors in parts], 1)


def _rounded_to_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    groups = weight.float().reshape(len(weight), -1, GROUP)
    low, high = groups.aminmax(dim=-1, keepdim=True)
    scale = ((high - low) / 255).bfloat16()
    zero = (low + 128 * scale.float()).bfloat16()
    levels = ((groups - zero.float()) / scale.float().clamp(min=TINY)).round_().clamp_(-128, 127)
    return levels.to(torch.int8).flatten(1), torch.cat((scale, zero), -1).transpose(0, 1)


def _by_parts(work: Callable[[Tensor], Made], weight: Tensor) -> list[Made]:
    """What `work` makes of some rows at a time.

    Each part has one thread: PyTorch's wait for each other at the end of each of its many small steps, which on a busy
    machine took four times as long.
    """
    parts, threads = torch.split(weight.detach(), max(1, CHUNK // weight.shape[1])), torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(threads) as executor:
        return list(executor.map(work, parts))
