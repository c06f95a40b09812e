"""LoRA adapters: small changes of a model's layers, on top of a base model whose weights are shared.

The files are peft's: https://huggingface.co/docs/peft/developer_guides/checkpoint. Only safetensors are read. The
layers are our own, because peft's do not wrap packed weights, and its import takes seconds.
"""

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from chatui.engine.kernels.quantized import PackedLinear
from chatui.errors import ModelError
from chatui.model_spec import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config
from chatui.stored_tensors import read_header

PREFIX = "base_model.model."
"""What peft puts before the names of the base model's modules."""
KEY = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.(?P<kind>weight|bias))?")


@dataclass(frozen=True)
class LowRankChange:
    """The change of one layer: `scale * b @ a`. `a` is [rank, in], `b` is [out, rank], `bias` is [out]."""

    a: Tensor
    b: Tensor
    scale: float
    bias: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> "LowRankChange":
        """The same change on a device, in a precision."""
        bias = None if self.bias is None else self.bias.to(device, dtype)
        return LowRankChange(self.a.to(device, dtype), self.b.to(device, dtype), self.scale, bias)


@dataclass(frozen=True)
class Adapter:
    """What the files of an adapter hold: changes of layers, and whole tensors that replace those of the base model."""

    changes: Mapping[str, LowRankChange]
    replaced: Mapping[str, Tensor]

    @property
    def elements(self) -> int:
        """The number of its parameters."""
        parts = [part for change in self.changes.values() for part in (change.a, change.b, change.bias)]
        return sum(part.numel() for part in [*parts, *self.replaced.values()] if part is not None)


