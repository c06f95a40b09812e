"""Top-k, top-p and min-p for many rows at once, among the highest scores of each, and a draw from what they leave.

transformers' processors take one setting for all rows, and sort the whole vocabulary, which takes longer than a small
model's step. Each row has the bits that it would have alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatui.generation_settings import GenerationSettings

MINUS_INFINITY = float("-inf")


@dataclass(frozen=True)
class Filtered:
    """What is left of the highest scores: `stages` are the scores [rows, count] after each filter by its name.

    `enough` [rows] says whether nothing else of a row's vocabulary would have been kept.
    """

    stages: dict[str, Tensor]
    scores: Tensor
    enough: Tensor


def filters_of(settings: GenerationSettings) -> tuple[str, ...]:
    """The filters that are on, in the order of `generate()`."""
    are_on = {"top_k": settings.top_k > 0, "top_p": settings.top_p < 1.0, "min_p": settings.min_p > 0.0}
    return tuple(name for name, is_on in are_on.items() if is_on)


def filter_highest(top: Tensor, totals: Tensor, settings: Sequence[GenerationSettings]) -> Filtered:
    """Filter the highest scores `top` [rows, count], in their order, of rows with these `settings`; `totals` [rows] are
    the logarithms of the sums of the exponentials of all scores.

    Top-p is measured against the share of the probability that is among them.
    """
    used = {name for each in settings for name in filters_of(each)}
    values = [(each.top_k, each.top_p, each.min_p) for each in settings]
    parameters = torch.tensor(values, dtype=torch.float64)
    top_k, top_p, min_p = parameters.to(top.device, non_blocking=True).unbind(1)
    has_k = top_k > 0
    # Ties at the border stay, so the border must be inside.
    border = top.gather(1, (top_k.long().clamp(1, top.shape[1]) - 1)[:, None])
    share = (top - totals[:, None]).exp().sum(-1).double()
    enough_k = (top_k < top.shape[1]) & (border[:, 0] > top[:, -1])
    enough_p = torch.where(top_p < 1.0, share >= top_p, (top[:, -1] - top[:, 0]).exp().double() < min_p)
    scores, stages = top, dict[str, Tensor]()
    if "top_k" in used:
        stages["top_k"] = scores = scores.masked_fill((scores < border) & has_k[:, None], MINUS_INFINITY)
    if "top_p" in used:
        limit = 1 - torch.where(has_k, top_p, (top_p / share).clamp_max(1.0))
        # Less than any share: nothing is ruled out.
        stages["top_p"] = scores = _top_p(scores, torch.where(top_p < 1.0, limit, -1.0).float())
    if "min_p" in used:
        probabilities = scores.softmax(-1)
        least = min_p.float()[:, None] * probabilities.amax(-1, keepdim=True)
        stages["min_p"] = scores = scores.masked_fill(probabilities < least, MINUS_INFINITY)
    return Filtered(stages, scores, torch.where(has_k, enough_k, enough_p))


def _top_p(scores: Tensor, limits: Tensor) -> Tensor:
    """As transformers' TopPLogitsWarper: the least likely go, that together have no more than the row's limit."""
    ordered, indices = scores.sort(descending=False)
    removed = ordered.softmax(-1).cumsum(-1) <= limits[:, None]
    removed[:, -1] = False
    return scores.masked_fill(removed.scatter(1, indices, removed), MINUS_INFINITY)


def draw_each(ids: Tensor, scores: Tensor, generators: Sequence[torch.Generator]) -> list[int | None]:
    """One of `ids` [rows, count] for each row, by the softmax of `scores`; None where that is NaN. Both on the CPU."""
    cumulated = scores.softmax(-1).double().cumsum(-1)
    totals = cumulated[:, -1:]
    drawn = torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in generators])
    at = torch.searchsorted(cumulated, drawn[:, None] * totals, right=True).clamp_max(ids.shape[1] - 1)
    tokens = ids.gather(1, at)[:, 0].tolist()
    return [None if broken else token for token, broken in zip(tokens, totals[:, 0].isnan().tolist(), strict=True)]


def moved_to_cpu(*tensors: Tensor) -> list[Tensor]:
    """These on the CPU, moved together, so that a device is waited for once. Integers are exact up to 2**53."""
    if all(tensor.is_cpu for tensor in tensors):
        return list(tensors)
    parts = torch.cat([tensor.flatten().double() for tensor in tensors]).cpu().split([t.numel() for t in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]
