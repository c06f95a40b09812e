"""Attention over slots against its definition, written out; whole models are compared in test_forward.py."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatui.engine.batching.attention import DecodeBatch, KVCache, LayerProbe, PrefillBatch, PrefillChunk, attend
from chatui.estimates import ATTENTION_BLOCK

HEADS, GROUPS, KEY, VALUE, CAPACITY, SLOTS = 2, 3, 4, 5, 24, 3
HELD = 2 * ATTENTION_BLOCK
SPAN = torch.arange(HELD, dtype=torch.float32).view(-1, ATTENTION_BLOCK)
LAYER: Any = SimpleNamespace(layer_idx=1)

OPTIONS = st.fixed_dictionaries(
    {
        "sliding_window": st.sampled_from([None, 1, 4, 100]),
        "softcap": st.sampled_from([None, 0.5, 30.0]),
        "s_aux": st.sampled_from([None, -3.0, 0.0, 9.0]),
        "scaling": st.sampled_from([None, 0.2, 1.0]),
    }
)


def storage() -> KVCache:
    """Two layers; what nobody has written yet is large, so that looking at it shows."""
    return KVCache(
        [torch.full((SLOTS, HEADS, KEY, HELD), 50.0) for _ in range(2)],
        [torch.full((SLOTS, HEADS, HELD, VALUE), 50.0) for _ in range(2)],
    )


def tokens(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value of a conversation: [heads, tokens, size]."""
    made = torch.Generator().manual_seed(seed)
    sizes = ((HEADS * GROUPS, KEY), (HEADS, KEY), (HEADS, VALUE))
    query, key, value = (torch.randn(heads, count, size, generator=made) * 2 for heads, size in sizes)
    return query, key, value


def expected(conversation: tuple[torch.Tensor, ...], at: int, options: dict[str, Any]) -> torch.Tensor:
    """What the token at this place attends to: [heads, value size], number by number."""
    query, key, value = conversation
    window, cap, scaling = options["sliding_window"], options["softcap"], options["scaling"]
    result = torch.zeros(query.shape[0], VALUE)
    for head in range(query.shape[0]):
        seen = range(0 if window is None else max(0, at - window + 1), at + 1)
        group = head // GROUPS
        scores = [float(query[head, at] @ key[group, place]) * (scaling or KEY**-0.5) for place in seen]
        scores = [cap * math.tanh(score / cap) if cap else score for score in scores]
        total = sum(map(math.exp, scores)) + (math.exp(options["s_aux"][head]) if options["s_aux"] is not None else 0.0)
        for score, place in zip(scores, seen, strict=True):
            result[head] += math.exp(score) / total * value[group, place]
    return result


def with_sinks(options: dict[str, Any]) -> dict[str, Any]:
    """A different sink for each head, around the number drawn."""
    sink = options["s_aux"]
    return {**options, "s_aux": None if sink is None else torch.linspace(sink - 1, sink + 1, HEADS * GROUPS)}


def read(
    place: KVCache, slot: int, conversation: tuple[torch.Tensor, ...], first: int, count: int, **options: Any
) -> torch.Tensor:
    query, key, value = (each[None, :, first : first + count] for each in conversation)
    return attend(
        LAYER, query, key, value, None, place=PrefillBatch([PrefillChunk(slot, first, count)], place), **options
    )[0]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), OPTIONS, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_pieces_of_a_prompt(pieces: list[int], options: dict[str, Any], seed: int) -> None:
    options, place, first = with_sinks(options), storage(), 0
    conversation = tokens(sum(pieces), seed)
    for count in pieces:
        found = read(place, 1, conversation, first, count, **options)
        wanted = torch.stack([expected(conversation, at, options) for at in range(first, first + count)])
        torch.testing.assert_close(found[0], wanted, atol=1e-4, rtol=1e-4)
        first += count


@given(
    st.lists(st.integers(0, CAPACITY - 1), min_size=SLOTS, max_size=SLOTS),
    st.permutations(range(SLOTS)),
    st.integers(1, SLOTS),
    OPTIONS,
)
@settings(max_examples=40, deadline=None)
def test_a_token_in_each_of_several_slots(
    lengths: list[int], order: list[int], count: int, options: dict[str, Any]
) -> None:
    options, place, slots = with_sinks(options), storage(), order[:count]
    conversations = [tokens(length + 1, slot) for slot, length in enumerate(lengths)]
    for slot, length in enumerate(lengths):
        if length:
            read(place, slot, conversations[slot], 0, length)
    positions = [lengths[slot] for slot in slots]
    query, key, value = (
        torch.stack([conversations[slot][part][:, lengths[slot]] for slot in slots])[:, :, None] for part in (0, 1, 2)
    )
    rows = DecodeBatch(torch.tensor(slots), torch.tensor(positions), SPAN, place)
    found = attend(LAYER, query, key, value, None, place=rows, **options)[0]
    wanted = torch.stack([expected(conversations[slot], lengths[slot], options) for slot in slots])
    torch.testing.assert_close(found[:, 0], wanted, atol=1e-4, rtol=1e-4)


def test_only_its_own_place_is_written() -> None:
    place = storage()
    conversation = tokens(10, 0)
    read(place, 2, conversation, 3, 4)
    query, key, value = (each[None, :, 9:] for each in conversation)
    attend(LAYER, query, key, value, None, place=DecodeBatch(torch.tensor([0]), torch.tensor([5]), SPAN, place))
    assert torch.equal(place.keys[1][2, :, :, 3:7], conversation[1][:, 3:7].transpose(1, 2))
    assert torch.equal(place.values[1][2, :, 3:7], conversation[2][:, 3:7])
    assert torch.equal(place.keys[1][0, :, :, 5], conversation[1][:, 9])
    place.keys[1][2, :, :, 3:7] = place.values[1][2, :, 3:7] = place.keys[1][0, :, :, 5] = 50.0
    place.values[1][0, :, 5] = 50.0
    for tensor in (*place.keys, *place.values):
        assert (tensor == 50.0).all()


def test_scores_that_are_huge_stay_numbers() -> None:
    query, key, value = tokens(4, 0)
    for softcap in (None, 50.0):
        found = read(storage(), 0, (query * 1e6, key * 1e6, value), 0, 4, softcap=softcap, s_aux=torch.zeros(6))
        assert torch.isfinite(found).all()


def test_half_precision_comes_back_as_such() -> None:
    place = KVCache(*([each.bfloat16() for each in part] for part in (storage().keys, storage().values)))
    conversation = tuple(each.bfloat16() for each in tokens(4, 0))
    assert read(place, 0, conversation, 0, 3).dtype == torch.bfloat16
    query, key, value = (each[None, :, 3:] for each in conversation)
    rows = DecodeBatch(torch.tensor([0]), torch.tensor([3]), SPAN, place)
    assert attend(LAYER, query, key, value, None, place=rows)[0].dtype == torch.bfloat16


def test_a_survey_notes_shapes_and_attends_to_nothing() -> None:
    found = LayerProbe({})
    query, key, value = (each[None] for each in tokens(3, 0))
    result, _ = attend(LAYER, query, key, value, None, place=found)
    assert found.layers == {1: (HEADS, KEY, VALUE)}
    assert result.shape == (1, 3, HEADS * GROUPS, VALUE)
    assert not result.any()


def test_without_a_place_there_is_no_attention() -> None:
    query, key, value = (each[None] for each in tokens(3, 0))
    with pytest.raises(ValueError, match="place"):
        attend(LAYER, query, key, value, None)