class LoraLinear(nn.Module):
    """A linear layer with a low-rank change: `y = layer(x) + scale * (x @ a.T) @ b.T` (https://arxiv.org/abs/2106.09685).

    The layer may be a dense or a packed one, or the Conv1D of GPT-2.
    """

    def __init__(self, layer: nn.Module, change: LowRankChange) -> None:
        super().__init__()
        self.layer, self.scale = layer, change.scale
        self.a, self.b = nn.Parameter(change.a, requires_grad=False), nn.Parameter(change.b, requires_grad=False)
        self.bias = None if change.bias is None else nn.Parameter(change.bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the type of the layer's output."""
        result: Tensor = self.layer(x)
        change = functional.linear(functional.linear(x.to(self.a.dtype), self.a), self.b, self.bias)
        return result + (change * self.scale).to(result.dtype)

    @property
    def weight(self) -> Tensor:
        """The dense weight [out, in], made anew at each call: for model code that reads it."""
        weight: Tensor = self.layer.weight  # type: ignore[assignment]  # torch's types say Tensor | Module
        return weight + (self.scale * self.b @ self.a).to(weight.dtype)


class LoraEmbedding(nn.Module):
    """An embedding with a low-rank change; `a` is [rank, tokens], `b` is [size, rank]."""

    def __init__(self, layer: nn.Embedding, change: LowRankChange) -> None:
        super().__init__()
        self.layer, self.scale = layer, change.scale
        self.a, self.b = nn.Parameter(change.a, requires_grad=False), nn.Parameter(change.b, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        """[...] token ids -> [..., size]."""
        result: Tensor = self.layer(ids)
        change = functional.linear(functional.embedding(ids, self.a.T), self.b)
        return result + (change * self.scale).to(result.dtype)


def read_adapter(name: str, folder: Path) -> Adapter:
    """Read the files of an adapter. Raises ModelError for damaged files, and for kinds that cannot be applied here."""
    config = read_adapter_config(folder)
    _check_kind(name, config)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{name} has no weights in safetensors format ({ADAPTER_WEIGHTS}).",
            "Save it again with peft's save_pretrained, which writes safetensors.",
        )
    read_header(folder / ADAPTER_WEIGHTS)  # raises ModelError if it is damaged
    parts: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for key, tensor in load_file(folder / ADAPTER_WEIGHTS).items():
        own_name = key.removeprefix(PREFIX)
        found = KEY.fullmatch(own_name)
        if found is None:
            replaced[own_name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor
        else:
            side = found["side"] + ("_bias" if found["kind"] == "bias" else "")
            parts.setdefault(found["module"], {})[side] = tensor
    return Adapter({module: _change(name, config, module, sides) for module, sides in parts.items()}, replaced)


def apply_adapter(name: str, base: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """A model with the adapter's changes that shares all other weights with `base`, which stays as it is.

    Raises ModelError if the adapter was made for another model.
    """
    model = _share_weights(base)
    for tensor_name, tensor in adapter.replaced.items():
        _replace_tensor(name, model, tensor_name, tensor)
    for module_name, change in adapter.changes.items():
        layer = _module(name, model, module_name)
        if _shape_of(layer) != (change.b.shape[0], change.a.shape[1]):
            raise _other_base(name, f"{module_name} has another shape")
        change = change.to(model.device, model.dtype)
        changed = LoraEmbedding(layer, change) if isinstance(layer, nn.Embedding) else LoraLinear(layer, change)
        model.set_submodule(module_name, changed)
    return model


def _check_kind(name: str, config: Mapping[str, Any]) -> None:
    """Raise ModelError for adapters that are no plain LoRA."""
    kind = str(config.get("peft_type") or "LORA").upper()
    special = next((key for key in ("use_dora", "use_qalora", "layer_replication") if config.get(key)), "")
    if kind != "LORA" or special:
        raise ModelError(
            f"{name} is an adapter of a kind that cannot be applied here ({special or kind}).",
            "Merge it into its model (peft: merge_and_unload, then save_pretrained), and load that.",
        )


def _change(name: str, config: Mapping[str, Any], module: str, sides: Mapping[str, Tensor]) -> LowRankChange:
    try:
        a, b = sides["A"], sides["B"]
        alpha = float(_of_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"]))
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"The files of {name} are damaged: {module} is incomplete.", "Download it again.") from None
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise ModelError(
            f"{name} changes {module}, which is no linear layer and cannot be changed here.",
            "Merge it into its model (peft: merge_and_unload, then save_pretrained), and load that.",
        )
    # https://arxiv.org/abs/2312.03732 divides by the root of the rank.
    return LowRankChange(
        a, b, alpha / (math.sqrt(a.shape[0]) if config.get("use_rslora") else a.shape[0]), sides.get("B_bias")
    )


def _of_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value for a module: that of the first pattern that fits the end of its name, as peft's get_pattern_key()."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _share_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules with the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _module(name: str, model: PreTrainedModel, module: str) -> nn.Module:
    try:
        return model.get_submodule(module)
    except AttributeError:
        raise _other_base(name, f"it has no {module}") from None


def _shape_of(layer: nn.Module) -> tuple[int, ...]:
    """(out, in) of a linear layer, (size, tokens) of an embedding; () for other modules."""
    if isinstance(layer, nn.Linear | PackedLinear):
        return layer.out_features, layer.in_features
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 2:  # an embedding, or transformers' Conv1D: [in, out]
        return tuple(weight.shape[::-1])
    return ()


def _replace_tensor(name: str, model: PreTrainedModel, tensor_name: str, tensor: Tensor) -> None:
    """Replace a tensor of the copied model, without changing the base's. A packed layer becomes a dense one."""
    module_name, _dot, attribute = tensor_name.rpartition(".")
    module = _module(name, model, module_name)
    tensor = tensor.to(model.device, model.dtype)
    if isinstance(module, PackedLinear) and attribute == "weight":
        dense = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
        if dense.weight.shape == tensor.shape:
            dense.weight = nn.Parameter(tensor, requires_grad=False)
            if module.bias is not None:
                dense.bias = nn.Parameter(module.bias.to(model.dtype), requires_grad=False)
            model.set_submodule(module_name, dense)
            return
    present = getattr(module, attribute, None)
    if not isinstance(present, Tensor) or present.shape != tensor.shape:
        raise _other_base(name, f"{tensor_name} has another shape")
    setattr(module, attribute, nn.Parameter(tensor, requires_grad=False) if attribute in module._parameters else tensor)


def _other_base(name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name} was not made for the model that it is put on: {reason}.",
        f"Serve the model that its {ADAPTER_CONFIG} names.",
    )
