"""The same logits and settings choose what `generate()` would choose."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from chatui.errors import GenerationError
from chatui.local.sampling import Sampler, model_rules
from chatui.settings import GenerationSettings
from tests import models

IDS = torch.tensor([[5, 9, 4, 1, 5]])


def logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, models.VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def chosen(values: dict[str, Any], seed: int, count: int = 20) -> list[int]:
    sampler = Sampler(GenerationSettings(**values), seed)
    return [sampler.choose(IDS, logits(step)) for step in range(count)]


@given(st.integers(0, 100))
def test_temperature_zero_takes_the_likeliest(seed: int):
    assert Sampler(GenerationSettings(temperature=0.0), 0).choose(IDS, logits(seed)) == int(logits(seed).argmax())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_same_seed_chooses_the_same_tokens(seed: int):
    assert chosen({"temperature": 1.5}, seed) == chosen({"temperature": 1.5}, seed)


def test_other_seeds_choose_other_tokens():
    assert len({tuple(chosen({"temperature": 1.5}, seed)) for seed in range(5)}) == 5


@given(
    st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.0, 0.3, 1.0, 1.7]),
            "top_k": st.sampled_from([0, 1, 7, 200]),
            "top_p": st.sampled_from([0.05, 0.5, 1.0]),
            "min_p": st.sampled_from([0.0, 0.1, 1.0]),
            "repetition_penalty": st.sampled_from([0.8, 1.0, 1.3]),
        }
    ),
    st.integers(0, 50),
)
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_generate(values: dict[str, Any], seed: int):
    greedy = values["temperature"] == 0.0
    config = GenerationConfig(**{**values, "temperature": values["temperature"] or None}, do_sample=not greedy)
    theirs = models.model("llama")._get_logits_processor(config, input_ids_seq_length=IDS.shape[1], device="cpu")
    ours = Sampler(GenerationSettings(**values), 0)._processors
    torch.testing.assert_close(ours(IDS, logits(seed)), theirs(IDS, logits(seed)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_an_error_of_this_reply(temperature: float):
    broken = logits()
    broken[0, 7] = float("nan")
    with pytest.raises(GenerationError, match="NaN"):
        Sampler(GenerationSettings(temperature=temperature), 0).choose(IDS, broken)


def test_half_precision_logits_are_chosen_from():
    assert 0 <= Sampler(GenerationSettings(), 0).choose(IDS, logits().to(torch.bfloat16)) < models.VOCABULARY


@pytest.mark.parametrize(
    "rule",
    [
        {"suppress_tokens": [1, 2]},
        {"begin_suppress_tokens": [1, 2]},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[7], [5, 9]]},
        {"sequence_bias": [[[11], 5.0]]},
    ],
)
def test_the_models_own_rules_are_those_of_generate(rule: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    model = models.model("llama")
    config = GenerationConfig(**rule)
    monkeypatch.setattr(model, "generation_config", config)
    config._eos_token_tensor = None
    theirs = model._get_logits_processor(config, input_ids_seq_length=IDS.shape[1], device="cpu")
    ours = Sampler(GenerationSettings(temperature=0.0), 0, model_rules(model, IDS.shape[1]))._processors
    assert not torch.equal(ours(IDS, logits()), logits())
    torch.testing.assert_close(ours(IDS, logits()), theirs(IDS, logits()))
