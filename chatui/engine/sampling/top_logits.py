"""A look at the scores of all tokens: the highest, and what their softmax comes to; in C++ where that can be built."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatui.engine.kernels import ops

BLOCK = 64


@dataclass(frozen=True)
class TopLogits:
    """Of each row the highest scores `top` and whose they are, `ids`, both [rows, count]; and `totals` [rows], the
    logarithm of the sum of the exponentials of all scores.

    `best` [rows] is whose the highest score is, the first of equal ones.

    `plain_totals` and `entropies` [rows], the latter in nats, are those at temperature 1, and asked for apart.
    """

    top: Tensor
    ids: Tensor
    best: Tensor
    totals: Tensor
    plain_totals: Tensor | None = None
    entropies: Tensor | None = None

    def of(self, rows: Sequence[int]) -> "TopLogits":
        """The same of these rows alone."""
        if len(rows) == len(self.ids):
            return self
        return TopLogits(**{name: kept[list(rows)] for name, kept in vars(self).items() if kept is not None})


def find_top_logits(scores: Tensor, temperatures: Sequence[float], count: int, plain: bool = False) -> TopLogits:
    """Look at `scores` [rows, vocabulary], divided by their temperatures; if `plain`, at temperature 1 too.

    Totals are NaN where a score is.
    """
    count = min(count, scores.shape[-1])
    if scores.is_cpu and (compiled := ops.function("chatui_top_logits")) is not None:
        return _in_one_pass(compiled, scores, temperatures, count, plain)
    scores = scores.float()
    ids = top_ids(scores, count)
    top = scores.gather(-1, ids)
    highest, best = scores.max(-1, keepdim=True)
    # Sums of what is below the highest lose no digits to its size.
    below = scores - highest
    heat = torch.tensor(temperatures, device=scores.device, dtype=torch.float32)[:, None]
    totals = ((below / heat).logsumexp(-1, keepdim=True) + highest / heat)[:, 0]
    if not plain:
        return TopLogits(top / heat, ids, best[:, 0], totals)
    sums = below.logsumexp(-1)
    # Where a share is 0 its score may be minus infinity, and counts nothing.
    entropies = sums - torch.linalg.vecdot((below - sums[:, None]).exp_(), below.clamp_min(-1e30))
    return TopLogits(top / heat, ids, best[:, 0], totals, highest[:, 0] + sums, entropies)


def top_ids(scores: Tensor, count: int) -> Tensor:
    """Ids [rows, count] of the highest scores [rows, vocabulary], in their order.

    They are in the blocks with the highest maxima, so only few scores are read twice.
    """
    rows, size = scores.shape
    blocks = size // BLOCK
    if blocks <= 2 * count:
        return scores.topk(count).indices
    head = scores[:, : blocks * BLOCK].view(rows, blocks, BLOCK)
    best = head.amax(-1).topk(count).indices
    candidates = (best[..., None] * BLOCK + torch.arange(BLOCK, device=scores.device)).flatten(1)
    tail = torch.arange(blocks * BLOCK, size, device=scores.device).expand(rows, -1)
    candidates = torch.cat((candidates, tail), -1)
    return candidates.gather(-1, scores.gather(-1, candidates).topk(count).indices)


def _in_one_pass(
    compiled: ops.Function, scores: Tensor, temperatures: Sequence[float], count: int, plain: bool
) -> TopLogits:
    rows, size = scores.shape
    halves = scores.dtype == torch.bfloat16
    scores = scores.contiguous() if halves else scores.float().contiguous()
    # The default type is that of another model while one is loaded: transformers sets it for all threads.
    # PyTorch is asked for little here: what a step has pushed out of the caches takes longer than it seems.
    heat = (ctypes.c_float * rows)(*temperatures)
    top, ids = torch.empty(rows, count, dtype=torch.float32), torch.empty(rows, count, dtype=torch.long)
    best = torch.empty(rows, dtype=torch.long)
    totals, plain_totals, entropies = (torch.empty(rows, dtype=torch.float32) for _ in range(3))
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (top, ids, best, totals, plain_totals, entropies))
    numbers = (rows, size, count, int(plain), int(halves), torch.get_num_threads())
    compiled(ctypes.c_void_p(scores.data_ptr()), heat, *pointers, *(ctypes.c_int64(number) for number in numbers))
    return TopLogits(top, ids, best, totals, plain_totals, entropies) if plain else TopLogits(top, ids, best, totals)
