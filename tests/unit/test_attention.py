"""Attention over blocks against its definition, written out; whole models are compared in test_forward.py."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatui.engine.batching.attention import DecodeBatch, LayerProbe, PrefillBatch, PrefillChunk, attend
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.kv_cache import KVCache, KVLayout
from chatui.engine.kernels.int8_kv import from_stored, to_stored
from tests.examples import some_of

HEADS, GROUPS, KEY, VALUE = 2, 3, 4, 5
TABLES = torch.tensor([[5, 2], [4, 1], [3, 6]])
SEQUENCES = len(TABLES)
LENGTHS = st.integers(0, 5) | st.integers(BLOCK - 3, BLOCK + 20)
SPAN = torch.arange(2 * BLOCK, dtype=torch.float32).view(-1, BLOCK)
LAYER: Any = SimpleNamespace(layer_idx=1)

OPTIONS = st.fixed_dictionaries(
    {
        "sliding_window": st.sampled_from([None, 1, 4, 100]),
        "softcap": st.sampled_from([None, 0.5, 30.0]),
        "s_aux": st.sampled_from([None, -3.0, 0.0, 9.0]),
        "scaling": st.sampled_from([None, 0.2, 1.0]),
    }
)


def cache_of() -> KVCache:
    """Two layers; what nobody has written yet is large, so that looking at it shows."""
    return KVCache(
        [torch.full((7, HEADS, KEY, BLOCK), 50.0) for _ in range(2)],
        [torch.full((7, HEADS, BLOCK, VALUE), 50.0) for _ in range(2)],
    )


def tokens(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value of a conversation: [heads, tokens, size]."""
    made = torch.Generator().manual_seed(seed)
    sizes = ((HEADS * GROUPS, KEY), (HEADS, KEY), (HEADS, VALUE))
    query, key, value = (torch.randn(heads, count, size, generator=made) * 2 for heads, size in sizes)
    return query, key, value


def expected(conversation: tuple[torch.Tensor, ...], at: int, options: dict[str, Any]) -> torch.Tensor:
    """What the token at this place attends to: [heads, value size], by the definition."""
    query, key, value = (part.double() for part in conversation)
    window, cap, scaling, sinks = (options[name] for name in ("sliding_window", "softcap", "scaling", "s_aux"))
    seen = slice(0 if window is None else max(0, at - window + 1), at + 1)
    key, value = (part.repeat_interleave(GROUPS, 0)[:, seen] for part in (key, value))
    scores = (query[:, at, None] * key).sum(2) * (scaling or KEY**-0.5)
    weights = torch.exp(cap * torch.tanh(scores / cap) if cap else scores)
    total = weights.sum(1) + (0.0 if sinks is None else torch.exp(sinks.double()))
    return ((weights[..., None] * value).sum(1) / total[:, None]).float()


def with_sinks(options: dict[str, Any]) -> dict[str, Any]:
    """A different sink for each head, around the number drawn."""
    sink = options["s_aux"]
    return {**options, "s_aux": None if sink is None else torch.linspace(sink - 1, sink + 1, HEADS * GROUPS)}


def read(
    cache: KVCache, sequence: int, conversation: tuple[torch.Tensor, ...], first: int, count: int, **options: Any
) -> torch.Tensor:
    query, key, value = (each[None, :, first : first + count] for each in conversation)
    return attend(
        LAYER,
        query,
        key,
        value,
        None,
        attn_metadata=PrefillBatch([PrefillChunk(TABLES[sequence], first, count)], cache),
        **options,
    )[0]


@given(st.lists(st.integers(1, 6) | st.just(BLOCK - 2), min_size=1, max_size=4), OPTIONS, st.integers(0, 99))
@settings(max_examples=some_of(40), deadline=None)
def test_pieces_of_a_prompt(pieces: list[int], options: dict[str, Any], seed: int) -> None:
    pieces = [count for at, count in enumerate(pieces) if sum(pieces[: at + 1]) <= 2 * BLOCK]
    options, cache, first = with_sinks(options), cache_of(), 0
    conversation = tokens(sum(pieces), seed)
    for count in pieces:
        found = read(cache, 1, conversation, first, count, **options)
        wanted = torch.stack([expected(conversation, at, options) for at in range(first, first + count)])
        torch.testing.assert_close(found[0], wanted, atol=1e-4, rtol=1e-4)
        first += count


