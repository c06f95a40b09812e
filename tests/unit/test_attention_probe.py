"""Which models have an attention that the one over blocks can stand for."""

import copy
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from chatui.engine.batching import attention
from chatui.engine.batching.attention import DecodeBatch
from chatui.engine.batching.attention_probe import matches_own_attention, probe_layout
from tests import models
from tests.unit.test_forward import close, conversation, plain, swapped


class TestProbeLayout:
    @pytest.mark.parametrize("kind", models.PLAIN)
    def test_plain_attention_is_taken(self, kind: str) -> None:
        model = copy.deepcopy(models.model(kind))
        shape = probe_layout(model)
        assert shape is not None
        assert len(shape.layers) == model.config.num_hidden_layers
        assert shape.dtype == torch.float32
        assert model.config._attn_implementation == attention.NAME
        assert matches_own_attention(model, shape)

    def test_shapes(self) -> None:
        def layers(kind: str) -> object:
            shape = probe_layout(copy.deepcopy(models.model(kind)))
            return shape and shape.layers

        assert layers("llama") == ((2, 8, 8),) * 2
        assert layers("gpt2") == ((4, 8, 8),) * 2
        assert layers("deepseek_v3") == ((4, 12, 8),) * 2

    @pytest.mark.parametrize("kind", sorted(set(models.CONFIGS) - {*models.PLAIN, *models.RECURRENT}))
    def test_other_attention_is_refused_and_left_as_it_was(self, kind: str) -> None:
        model = copy.deepcopy(models.model(kind))
        before = model.config._attn_implementation
        assert probe_layout(model) is None
        assert model.config._attn_implementation == before
        ids = conversation(0)
        with torch.inference_mode():
            assert close(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0], plain(kind, ids))

    def test_a_model_that_never_calls_the_attention_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = copy.deepcopy(models.model())
        layer: Any = model.get_submodule("model.layers.1.self_attn")
        monkeypatch.setattr(layer, "forward", lambda hidden_states, **_: (hidden_states, None))
        assert probe_layout(model) is None
        assert model.config._attn_implementation != attention.NAME

    def test_a_model_that_fails_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = copy.deepcopy(models.model())
        monkeypatch.setattr(model, "forward", lambda **_: 1 / 0)
        assert probe_layout(model) is None


class TestAgrees:
    def check(self, model: PreTrainedModel) -> bool:
        shape = probe_layout(model)
        assert shape is not None
        return matches_own_attention(model, shape)

    def test_an_attention_that_ignores_positions_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        attend = attention.attend

        def blind(*args: Any, attn_metadata: Any, **options: Any) -> tuple[torch.Tensor, None]:
            if isinstance(attn_metadata, DecodeBatch):
                attn_metadata = DecodeBatch(
                    attn_metadata.tables,
                    torch.zeros_like(attn_metadata.positions),
                    attn_metadata.span,
                    attn_metadata.cache,
                )
            return attend(*args, **{**options, "attn_metadata": attn_metadata})

        swapped(monkeypatch, blind)
        assert not self.check(copy.deepcopy(models.model()))

    def test_a_model_that_takes_one_position_for_all_rows_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = copy.deepcopy(models.model())
        whole = model.forward

        def uniform(input_ids: torch.Tensor, position_ids: torch.Tensor | None = None, **options: Any) -> object:
            if position_ids is not None:
                position_ids = position_ids[:1].expand_as(input_ids)
            return whole(input_ids=input_ids, position_ids=position_ids, **options)

        monkeypatch.setattr(model, "forward", uniform)
        assert not self.check(model)

    def test_a_model_whose_layers_remember_something_else_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = copy.deepcopy(models.model())
        layer: Any = model.get_submodule("model.layers.0")
        whole = layer.forward

        def convolved(hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
            mixed = hidden_states + hidden_states.roll(1, 1) * (hidden_states.shape[1] > 1)
            convolved: torch.Tensor = whole(mixed, **options)
            return convolved

        monkeypatch.setattr(layer, "forward", convolved)
        assert not self.check(model)

    def test_a_model_that_fails_there_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = copy.deepcopy(models.model())
        shape = probe_layout(model)
        assert shape is not None
        monkeypatch.setattr(model, "forward", lambda **_: 1 / 0)
        assert not matches_own_attention(model, shape)

    def test_rounding_in_bfloat16_is_no_disagreement(self) -> None:
        for seed in range(3):
            assert self.check(copy.deepcopy(models.model(seed=seed)).bfloat16())
