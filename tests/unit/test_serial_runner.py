"""The decode loop: `generate()`'s ids for every kind of cache, and a way out of a forward pass."""

from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from chatui.engine.runners.contract import Interrupted
from chatui.engine.runners.serial_runner import generate_ids, interruptible
from chatui.engine.sampling.sampler import Sampler
from chatui.generation_settings import GenerationSettings
from tests import models
from tests.examples import some_of

GREEDY = GenerationSettings(temperature=0.0)
PROMPT = [101, 32, 7, 45, 200, 201, 45, 7, 99, 12, 13, 140, 8, 8, 63, 64, 65, 66, 1, 90]
NEW = 12


def greedy(model: PreTrainedModel, ids: list[int], settings: GenerationSettings = GREEDY) -> list[int]:
    return list(islice(generate_ids(model, ids, Sampler(settings, 0)), NEW))


def generated(model: PreTrainedModel, ids: list[int], **options: float) -> list[int]:
    return models.generate(model, ids, NEW, **options)


@pytest.mark.parametrize("kind", models.CONFIGS)
def test_greedy_ids_are_those_of_generate(kind: str) -> None:
    model = models.model(kind)
    ids = greedy(model, PROMPT)
    assert ids == generated(model, PROMPT)
    assert len(set(ids)) > 2, "a model that repeats itself would prove nothing"


@pytest.mark.parametrize("kind", models.CONFIGS)
def test_a_reply_leaves_nothing_behind_for_the_next(kind: str) -> None:
    model = models.model(kind)
    alone = greedy(model, PROMPT)
    greedy(model, PROMPT[5:] * 2)
    assert greedy(model, PROMPT) == alone


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
@settings(max_examples=some_of(8), deadline=None)
def test_prompts_of_any_length_past_the_sliding_window(ids: list[int]) -> None:
    model = models.model("gemma3")
    assert greedy(model, ids) == generated(model, ids)


def test_a_repetition_penalty_counts_the_prompt_too() -> None:
    model = models.model("llama")
    penalty = GenerationSettings(temperature=0.0, repetition_penalty=1.3)
    ids = greedy(model, PROMPT, penalty)
    assert ids == generated(model, PROMPT, repetition_penalty=1.3)
    assert ids != greedy(model, PROMPT)


def test_no_ngram_repeats_the_prompts_either() -> None:
    model = models.model("llama")
    ids = greedy(model, PROMPT, GenerationSettings(temperature=0.0, no_repeat_ngram_size=2))
    assert ids == generated(model, PROMPT, no_repeat_ngram_size=2)
    pairs = list(pairwise([*PROMPT, *ids]))
    assert not set(pairs[len(PROMPT) - 1 :]) & set(pairs[: len(PROMPT) - 1])


@pytest.mark.parametrize("kind", models.CONFIGS)
def test_a_forward_pass_stops_within_a_layer(kind: str) -> None:
    model = models.model(kind)
    entered: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
        for name, module in model.named_modules()
        if next(module.children(), None) is None
    ]
    greedy_ids = generate_ids(model, PROMPT, Sampler(GREEDY, 0))
    try:
        with interruptible(model, lambda: len(entered) >= 3), pytest.raises(Interrupted):
            next(greedy_ids)
        assert len(entered) == 3
    finally:
        for hook in hooks:
            hook.remove()
    assert greedy(model, PROMPT) == generated(model, PROMPT)


def test_no_hook_stays_after_the_block() -> None:
    model = models.model("llama")
    with interruptible(model, lambda: True):
        pass
    assert not any(module._forward_pre_hooks for module in model.modules())
