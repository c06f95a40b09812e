"""From the tensors that file headers list to a ModelAnatomy: parameters, bytes by precision, bytes read for a token."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from chatui.chat import ModelAnatomy
from chatui.estimates import MAX_CHUNK, AttentionShape, prefill_activations
from chatui.kv_size import WindowedLayers
from chatui.model_spec import GPU_PRECISIONS, PRECISIONS
from chatui.models.configs import Config, Layout, is_tied
from chatui.stored_tensors import (
    GGUF_LEVELS,
    JOINED_ROWS,
    StoredTensor,
    is_embedding,
    is_head,
    is_token_embedding,
    weight_bytes,
)

KV_BYTES = 2
"""Bytes of a number in the K/V: bfloat16."""
SCALE_BYTES = 2
"""Bytes of the scale that the numbers of a head share in int8."""
SCALES = re.compile(
    r"\.(?:qzeros|scales|g_idx|absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+|SCB|weight_format"
    r"|weight_scale(?:_inv|_2)?|input_scale|weight_shape|weight_zero_point|(?:weight|input)_global_scale)$|_scales$"
)
"""Tensors beside quantized weights, of GPTQ, AWQ, bitsandbytes, FP8, compressed-tensors and MXFP4."""
BUFFERS = re.compile(r"(?:rotary_emb\.inv_freq|\.masked_bias|position_ids|e_score_correction_bias)$")
LAYER = re.compile(r"^(?:model\.)?layers\.(\d{1,6})\.")
NEVER_PACKED = frozenset({"gpt2"})
"""Architectures whose layers are of a class that int8 and int4 leave dense: transformers' Conv1D."""
OTHER_PARTS = frozenset(
    {"vision_tower", "visual", "vision_model", "vision_encoder", "vision_embed_tokens", "audio_tower", "audio_encoder"}
    | {"multi_modal_projector", "embed_vision", "embed_audio", "mm_projector", "connector", "vision_adapter"}
)
"""Parts of models that read pictures or sound, which are not read to write text."""


def model_tensors(tensors: Iterable[StoredTensor], layout: Layout, config: Config) -> list[StoredTensor]:
    """The weights that transformers holds, each with the number of elements that it has when it is not quantized.

    Left out are scales, buffers, an output layer that is the embedding, and layers for multi-token prediction.
    """
    kept = []
    for tensor in tensors:
        layer = LAYER.match(tensor.name)
        beyond = bool(layer and layout.layers and int(layer[1]) >= layout.layers) or tensor.name.startswith("mtp.")
        is_mask = len(tensor.shape) == 4 and tensor.name.endswith("attn.bias")
        is_copy = is_tied(config) is True and is_head(tensor) and not tensor.dtype.startswith("GGUF")
        if not (beyond or is_mask or is_copy or SCALES.search(tensor.name) or BUFFERS.search(tensor.name)):
            dense = _unpacked(tensor, config)
            is_conv = layout.architecture in NEVER_PACKED and not is_embedding(dense)
            kept.append(replace(dense, shape=(dense.elements,)) if is_conv else dense)
    return kept


def synthetic_tensors(layout: Layout, parameters: int) -> list[StoredTensor]:
    """Tensors with the total of `parameters`, for models of which only that number and the config are known."""
    size, table = max(1, layout.hidden_size), layout.vocabulary * layout.hidden_size
    tensors = [StoredTensor("embed_tokens.weight", "BF16", (layout.vocabulary, size))]
    if not layout.tied:
        tensors.append(StoredTensor("lm_head.weight", "BF16", (layout.vocabulary, size)))
    if layout.expert_parameters:
        tensors.append(StoredTensor("layers.experts.weight", "BF16", (layout.expert_parameters,)))
    rest = parameters - table * (1 if layout.tied else 2) - layout.expert_parameters
    if rest < 0 or not table:
        return [StoredTensor("layers.weight", "BF16", (parameters,))]
    rows = 0 if layout.architecture in NEVER_PACKED else rest // size // JOINED_ROWS * JOINED_ROWS
    tensors.append(StoredTensor("layers.proj.weight", "BF16", (rows, size)))
    return [*tensors, StoredTensor("norm.weight", "BF16", (rest - rows * size,))]


def active_parameters(tensors: Iterable[StoredTensor], layout: Layout) -> int:
    """How many of the parameters take part in one token: all but those of the experts that it does not use."""
    return sum(_active(tensor, layout) for tensor in tensors)


