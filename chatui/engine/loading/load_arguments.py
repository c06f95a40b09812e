"""ModelSpec -> what from_pretrained() is called with, and the context of the model."""

import logging
import warnings
from dataclasses import replace
from typing import Any

import torch
from transformers import BitsAndBytesConfig, GgufConfig, PreTrainedConfig, PreTrainedTokenizerBase

from chatui.engine.loading.model_files import Files
from chatui.errors import ModelError
from chatui.i18n import N_
from chatui.model_spec import ModelSpec
from chatui.settings import DEFAULT_MODEL

UNKNOWN_CONTEXT = 8192
# The names by which configs that have no `max_position_embeddings` call it: MPT, Bloom, OpenELM, RWKV, Baichuan.
CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_context_length",
    "context_length",
    "model_max_length",
)


def resolve_auto(spec: ModelSpec, source: Files, device_map: str) -> ModelSpec:
    """The spec with `auto` decided by device and files. Raises ModelError where the parts do not go together."""
    if spec.quantization == "auto":
        has_levels = source.gguf_file is not None or source.levels is not None
        keeps = has_levels and device_map == "cpu" and spec.dtype in ("auto", "bfloat16")
        if keeps:
            return spec
        if spec.name == DEFAULT_MODEL and device_map == "cpu" and spec.dtype == "auto":
            # On the Hub it is bfloat16. Its package holds int4, and is several times as fast.
            return replace(spec, quantization="int4", dtype="bfloat16")
        return replace(spec, quantization="none")
    if spec.quantization in ("8bit", "4bit") and source.gguf_file:
        raise ModelError("A GGUF file is quantized already.", "Leave out --quantization, or load the original model.")
    if spec.quantization not in ("int8", "int4"):
        return spec
    if device_map != "cpu":
        bits = spec.quantization.removeprefix("int")
        raise ModelError(
            f"--quantization {spec.quantization} is for the CPU only.",
            f"Say --quantization {bits}bit, or --device-map cpu.",
        )
    if spec.dtype not in ("auto", "bfloat16"):
        raise ModelError(
            f"--quantization {spec.quantization} works in bfloat16, not in {spec.dtype}.",
            "Leave out --dtype, or --quantization.",
        )
    return replace(spec, dtype="bfloat16")


def resolve_dtype(spec: ModelSpec, config: PreTrainedConfig | None, device_map: str) -> ModelSpec:
    """The spec with bfloat16 for a float16 checkpoint on the CPU, where `auto` leaves the choice. GGUF files have no
    config.

    No kernel of ours takes float16, and PyTorch's take several times longer.
    """
    plain = config is not None and config.dtype is torch.float16 and not hasattr(config, "quantization_config")
    if not plain or spec.dtype != "auto" or spec.quantization != "none" or device_map != "cpu":
        return spec
    return replace(spec, dtype="bfloat16")


def notes_of_auto(asked: ModelSpec, resolved: ModelSpec) -> tuple[str, ...]:
    """What there is to say of weights that are not held as the files have them, and were not asked for like that."""
    if asked.quantization == "auto" and resolved.quantization == "int4":
        return (N_("Its weights are rounded to int4, as those of its package: --quantization none keeps bfloat16."),)
    if asked.dtype == "auto" and resolved.dtype == "bfloat16" and resolved.quantization == "none":
        return (N_("Its float16 weights are held in bfloat16, which is faster on a CPU: --dtype float16 keeps them."),)
    return ()


def device_map_of(asked: str) -> str:
    """What transformers is told; on a machine without an accelerator auto is the CPU."""
    if torch.accelerator.is_available() or asked == "cpu":
        return asked
    if asked.startswith(("cuda", "mps", "xpu")):
        raise ModelError(f"PyTorch finds no {asked} device here.", "Leave out --device-map, or say --device-map cpu.")
    return "cpu" if asked == "auto" else asked


def dtype_of(spec: ModelSpec, source: Files) -> "torch.dtype | str":
    """The precision to load in; a GGUF file's weights are unpacked to bfloat16, having no such type of their own."""
    if spec.dtype != "auto":
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[spec.dtype]
    return torch.bfloat16 if source.gguf_file else "auto"


def quantization_config(spec: ModelSpec, source: Files) -> BitsAndBytesConfig | GgufConfig | None:
    """What transformers is told."""
    if source.gguf_file:
        return GgufConfig(dequantize=True)
    if spec.quantization not in ("8bit", "4bit"):
        return None
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    options = four_bit if spec.quantization == "4bit" else {"load_in_8bit": True}
    return BitsAndBytesConfig(**options)


def quiet_quantization() -> None:
    """Silence what bitsandbytes says once per layer and token (it casts inputs on the CPU)."""
    warnings.filterwarnings("ignore", module="bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def chosen_context(spec: ModelSpec, max_context: int) -> int:
    """The tokens of context: those chosen for this loading, but no more than the model was made for."""
    return max_context if spec.context is None else min(spec.context, max_context)


def context_length(config: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> int:
    """Tokens that the model was made for; 8192 where neither config nor tokenizer says."""
    for name in CONTEXT_NAMES:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    known = tokenizer.model_max_length if tokenizer is not None else 0
    return int(known) if 0 < known < 10**9 else UNKNOWN_CONTEXT
