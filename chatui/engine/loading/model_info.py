"""What is known about a model once it is loaded, and what loading it took."""

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatui.chat import ModelAnatomy, ModelInfo
from chatui.engine.kernels.quantized import Int4Linear
from chatui.engine.loading import bandwidth
from chatui.engine.text.chat_template import Template
from chatui.generation_settings import GenerationSettings

PAGE = 4096


def describe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    precision: str,
    parameters: int,
    anatomy: ModelAnatomy | None,
) -> ModelInfo:
    """What the model itself says, and how fast it can be read from memory; name and context are left out."""
    defaults = model.generation_config.to_diff_dict() if model.generation_config else {}
    weight_bytes = sum(weights.nbytes for weights in (*model.parameters(), *model.buffers()))
    read_bytes = weight_bytes - _only_looked_up(model)
    return ModelInfo(
        name="",
        precision=precision,
        parameters=parameters,
        weight_bytes=weight_bytes,
        context_length=0,
        device=str(model.device),
        defaults=_default_settings(defaults, template.thinks),
        read_bytes=read_bytes,
        dtype=str(model.dtype).removeprefix("torch."),
        stop_ids=tuple(sorted((_stop_ids(model, tokenizer) | template.end_ids) - template.inner_ids)),
        template=template.facts(tokenizer.get_chat_template()),
        anatomy=anatomy
        and replace(
            anatomy,
            # Some precisions only some files and devices have.
            weights={precision: weight_bytes, **anatomy.weights},
            read={precision: read_bytes, **anatomy.read},
            bandwidth=bandwidth.measure_bandwidth(model.device, read_bytes),
        ),
    )


def _default_settings(config: Mapping[str, Any], thinks: bool) -> GenerationSettings:
    """The settings of a generation config. A model that thinks writes until it is done, as thoughts are long."""
    settings = GenerationSettings.from_generation_config(config)
    if thinks and "max_new_tokens" not in settings.model_fields_set:
        return settings.model_copy(update={"max_new_tokens": 0})
    return settings


def _only_looked_up(model: PreTrainedModel) -> int:
    """Bytes of the table of embeddings, of which a token takes one row, unless it is the output layer as well."""
    accessors: Any = model
    table, output = accessors.get_input_embeddings(), accessors.get_output_embeddings()
    if table is None or output is None or getattr(table, "weight", None) is output._parameters.get("weight"):
        return 0
    return sum(weights.nbytes for weights in table.parameters())


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that config, generation config or tokenizer call the end."""
    ids: set[int] = set()
    config = model.config.get_text_config(decoder=True)
    for found in (
        getattr(config, "eos_token_id", None),
        getattr(model.generation_config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        ids.update(found if isinstance(found, list) else [] if found is None else [found])
    return frozenset(ids)


def memory_in_use(device_map: str) -> int:
    """Bytes of memory that this process holds: the computer's, or where weights go elsewhere, its GPUs'."""
    if device_map != "cpu" and torch.cuda.is_available():
        return sum(torch.cuda.memory_allocated(index) for index in range(torch.cuda.device_count()))
    # What was freed glibc keeps for later: 300 MB after a 135M model was packed.
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if give_back is not None:
        give_back(0)
    held: int = psutil.Process().memory_info().rss
    return held


def copy_mapped_tensors(model: PreTrainedModel) -> None:
    """Copy what 4-bit layers still have in a file of levels, all of which would stay in memory for that small part."""
    for layer in model.modules():
        if isinstance(layer, Int4Linear):
            layer.scales_and_zeros = layer.scales_and_zeros.clone()


def touch_pages(model: PreTrainedModel) -> None:
    """Read a byte of every page of the weights: those mapped from a file are in memory only once they were read."""
    for weights in (*model.parameters(), *model.buffers()):
        if weights.device.type == "cpu" and weights.is_contiguous():
            weights.detach().reshape(-1).view(torch.uint8)[::PAGE].any()
