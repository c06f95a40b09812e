"""Facts without loading agree with models that transformers builds: K/V, experts, and weights in every precision."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PretrainedConfig

from chatui.engine.loading import anatomy
from chatui.model_spec import PRECISIONS
from chatui.models import configs
from chatui.models.facts import from_config, read_facts
from tests import models
from tests.configs import PUBLISHED

SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
MORE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention", "mamba", "attention"]},
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"num_hidden_layers": 8},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "conv"], "num_dense_layers": 2},
    "qwen2_moe": {"mlp_only_layers": [1], "decoder_sparse_step": 2},
    "qwen3_moe": {"mlp_only_layers": [0], "num_experts": 16},
    "deepseek_v3": {"num_key_value_heads": 4, "n_routed_experts": 16, "first_k_dense_replace": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2},
    "minicpm3": {"num_key_value_heads": 4},
}
# These ignore num_key_value_heads.
OWN_HEADS = ("gpt_neox", "gpt_bigcode")
# transformers has no config of this name. It is that of deepseek_v3. The small deepseek_v2 has none over blocks.
NOT_BUILT = ("kimi_k2", "deepseek_v2")
KINDS = sorted((configs.PLAIN | configs.LATENT | configs.STATE_ONLY).difference(NOT_BUILT))


def config_of(kind: str) -> PretrainedConfig:
    values = {**SMALL, **MORE.get(kind, {})}
    if kind in OWN_HEADS:
        del values["num_key_value_heads"]
    config: PretrainedConfig = AutoConfig.for_model(kind, **values)
    return config


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_that_is_known_has_the_kv_and_the_experts_of_the_model(kind: str) -> None:
    config = config_of(kind)
    built = anatomy.of(anatomy.blank(config, torch.bfloat16))
    facts = from_config(kind, config.to_dict(), parameters=built.parameters)
    assert facts.kv_per_token == built.kv_per_token
    assert facts.active == built.active
    assert facts.anatomy is not None
    assert facts.anatomy.window == built.window
    assert facts.anatomy.windowed == built.windowed


@pytest.mark.parametrize("kind", configs.DEFAULTS)
def test_values_that_configs_leave_out_are_those_of_transformers(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    assert {name: getattr(config, name) for name in configs.DEFAULTS[kind]} == configs.DEFAULTS[kind]


@pytest.mark.parametrize(
    "name",
    [name if at % 4 == 0 else pytest.param(name, marks=pytest.mark.exhaustive) for at, name in enumerate(PUBLISHED)],
)
def test_published_models_have_the_kv_and_the_active_parameters_of_the_model(name: str) -> None:
    published = PUBLISHED[name]
    built = anatomy.of(anatomy.blank(AutoConfig.for_model(**published.config), torch.bfloat16))
    facts = from_config(name, published.config, parameters=published.parameters)
    assert (facts.parameters, facts.active, facts.kv_per_token) == (
        built.parameters,
        built.active,
        built.kv_per_token,
    )
    assert facts.anatomy is not None
    assert facts.anatomy.int8_kv_per_token == built.int8_kv_per_token
    for precision in PRECISIONS:
        assert facts.anatomy.weights[precision] == pytest.approx(built.weights[precision], rel=0.02), precision
        assert facts.anatomy.read[precision] == pytest.approx(built.read[precision], rel=0.03), precision
    assert facts.anatomy.activations == pytest.approx(built.activations, rel=0.4)


@pytest.mark.parametrize("kind", models.CONFIGS)
def test_headers_give_what_the_loaded_model_takes(tmp_path: Path, kind: str) -> None:
    facts = read_facts(models.save(tmp_path, kind))
    built = anatomy.of(anatomy.blank(models.CONFIGS[kind], torch.bfloat16))
    assert facts.anatomy is not None
    assert facts.is_exact
    assert (facts.parameters, facts.active) == (built.parameters, built.active)
    assert facts.kv_per_token == built.kv_per_token
    assert facts.anatomy.window == built.window
    assert facts.anatomy.windowed == built.windowed
    for precision in PRECISIONS:
        assert facts.anatomy.weights[precision] == built.weights[precision], precision
        assert facts.anatomy.read[precision] == built.read[precision], precision
    assert facts.has_chat_template
    assert facts.stored == "float32"