def anatomy(tensors: list[StoredTensor], layout: Layout) -> ModelAnatomy:
    """The anatomy of the model with these weights, K/V and activations in bfloat16, without a bandwidth."""
    precisions = {**PRECISIONS, **GPU_PRECISIONS}
    label = gguf_label(tensors)
    if label:
        precisions[label] = ("bfloat16", "auto")
    read = _read_tensors(tensors, layout)
    kv_per_token = KV_BYTES * (layout.kv_elements or 0)
    shape = AttentionShape(
        layers=max(1, layout.layers),
        hidden_size=layout.hidden_size,
        heads=layout.heads,
        kv_heads=layout.kv_heads or layout.heads,
        widest=layout.widest,
        kv_per_token=kv_per_token,
        writes_out=layout.writes_out_attention,
    )
    fixed, for_each = prefill_activations(shape, KV_BYTES, MAX_CHUNK)
    return ModelAnatomy(
        layers=layout.layers,
        parameters=sum(tensor.elements for tensor in tensors),
        active=active_parameters(tensors, layout),
        weights={name: weight_bytes(tensors, *how) for name, how in precisions.items()},
        read={name: weight_bytes(read, *how) for name, how in precisions.items()},
        kv_per_token=kv_per_token,
        activations=fixed,
        activations_per_token=for_each,
        int8_kv_per_token=_int8_kv_per_token(layout),
        window=layout.sliding_window,
        windowed=_windowed(layout, kv_per_token),
    )


def _windowed(layout: Layout, kv_per_token: int) -> WindowedLayers | None:
    """What the layers with a window take, where others see all; all layers take as much."""
    if layout.window is None or not layout.some_slide:
        return None
    own, int8 = (size * layout.window_layers // layout.layers for size in (kv_per_token, _int8_kv_per_token(layout)))
    return WindowedLayers(layout.window, own, int8)


def _int8_kv_per_token(layout: Layout) -> int:
    """Bytes of K/V for one token in int8; 0 for models with layers that have none, which hold no blocks."""
    if not layout.kv_elements or layout.attention_layers < layout.layers:
        return 0
    heads = layout.heads if layout.latent_elements else layout.kv_heads or layout.heads
    return layout.kv_elements + 2 * SCALE_BYTES * heads * layout.layers


def gguf_label(tensors: Iterable[StoredTensor]) -> str:
    """The type of GGUF in which most weights stay as the file has them, "" for none."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor.dtype in GGUF_LEVELS:
            label = GGUF_LEVELS[tensor.dtype].label
            sizes[label] = sizes.get(label, 0) + tensor.elements
    return max(sizes, key=sizes.__getitem__, default="")


def quantization_bits(config: Config) -> int:
    """The bits of a weight by the quantization_config of a checkpoint, 4 where it does not say."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return 4
    bits: Any = quantization.get("bits") or quantization.get("w_bit")
    groups = quantization.get("config_groups")
    if not bits and isinstance(groups, Mapping):
        weights = [group.get("weights") for group in groups.values() if isinstance(group, Mapping)]
        bits = next((part.get("num_bits") for part in weights if isinstance(part, Mapping)), None)
    return bits if isinstance(bits, int) and 0 < bits <= 32 else 4


def _quantization_method(config: Config) -> str:
    quantization = config.get("quantization_config")
    return str(quantization.get("quant_method", "")) if isinstance(quantization, Mapping) else ""


def _read_tensors(tensors: list[StoredTensor], layout: Layout) -> list[StoredTensor]:
    """What one token reads: used experts only, no embedding of which it takes a row, and of pictures nothing."""
    has_head = any(is_head(tensor) for tensor in tensors)
    found = []
    for tensor in tensors:
        if not OTHER_PARTS.isdisjoint(tensor.name.split(".")):
            continue
        if is_embedding(tensor):
            if not has_head and is_token_embedding(tensor):
                found.append(replace(tensor, name="lm_head.weight"))
        elif _is_expert(tensor):
            found.append(StoredTensor("layers.experts.weight", tensor.dtype, (_active(tensor, layout),)))
        else:
            found.append(tensor)
    return found


def _active(tensor: StoredTensor, layout: Layout) -> int:
    if not _is_expert(tensor):
        return tensor.elements
    return tensor.elements * layout.used_experts // layout.experts


def _is_expert(tensor: StoredTensor) -> bool:
    return "experts" in tensor.name.split(".") or "_exps." in tensor.name


def _unpacked(tensor: StoredTensor, config: Config) -> StoredTensor:
    """A quantized weight as a dense one; other tensors as they are."""
    module, _, last = tensor.name.rpartition(".")
    if tensor.dtype == "I32" and last in ("qweight", "weight_packed") and len(tensor.shape) == 2:
        factor = 32 // quantization_bits(config)
        rows, columns = tensor.shape
        if last == "weight_packed":
            shape = (rows, columns * factor)
        else:
            shape = (columns * factor, rows) if _quantization_method(config) == "awq" else (columns, rows * factor)
        return StoredTensor(f"{module}.weight", "BF16", shape)
    if tensor.dtype == "U8" and (last in ("weight", "weight_packed") or last.endswith("_blocks")):
        name = f"{module}.weight" if last == "weight_packed" else tensor.name
        return StoredTensor(name, "BF16", (2 * tensor.elements,))
    if tensor.dtype.startswith("F8") or (tensor.dtype == "I8" and last == "weight"):
        return replace(tensor, dtype="BF16")
    return tensor
