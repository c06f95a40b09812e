"""Which layers are of the usual shape, by what they hold and compute."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from chatui.engine.batching.attention import AttentionOptions
from chatui.engine.batching.decoder_layers import DecoderLayer, UnusualLayerError, read_layer
from chatui.engine.kernels.layer_ops import GELU_TANH, SILU
from tests import models

OPTIONS = AttentionOptions(scaling=0.5, sliding_window=8, softcap=None, has_sinks=False)


def layer_of(kind: str = "llama") -> Any:
    return copy.deepcopy(models.model(kind)).get_submodule("model.layers.0")


def read(layer: nn.Module, options: AttentionOptions = OPTIONS) -> DecoderLayer:
    with torch.inference_mode():
        return read_layer(layer, (2, 8, 8), options, torch.float32)


def test_what_is_read() -> None:
    own = layer_of()
    layer = read(own)
    assert layer.projections == (own.self_attn.q_proj, own.self_attn.k_proj, own.self_attn.v_proj)
    assert (layer.output, layer.down) == (own.self_attn.o_proj, own.mlp.down_proj)
    assert (layer.attention.heads, layer.attention.shared, layer.attention.window) == (4, 2, 8)
    assert layer.activation == SILU
    assert layer.head_norms is None
    assert not layer.norms["input_layernorm"].plus_one


def test_families() -> None:
    assert len(read(layer_of("phi3")).projections) == len(read(layer_of("phi3")).multiplications) == 1
    assert read(layer_of("qwen3")).head_norms is not None
    gemma = read(layer_of("gemma3"))
    assert gemma.activation == GELU_TANH
    assert len(gemma.norms) == 4
    assert all(norm.plus_one for norm in gemma.norms.values())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("mlp.act_fn", nn.ReLU()),
        ("self_attn.q_proj", nn.Sequential(nn.Linear(32, 32))),
        ("self_attn.q_proj", nn.Linear(32, 32).bfloat16()),
        ("input_layernorm", nn.LayerNorm(32)),
        ("input_layernorm", nn.Identity()),
        ("self_attn", nn.Linear(32, 32)),
        ("another", nn.Linear(32, 32)),
        ("self_attn.another", nn.Linear(32, 32)),
        ("mlp.another", nn.Linear(32, 32)),
    ],
)
def test_other_parts_are_refused(name: str, part: nn.Module) -> None:
    layer = layer_of()
    parent, _, last = name.rpartition(".")
    (layer.get_submodule(parent) if parent else layer).add_module(last, part.eval())
    with pytest.raises(UnusualLayerError):
        read(layer)


def test_sinks_and_layers_that_learn_are_refused() -> None:
    with pytest.raises(UnusualLayerError):
        read(layer_of(), AttentionOptions(0.5, None, None, has_sinks=True))
    with pytest.raises(UnusualLayerError):
        read(layer_of().train())