@given(
    st.lists(LENGTHS, min_size=SEQUENCES, max_size=SEQUENCES),
    st.permutations(range(SEQUENCES)),
    st.integers(1, SEQUENCES),
    OPTIONS,
)
@settings(max_examples=some_of(40), deadline=None)
def test_a_token_in_each_of_several_sequences(
    lengths: list[int], order: list[int], count: int, options: dict[str, Any]
) -> None:
    options, cache, some = with_sinks(options), cache_of(), order[:count]
    conversations = [tokens(length + 1, seed) for seed, length in enumerate(lengths)]
    for each, length in enumerate(lengths):
        if length:
            read(cache, each, conversations[each], 0, length)
    positions = torch.tensor([lengths[each] for each in some])
    query, key, value = (
        torch.stack([conversations[each][part][:, lengths[each]] for each in some])[:, :, None] for part in (0, 1, 2)
    )
    found = attend(
        LAYER, query, key, value, None, attn_metadata=DecodeBatch(TABLES[some], positions, SPAN, cache), **options
    )[0]
    wanted = torch.stack([expected(conversations[each], lengths[each], options) for each in some])
    torch.testing.assert_close(found[:, 0], wanted, atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), OPTIONS, st.integers(0, 99))
@settings(max_examples=some_of(30), deadline=None)
def test_in_int8_pieces_and_single_tokens_attend_to_what_is_stored(
    pieces: list[int], options: dict[str, Any], seed: int
) -> None:
    options, layout = with_sinks(options), KVLayout(((HEADS, KEY, VALUE),) * 2, torch.float32).in_int8()
    cache = KVCache.allocate(layout, 6, torch.device("cpu"))
    query, key, value = tokens(sum(pieces), seed)
    stored = tuple(from_stored(to_stored(each, torch.int8), torch.float32) for each in (key, value))
    assert not torch.equal(stored[0], key)
    wanted = [expected((query, *stored), at, options) for at in range(sum(pieces))]
    first = 0
    for count in pieces:
        if count > 1:
            [found] = read(cache, 1, (query, key, value), first, count, **options)
        else:
            one, two, three = (each[None, :, first : first + 1] for each in (query, key, value))
            rows = DecodeBatch(TABLES[1:2], torch.tensor([first]), SPAN, cache)
            found = attend(LAYER, one, two, three, None, attn_metadata=rows, **options)[0][0]
        torch.testing.assert_close(found, torch.stack(wanted[first : first + count]), atol=1e-4, rtol=1e-4)
        first += count


def test_only_its_own_place_is_written() -> None:
    cache = cache_of()
    keys, values = cache.keys[1], cache.values[1]
    conversation = tokens(10, 0)
    read(cache, 2, conversation, 3, 4)
    query, key, value = (each[None, :, 9:] for each in conversation)
    rows = DecodeBatch(TABLES[:1], torch.tensor([BLOCK + 5]), SPAN, cache)
    attend(LAYER, query, key, value, None, attn_metadata=rows)
    assert torch.equal(keys[3, :, :, 3:7], conversation[1][:, 3:7].transpose(1, 2))
    assert torch.equal(values[3, :, 3:7], conversation[2][:, 3:7])
    assert torch.equal(keys[2, :, :, 5], conversation[1][:, 9])
    keys[3, :, :, 3:7] = values[3, :, 3:7] = keys[2, :, :, 5] = values[2, :, 5] = 50.0
    for tensor in (*cache.keys, *cache.values):
        assert (tensor == 50.0).all()


def test_scores_that_are_huge_stay_numbers() -> None:
    query, key, value = tokens(4, 0)
    for softcap in (None, 50.0):
        found = read(cache_of(), 0, (query * 1e6, key * 1e6, value), 0, 4, softcap=softcap, s_aux=torch.zeros(6))
        assert torch.isfinite(found).all()


def test_half_precision_comes_back_as_such() -> None:
    cache = KVCache(*([each.bfloat16() for each in part] for part in (cache_of().keys, cache_of().values)))
    conversation = tuple(each.bfloat16() for each in tokens(4, 0))
    assert read(cache, 0, conversation, 0, 3).dtype == torch.bfloat16
    query, key, value = (each[None, :, 3:] for each in conversation)
    rows = DecodeBatch(TABLES[:1], torch.tensor([3]), SPAN, cache)
    assert attend(LAYER, query, key, value, None, attn_metadata=rows)[0].dtype == torch.bfloat16


def test_a_survey_notes_shapes_and_attends_to_nothing() -> None:
    found = LayerProbe({})
    query, key, value = (each[None] for each in tokens(3, 0))
    result, _ = attend(LAYER, query, key, value, None, attn_metadata=found)
    assert found.layers == {1: (HEADS, KEY, VALUE)}
    assert result.shape == (1, 3, HEADS * GROUPS, VALUE)
    assert not result.any()


def test_without_a_place_there_is_no_attention() -> None:
    query, key, value = (each[None] for each in tokens(3, 0))
    with pytest.raises(ValueError, match="attn_metadata"):
        attend(LAYER, query, key, value, None)
