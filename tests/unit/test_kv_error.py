"""The measured error of a KV cache in int8 is that of transformers' own forward pass with rounded keys and values."""

import copy
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, PreTrainedModel

from chatui.engine.batching import kv_error
from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.kv_error import TEXT, measure_divergence
from tests import models


def rounded(numbers: torch.Tensor) -> torch.Tensor:
    """To 127 steps on each side of 0, by the definition; the size of a step has 8 significant bits."""
    step = (numbers.abs().amax(-1, keepdim=True) / 127).bfloat16().double()
    return (step * torch.round(numbers.double() / step)).float()


def probabilities(model: PreTrainedModel, ids: list[int], name: str) -> torch.Tensor:
    model.set_attn_implementation(name)
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits.double().softmax(-1)


def attend(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **options: Any) -> Any:
    """Causal attention to rounded keys and values."""
    key, value = (rounded(each).repeat_interleave(module.num_key_value_groups, 1) for each in (key, value))
    scores = query @ key.transpose(2, 3) * options["scaling"]
    weights = (scores + torch.full(scores.shape[2:], float("-inf")).triu(1)).softmax(-1)
    return (weights @ value).transpose(1, 2), None


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_it_is_the_divergence_of_a_plain_pass_with_rounded_keys_and_values(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AttentionInterface._global_mapping, "rounding", attend)
    plain, tokenizer = copy.deepcopy(models.model(kind)), models.tokenizer()
    ids = tokenizer(TEXT)["input_ids"][:BLOCK]
    assert len(ids) == BLOCK
    p, q = probabilities(plain, ids, "eager"), probabilities(plain, ids, "rounding")
    wanted = float((p * (p / q).log()).sum(-1).mean())
    model = copy.deepcopy(models.model(kind))
    layout = probe_layout(model)
    assert layout is not None
    assert measure_divergence(model, layout, tokenizer) == pytest.approx(wanted, rel=0.02)
    assert wanted > 1e-6


def test_without_rounding_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(models.model())
    layout = probe_layout(model)
    assert layout is not None
    monkeypatch.setattr(type(layout), "in_int8", lambda self: self)
    assert measure_divergence(model, layout, models.tokenizer()) == 0


def test_a_short_text_is_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_error, "TEXT", "Hi")
    model = copy.deepcopy(models.model())
    layout = probe_layout(model)
    assert layout is not None
    assert measure_divergence(model, layout, models.tokenizer()) > 0
