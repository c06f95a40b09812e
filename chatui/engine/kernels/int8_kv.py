"""Keys and values in 8 bits: the numbers of a token's head as levels from -127 to 127, and behind them their scale.

A scale is that of one token and head, so that what is stored of a token does not depend on the tokens beside it.
"""

import torch
from torch import Tensor

SCALE_BYTES = 2
"""A scale is bfloat16, its low byte first."""
LARGEST = 127
TINY = 1e-30


def to_stored(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers [..., size] as they are stored in this type: in int8 [..., size + SCALE_BYTES], else as they are.

    Where one of them is no finite number, all of them are read as NaN.
    """
    if dtype is not torch.int8:
        return numbers
    wide = numbers.float()
    bits = (wide.abs().amax(-1, keepdim=True) * (1 / LARGEST)).bfloat16().view(torch.int16)
    # Not scale.float(): a compiler of PyTorch's would leave out the rounding to bfloat16.
    levels = (wide / (bits.int() << 16).view(torch.float32).clamp(min=TINY)).round()
    return torch.cat([part.to(torch.int8) for part in (levels, bits & 255, bits >> 8)], -1)


def width_of(stored: Tensor) -> int:
    """How many numbers a head has in the last dimension of what is stored."""
    return stored.shape[-1] - (SCALE_BYTES if stored.dtype is torch.int8 else 0)


def from_stored(stored: Tensor, dtype: torch.dtype, dim: int = -1) -> Tensor:
    """The inverse of `to_stored` in the type of the model; `dim` is the one that holds a head's numbers."""
    if stored.dtype is not torch.int8:
        return stored
    levels, low, high = stored.split((stored.shape[dim] - SCALE_BYTES, 1, 1), dim)
    bits = (high.int() << 24) | ((low.int() & 255) << 16)
    numbers: Tensor = levels.to(dtype) * bits.view(torch.float32).to(dtype)
    return numbers
