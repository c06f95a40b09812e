"""Filters of many rows at once leave the bits of each alone, and those are transformers'."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from chatui.engine.sampling.filters import draw_each, filter_highest, filters_of, moved_to_cpu
from chatui.engine.sampling.top_logits import find_top_logits
from chatui.generation_settings import GenerationSettings
from tests.examples import some_of

COUNT = 64
WARPERS: dict[str, Any] = {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper}
SETTINGS = st.builds(
    GenerationSettings,
    top_k=st.sampled_from([0, 1, 7, 63, 64, 65]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)


def scores_of(rows: int, seed: int, coarse: bool = False) -> torch.Tensor:
    scores = 3 * torch.randn(rows, 1000, generator=torch.Generator().manual_seed(seed))
    return (4 * scores).round() / 4 if coarse else scores


@given(st.lists(SETTINGS, min_size=1, max_size=5), st.integers(0, 1000), st.booleans())
@settings(max_examples=some_of(60), deadline=None)
def test_rows_together_have_the_bits_of_transformers_alone(
    each: list[GenerationSettings], seed: int, coarse: bool
) -> None:
    scores = scores_of(len(each), seed, coarse)
    look = find_top_logits(scores, [1.0] * len(each), COUNT)
    found = filter_highest(look.top, look.totals, each)
    for row, values in enumerate(each):
        left = look.top[row : row + 1]
        share = float((left - look.totals[row]).exp().sum())
        top_p = values.top_p if values.top_k else min(1.0, values.top_p / share)
        for name in filters_of(values):
            left = WARPERS[name](top_p if name == "top_p" else getattr(values, name))(None, left)
            assert torch.equal(found.stages[name][row : row + 1], left), name
        assert torch.equal(found.scores[row : row + 1], left)


def test_a_draw_depends_on_the_own_seed_alone() -> None:
    scores, ids = scores_of(4, 1)[:, :COUNT], torch.arange(4 * COUNT).view(4, COUNT)
    scores[2, 5] = float("nan")

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(4)]

    together = draw_each(ids, scores, generators())
    assert together[2] is None
    for row, generator in enumerate(generators()):
        assert draw_each(ids[row : row + 1], scores[row : row + 1], [generator]) == [together[row]]


def test_where_nothing_filters_nothing_is_known() -> None:
    found = filter_highest(scores_of(2, 0)[:, :COUNT], torch.zeros(2), [GenerationSettings(top_k=0, top_p=1.0)] * 2)
    assert found.stages == {}
    assert found.enough.tolist() == [False] * 2


def test_what_is_moved_together_stays_what_it_was() -> None:
    tensors = [torch.tensor([2**40 + 1]), torch.tensor([[0.1, float("inf")]]), torch.tensor([True, False])]
    assert all(map(torch.equal, moved_to_cpu(*tensors), tensors))
