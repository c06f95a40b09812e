"""The kernel for prompts computes attention as it is written down, however a prompt is cut, for all kinds of shapes."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatui.engine.batching import attention
from chatui.engine.batching.attention import PrefillBatch, PrefillChunk
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.kernels import ops, prefill_attention, processors
from chatui.engine.kernels.int8_kv import from_stored, to_stored
from chatui.engine.kernels.prefill_attention import attend
from chatui.settings import AppSettings
from tests.examples import some_of

BLOCKS = 8


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ops.load(AppSettings().cache_dir)  # once for each version of their sources
    if processors.current() is None or ops.compiler() is None:
        pytest.skip("this CPU lacks AVX2, or there is no C++ compiler here")
    assert ops.function(prefill_attention.FUNCTION) is not None


def written_down(
    query: Tensor, keys: Tensor, values: Tensor, window: int | None, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Queries [tokens, kv heads, group, size] are the last of a sequence with keys and values [tokens, kv heads, size];
    all float64.
    """
    positions = torch.arange(len(keys))
    own = positions[len(keys) - len(query) :, None]
    seen = (positions <= own) & (positions > own - (window or math.inf))
    scores = torch.einsum("qhgn,khn->qhgk", query, keys)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen[:, None, None], -math.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.double().expand(len(query), -1, -1)[..., None]], -1)
    weights = scores.softmax(-1)[..., : len(keys)]
    return torch.einsum("qhgk,khn->qhgn", weights, values)


def batch_of(pieces: Sequence[tuple[Sequence[int], int, int]], cache: KVCache) -> PrefillBatch:
    return PrefillBatch([PrefillChunk(torch.tensor(table), first, count) for table, first, count in pieces], cache)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """(tokens read before, tokens, kv heads, group, size, width)"""
    first, count = draw(st.integers(0, 200)), draw(st.integers(1, 150))
    heads, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 7, 50]))
    return first, count, heads, group, draw(st.sampled_from([4, 15, 40, 64])), draw(st.sampled_from([3, 8, 20, 64]))


@settings(max_examples=some_of(200))
@given(
    shapes(),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 300)),
    st.sampled_from([None, 5.0]),
    st.booleans(),
    st.integers(0, 1000),
)
def test_it_computes_attention(
    shape: tuple[int, int, int, int, int, int],
    dtype: torch.dtype,
    in_int8: bool,
    window: int | None,
    softcap: float | None,
    has_sinks: bool,
    seed: int,
) -> None:
    first, count, heads, group, size, width = shape
    generator = torch.Generator().manual_seed(seed)

    def numbers(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float32).to(dtype)

    stored = torch.int8 if in_int8 else dtype
    keys, values = numbers(BLOCKS, heads, BLOCK, size), numbers(BLOCKS, heads, BLOCK, width)
    query = numbers(count, heads, group, size)
    sinks = numbers(heads, group).float() if has_sinks else None
    table = [int(block) for block in torch.randperm(BLOCKS, generator=generator)]
    held = to_stored(keys, stored).transpose(2, 3).contiguous(), to_stored(values, stored)
    own = from_stored(held[0], torch.float32, 2)[table].permute(0, 3, 1, 2).flatten(0, 1)[: first + count]
    weighed = from_stored(held[1], torch.float32)[table].transpose(1, 2).flatten(0, 1)[: first + count]
    batch = batch_of([(table, first, count)], KVCache([], []))
    found = attend(query, *held, batch.pieces, window, softcap, sinks)
    expected = written_down(query.double(), own.double(), weighed.double(), window, softcap, sinks)
    allowed = 0.01 if dtype is torch.bfloat16 else 1e-5
    assert (found.double() - expected).norm() <= allowed * expected.norm() + 1e-6
    middle = seed % count
    parts = [(table, first, middle), (table, first + middle, count - middle)]
    cut = attend(
        query, *held, batch_of([part for part in parts if part[2]], batch.cache).pieces, window, softcap, sinks
    )
    assert torch.equal(cut, found)
    assert prefill_attention.takes(query, held[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("first", [10, 11])
def test_what_is_not_seen_may_be_anything(dtype: torch.dtype, first: int) -> None:
    keys = torch.full((2, 1, 8, BLOCK), math.nan, dtype=dtype)
    values = torch.full((2, 1, BLOCK, 8), math.inf, dtype=dtype)
    keys[0, :, :, first : first + 30], values[0, :, first : first + 30] = 1.0, 2.0
    batch = batch_of([([0, 1], first + 20, 10)], KVCache([], []))
    found = attend(torch.ones(10, 1, 2, 8, dtype=dtype), keys, values, batch.pieces, 21)
    assert torch.equal(found, torch.full((10, 1, 2, 8), 2.0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_number_that_is_none_is_not_hidden(dtype: torch.dtype) -> None:
    keys, values = torch.ones(1, 1, 8, BLOCK, dtype=dtype), torch.ones(1, 1, BLOCK, 8, dtype=dtype)
    keys[0, 0, 0, 5] = math.nan
    found = attend(torch.ones(8, 1, 1, 8, dtype=dtype), keys, values, batch_of([([0], 0, 8)], KVCache([], [])).pieces)
    assert found[:5].isfinite().all()
    assert found[5:].isnan().all()


def test_it_is_used_only_where_it_is_no_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(own: float, wrong: bool = False) -> bool:
        attention._kernel_is_faster.cache_clear()
        monkeypatch.setattr(attention, "seconds", lambda *_, **__: [own, 1.0])
        if wrong:
            monkeypatch.setattr(attention, "_read_by_kernel", lambda query, *_: torch.zeros_like(query[0]))
        return attention._kernel_is_faster(torch.bfloat16)

    assert measured(1.0)
    assert not measured(1.1)
    assert not measured(0.5, wrong=True)
    attention._kernel_is_faster.cache_clear()
