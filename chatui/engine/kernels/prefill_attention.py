"""Attention of prompts by a kernel of ours: keys and values are read in the blocks where they lie."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from chatui.engine.kernels import ops
from chatui.engine.kernels.int8_kv import width_of
from chatui.engine.kernels.layer_ops import Pieces, structure

FUNCTION = "chatui_prefill_attention"
TYPES = {torch.bfloat16, torch.float32}

PrefillAttention = structure(
    "PrefillAttention",
    "query keys values tables begins positions sinks result",
    "pieces shared group size width columns window is_bfloat16 in_int8 threads",
    "softcap",
)


def takes(query: Tensor, keys: Tensor) -> bool:
    """Whether the kernel is in use, and for such queries and keys."""
    typed = query.dtype in TYPES and keys.dtype in (query.dtype, torch.int8)
    return typed and query.device.type == "cpu" and ops.function(FUNCTION) is not None


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    pieces: Pieces,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """What each token takes from the tokens up to it: those of the `window`, or all. For tensors that `takes` knows.

    `query` has shape [tokens, kv heads, group, head size] and is scaled, `keys` [blocks, kv heads, head size, BLOCK],
    `values` [blocks, kv heads, BLOCK, head size]; the result [tokens, kv heads, group, head size]. Keys and values may
    be in int8, with scales as in int8_kv.py. `sinks` float32 [kv heads, group].
    """
    query = query.contiguous()
    result = query.new_empty(*query.shape[:3], width_of(values))
    tensors = (query, keys, values, pieces.tables, pieces.begins, pieces.positions, sinks, result)
    at = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    columns, (_, *heads) = pieces.tables.shape[1], query.shape
    kinds = query.dtype is torch.bfloat16, keys.dtype is torch.int8, torch.get_num_threads()
    given = PrefillAttention(
        *at, len(pieces.tables), *heads, width_of(values), columns, window or 0, *kinds, softcap or 0.0
    )
    compute: Any = ops.function(FUNCTION)
    compute(ctypes.byref(given))
    return result
