"""A model's Anatomy from its config alone: built without contents, it shows what it is made of."""

import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from chatui.chat import ModelAnatomy
from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.batching.kv_cache import KVLayout
from chatui.engine.batching.token_budget import MAX_TOKENS
from chatui.engine.kernels.quantized import linear_layers
from chatui.engine.loading import build_lock
from chatui.estimates import AttentionShape, prefill_activations
from chatui.kv_size import WindowedLayers
from chatui.model_spec import PRECISIONS
from chatui.models.configs import WITHOUT_KEYS, experts_used
from chatui.settings import Dtype, Quantization
from chatui.stored_tensors import StoredTensor, weight_bytes

log = logging.getLogger(__name__)
build_lock.install()


def blank(config: PreTrainedConfig, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model on torch's meta device, where tensors have shapes and types but no contents.

    A checkpoint's own quantization is left out: the weights are as large as they were made.
    """
    own = copy.deepcopy(config)
    own.__dict__.pop("quantization_config", None)
    build: Any = AutoModelForCausalLM.from_config
    # Of the ways to run experts this one looks at no numbers, of which there are none.
    options = {"dtype": dtype, "experts_implementation": "batched_mm", "trust_remote_code": trust_remote_code}
    with torch.device("meta"):
        model: PreTrainedModel = build(own, **options)
    return model


def from_config(config: PreTrainedConfig, dtype: torch.dtype, trust_remote_code: bool = False) -> ModelAnatomy | None:
    """The anatomy of the model that a config describes, None where it cannot be counted."""
    try:
        return of(blank(config, dtype, trust_remote_code))
    except Exception as error:  # a model may do anything here, and still be good to chat with
        log.debug("no anatomy of %s: %r", type(config).__name__, error)
        return None


def of(model: PreTrainedModel, precisions: Mapping[str, tuple[Dtype, Quantization]] = PRECISIONS) -> ModelAnatomy:
    """The anatomy of a `blank` model, its weights held in each of the precisions; the bandwidth is left out.

    One token reads the weights of the part that writes text, but no table of which it takes a row, and of the experts
    only as many as it uses. Its keys and values have the model's own type.
    """
    parts = list(_parts(model))
    config = model.config.get_text_config(decoder=True)
    shape = probe_layout(model)
    kv_per_token = _kv_per_token(model, config) if shape is None else shape.bytes_per_token
    activations, activations_per_token = _activations(model, config, kv_per_token)
    return ModelAnatomy(
        layers=config.num_hidden_layers,
        parameters=sum(held.elements for held, _, _ in parts),
        active=sum(active for _, _, active in parts),
        weights={name: weight_bytes([held for held, _, _ in parts], *how) for name, how in precisions.items()},
        read={name: weight_bytes([read for _, read, _ in parts if read], *how) for name, how in precisions.items()},
        kv_per_token=kv_per_token,
        activations=activations,
        activations_per_token=activations_per_token,
        int8_kv_per_token=0 if shape is None else shape.in_int8().bytes_per_token,
        window=None if shape is None else shape.window,
        windowed=None if shape is None else _windowed(shape),
        state_bytes=0 if shape is None else shape.state_bytes,
    )


def _windowed(shape: KVLayout) -> WindowedLayers | None:
    """What the layers with a window take, where others see all."""
    some, in_int8 = shape.windowed, shape.in_int8().windowed
    return some and replace(some, int8_kv_per_token=in_int8.kv_per_token if in_int8 else 0)


def _parts(model: PreTrainedModel) -> Iterator[tuple[StoredTensor, StoredTensor | None, int]]:
    """Each weight as the catalogue counts it, what a token reads of it, and how many of its numbers a token uses.

    Only linear layers and the table of embeddings keep their shape, for nothing else is ever packed.
    """
    accessors: Any = model
    table, output = accessors.get_input_embeddings().weight, accessors.get_output_embeddings()
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    linears = {layer.weight for layer in linear_layers(model).values()}
    writing = {*accessors.get_decoder().parameters(), *output.parameters()}
    used, experts = experts_used(model.config.get_text_config(decoder=True).to_dict())
    for path, weight in model.named_parameters():
        names, count = path.split("."), weight.numel()
        name = "embed" if weight is table else "lm_head" if weight is output.weight else names[-2]
        shaped = weight is table or weight in linears
        held = StoredTensor(f"{name}.weight", "F32", tuple(weight.shape) if shaped else (count,))
        active = count * used // experts if "experts" in names else count
        if weight is output.weight:
            yield held, replace(held, name="lm_head.weight"), count
        elif weight in tables or weight not in writing:
            yield held, None, count
        else:
            yield held, held if active == count else StoredTensor(path, "F32", (active,)), active


def _kv_per_token(model: PreTrainedModel, config: PreTrainedConfig) -> int:
    """Bytes of keys and values for one token, all layers together, by the config: for models that blocks do not serve.

    A window makes no layer's share smaller; compressed keys are counted as wide as attention takes them.
    """
    kinds = getattr(config, "layer_types", None) or [""] * config.num_hidden_layers
    layers = sum(kind not in WITHOUT_KEYS for kind in kinds)
    heads = getattr(config, "num_attention_heads", 0)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
    return int(layers * kv_heads * 2 * size * model.dtype.itemsize)


def _activations(model: PreTrainedModel, config: PreTrainedConfig, kv_per_token: int) -> tuple[int, int]:
    """(bytes, bytes for each token before) that the prefill of one chunk takes beside the K/V, roughly."""
    accessors: Any = model
    head = accessors.get_output_embeddings()
    used = experts_used(config.to_dict())[0]
    outputs = [layer.out_features for layer in linear_layers(model).values() if layer is not head]
    experts = [weight for path, weight in model.named_parameters() if "experts" in path.split(".")]
    heads = getattr(config, "num_attention_heads", 0)
    shape = AttentionShape(
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        widest=max(
            [*outputs, *(used * max((0, *weight.shape[1:])) for weight in experts)], default=4 * config.hidden_size
        ),
        kv_per_token=kv_per_token,
        writes_out=bool(getattr(config, "attn_logit_softcapping", None))
        or any("sinks" in path for path, _ in model.named_parameters()),
    )
    return prefill_activations(shape, model.dtype.itemsize, MAX_TOKENS)
