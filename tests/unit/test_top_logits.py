"""A look at scores tells the same in C++ and by PyTorch: the highest, the totals and the entropy."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatui.engine.kernels import ops
from chatui.engine.sampling.top_logits import find_top_logits
from chatui.settings import AppSettings
from tests.examples import some_of


@pytest.fixture(scope="module", params=["compiled", "pytorch"])
def _kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to look; PyTorch's own stands in where there is no kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_loaded", {})
        if request.param == "compiled":
            ops.load(AppSettings().cache_dir)  # built once for each version of their sources
            if ops.function("chatui_top_logits") is None:
                pytest.skip("there is no C++ compiler here")
        yield


pytestmark = pytest.mark.usefixtures("_kind")


@given(
    rows=st.integers(1, 5),
    size=st.one_of(st.integers(1, 300), st.integers(1000, 9000)),
    seed=st.integers(0, 10_000),
    sharp=st.sampled_from([0.0, 0.1, 3.0, 40.0]),
    heat=st.sampled_from([0.2, 1.0, 2.0]),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
@settings(max_examples=some_of(80), deadline=None)
def test_it_is_what_the_definitions_say(
    rows: int, size: int, seed: int, sharp: float, heat: float, kind: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    given = (sharp * torch.randn(rows, size, generator=generator)).to(kind)
    found = find_top_logits(given, [heat] * rows, 20, plain=True)
    scores = given.float()  # with many ties, of the shorter kinds
    exact = scores.double() / heat
    count = min(20, size)
    assert found.top.shape == found.ids.shape == (rows, count)
    torch.testing.assert_close(found.top, exact.topk(count).values.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.top, exact.gather(-1, found.ids).float(), rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == count for row in found.ids.tolist())
    torch.testing.assert_close(found.totals, exact.logsumexp(-1).float(), rtol=1e-5, atol=2e-5)
    assert found.plain_totals is not None
    assert found.entropies is not None
    torch.testing.assert_close(found.plain_totals, scores.double().logsumexp(-1).float(), rtol=1e-5, atol=2e-5)
    shares = scores.double().softmax(-1)
    entropy = torch.special.entr(shares).sum(-1)
    torch.testing.assert_close(found.entropies, entropy.float(), rtol=1e-4, atol=1e-4)
    assert found.best.tolist() == scores.argmax(-1).tolist()
    briefly = find_top_logits(given, [heat] * rows, 20)
    assert briefly.plain_totals is briefly.entropies is None
    assert torch.equal(briefly.totals, found.totals)
    entropies = found.of([rows - 1]).entropies
    assert entropies is not None
    [last] = entropies
    assert last == found.entropies[-1]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_alone_and_among_others(kind: torch.dtype) -> None:
    scores = torch.randn(7, 3001, generator=torch.Generator().manual_seed(1)).to(kind)
    together = find_top_logits(scores, [0.7] * 7, 64)
    for row in range(7):
        alone = find_top_logits(scores[row : row + 1], [0.7], 64)
        assert torch.equal(alone.ids[0], together.ids[row])
        assert torch.equal(alone.totals[0], together.totals[row])


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_what_is_ruled_out_counts_nothing_and_what_is_no_number_is_told(kind: torch.dtype) -> None:
    scores = torch.randn(2, 500, generator=torch.Generator().manual_seed(1)).to(kind)
    scores[0, 10:] = -torch.inf
    scores[1, 400] = torch.nan
    found = find_top_logits(scores, [1.0, 1.0], 20)
    assert set(found.ids[0, :10].tolist()) == set(range(10))
    torch.testing.assert_close(found.totals[0], scores[0, :10].float().logsumexp(-1), rtol=1e-5, atol=1e-5)
    assert found.totals[1].isnan()


def test_a_model_that_is_being_loaded_changes_nothing() -> None:
    """transformers sets the default type of all threads while it builds a model; buffers of that type are too small."""
    scores = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1))
    expected = find_top_logits(scores, [0.7] * 3, 200, plain=True)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = find_top_logits(scores, [0.7] * 3, 200, plain=True)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in vars(expected).items():
        assert value.dtype == getattr(found, name).dtype, name
        torch.testing.assert_close(getattr(found, name), value, rtol=0, atol=0)
