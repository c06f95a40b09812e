"""The fingerprint of a model: the same after each loading, and another one as soon as anything computes otherwise."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from chatui.engine.batching import fingerprint as fingerprints
from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.batching.fingerprint import fingerprint
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.kernels import ops
from chatui.engine.loading.lora import LoraLinear, LowRankChange
from tests import models


def of(model: PreTrainedModel, in_int8: bool = False) -> str:
    layout = probe_layout(model)
    assert layout is not None
    return fingerprint(model, KVCache.allocate(layout.in_int8() if in_int8 else layout, 2, torch.device("cpu")))


def test_it_is_the_same_after_each_loading(tmp_path: Path) -> None:
    folder = models.save(tmp_path / "model")
    found = {of(models.loaded(folder, compile="off").model) for _ in range(2)}
    assert len(found) == 1
    [digits] = found
    assert len(digits) == 32
    assert int(digits, 16)


def changed(change: Callable[[Any], object]) -> PreTrainedModel:
    model = copy.deepcopy(models.model())
    with torch.no_grad():
        change(model)
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.model.layers[1].mlp.down_proj.weight[3, 5].add_(1e-6),
        lambda model: model.model.rotary_emb.inv_freq[1].mul_(1.001),
        lambda model: model.bfloat16(),
        lambda model: setattr(model.config, "rope_parameters", {"rope_type": "default", "rope_theta": 5e5}),
        lambda model: setattr(model.model.layers[0].self_attn, "scaling", 0.5),
    ],
    ids=["a weight", "a frequency", "the precision", "the config", "a factor"],
)
def test_it_changes_with_the_model(change: Callable[[Any], object]) -> None:
    assert of(changed(change)) != of(changed(lambda _: None))


def test_an_adapter_with_another_factor_is_another_model() -> None:
    def adapt(scale: float) -> Callable[[Any], object]:
        def change(model: Any) -> None:
            layer = model.model.layers[0].mlp.down_proj
            added = LowRankChange(torch.ones(1, layer.in_features), torch.ones(layer.out_features, 1), scale)
            model.model.layers[0].mlp.down_proj = LoraLinear(layer, added)

        return change

    found = [of(changed(adapt(scale))) for scale in (0.5, 2.0, 0.5)]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("part", ["VERSION", "BLOCK"])
def test_it_changes_with_the_format(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    before = of(changed(lambda _: None))
    monkeypatch.setattr(fingerprints, part, 99)
    assert of(changed(lambda _: None)) != before


def test_it_changes_with_the_type_of_keys_and_values() -> None:
    model = changed(lambda _: None)
    assert of(model, in_int8=True) != of(model)


def test_it_changes_with_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    before = of(changed(lambda _: None))
    monkeypatch.setattr(ops, "name", lambda: "others")
    assert of(changed(lambda _: None)) != before
