"""Linear layers whose weights are 4-bit or 8-bit levels, for the CPU: less memory to read for each token."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chatui.engine.kernels import ops
from chatui.engine.kernels.levels import CHUNK, GROUP, GgufLevels, Levels, LevelsFile, joined, unpacked
from chatui.engine.kernels.rounding import rounded, rounded_to_8_bits
from chatui.engine.kernels.threads import one_thread
from chatui.settings import Quantization

log = logging.getLogger(__name__)

Kind = Literal["int4", "int8"]
ReportPhase = Callable[[str], None]

# The int4 kernel packs rows in blocks: aten/src/ATen/native/LinearAlgebra.cpp, _convert_weight_to_int4pack_cpu.
ROWS = 16
# Layers that are not rounded. What chooses experts is small, and a wrong choice costs more than its memory is worth.
# The weight of `dt_proj` is read by Mamba itself at each token, and would be made anew each time.
KEPT_DENSE = {"gate", "router", "dt_proj"}


class PackedLinear(nn.Module, ABC):
    """What both kinds of packed layer share: activations are bfloat16 inside, since only that has fast kernels."""

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("bias", None if bias is None else bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the type of `x`."""
        product = self._product(x.reshape(-1, self.in_features).bfloat16().contiguous())
        if self.bias is not None:
            product = product + self.bias
        return product.reshape(*x.shape[:-1], self.out_features).to(x.dtype)

    @property
    def weight(self) -> Tensor:
        """The dense weight, bfloat16 [out, in], made anew at each call: for model code that reads it."""
        return self._product(torch.eye(self.in_features, dtype=torch.bfloat16)).T

    @abstractmethod
    def _product(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out], both bfloat16."""

    def extra_repr(self) -> str:
        """What `print(model)` shows of the layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int4Linear(PackedLinear):
    """A linear layer whose weight is one plane of 4-bit levels, or the sum of two.

    Planes lie side by side, so that one product with the input repeated sums them without rounding in between.
    """

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, levels: Levels, in_features: int, bias: Tensor | None = None) -> None:
        super().__init__(in_features, levels.nibbles.shape[0], bias)
        self.planes = levels.nibbles.shape[1] * 2 // in_features
        self.register_buffer("packed", _packed(levels.nibbles))
        self.register_buffer("scales_and_zeros", levels.scales_and_zeros.contiguous())

    def _product(self, x: Tensor) -> Tensor:
        x = x if self.planes == 1 else x.repeat(1, self.planes)
        if self.is_ours():
            return ops.int4mm(x, self.packed, self.scales_and_zeros)
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales_and_zeros)
        return product

    def is_ours(self) -> bool:
        """Whether our own kernel computes the product."""
        return ops.takes(self.out_features) and ops.reads(self.packed)


class Int8GroupLinear(PackedLinear):
    """A linear layer with 8-bit levels, each group of 32 inputs with a scale and a zero; only our kernel takes them.

    `levels` are int8 [out, in], `scales_and_zeros` bfloat16 [in / 32, out, 2]: weight = level * scale + zero.
    """

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, levels: Tensor, scales_and_zeros: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(levels.shape[1], levels.shape[0], bias)
        self.register_buffer("packed", ops.pack_int8(levels))
        self.register_buffer("scales_and_zeros", scales_and_zeros)

    def _product(self, x: Tensor) -> Tensor:
        return ops.int8mm(x, self.packed, self.scales_and_zeros)


def of_levels(levels: Levels, in_features: int, bias: Tensor | None = None) -> Int4Linear | Int8GroupLinear:
    """A layer with these levels, in the form that has the faster kernel here.

    Two planes as one take half as many instructions, and a tenth less memory.
    """
    factors = levels.of_joined(in_features) if ops.takes(len(levels.nibbles)) else None
    if factors is None:
        return Int4Linear(levels, in_features, bias)
    return Int8GroupLinear(_in_parts(levels.nibbles, joined), factors, bias)


class Int8Linear(PackedLinear):
    """A linear layer with 8-bit levels, symmetric, with one scale for each output. PyTorch multiplies them anywhere."""

    levels: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias)
        weight = weight.detach()
        rows = _rows(weight.shape[1])
        scales = (weight.abs().amax(1, keepdim=True).float() / 127).bfloat16()
        parts = zip(torch.split(weight, rows), torch.split(scales, rows), strict=True)
        levels = [(part / scale.float().clamp(min=1e-30)).round_().clamp_(-127, 127).char() for part, scale in parts]
        self.register_buffer("levels", torch.cat(levels))
        self.register_buffer("scales", scales.squeeze(1))

    def _product(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.aten._weight_int8pack_mm(x.contiguous(), self.levels, self.scales)
        return product


def in_8_bits(weight: Tensor, bias: Tensor | None = None) -> Int8GroupLinear | Int8Linear:
    """A layer with a dense weight [out, in] rounded to 8 bits, in the form that has the faster kernel here."""
    if ops.pays_in_8_bits(len(weight)):
        return Int8GroupLinear(*rounded_to_8_bits(weight), bias)
    return Int8Linear(weight, bias)


def pack(
    model: PreTrainedModel, quantization: Quantization, gguf: Path | None, kept: Path | None, report: ReportPhase
) -> tuple[str, tuple[str, ...]]:
    """Pack the weights where `quantization` asks for it; returns the precision in a few words, and notes.

    With auto or int4 the levels in the `gguf` file that was loaded, or those `kept` from one, stay as they are.
    """
    precision = str(model.dtype).removeprefix("torch.")
    if quantization == "8bit" or quantization == "4bit":
        return f"{quantization} bitsandbytes", ()
    if quantization == "none":
        return precision, ()
    kind: Kind | None = None if quantization == "auto" else quantization
    levels: LevelsFile | GgufLevels | None = None
    if kept and kind != "int8":
        levels = LevelsFile(kept)
    elif gguf and kind != "int8":
        levels = GgufLevels(gguf, {name: layer.weight for name, layer in linear_layers(model).items()})
    if kind:
        quantize(model, kind, levels, report)
    elif levels:
        # 0.4 s for 135M weights, where two threads take 0.25 s, or 15 s on a busy machine.
        with one_thread():
            quantize(model, None, levels, report)
    if not any(isinstance(module, PackedLinear) for module in model.modules()):
        return precision, () if kind is None else (f"No layer of this model can be {kind}: the weights are dense.",)
    experts = kind and any(parameter.dim() > 2 for name, parameter in model.named_parameters() if "expert" in name)
    notes = (f"The experts of this model are not {kind}: their weights are dense.",) if experts else ()
    return kind or (levels.label if levels else precision), notes


def quantize(
    model: PreTrainedModel,
    kind: Kind | None,
    levels: Mapping[str, Levels] | None,
    report: ReportPhase,
) -> list[str]:
    """Replace the model's linear layers, in place; returns the names of those that stayed dense.

    A layer with an entry in `levels` takes it; the others are rounded to `kind`, or stay dense where that is None, or
    where the kernels do not take their shape. The output layer is rounded to int8 at the least (with int4 there, a
    135M model's distribution was 20 times further off), and untied from the embedding, which stays dense.
    `report` is told how far it is.
    """
    linears = linear_layers(model)
    sizes = {name: layer.weight.numel() for name, layer in linears.items()}
    output: Any = model.get_output_embeddings
    head = next((name for name, layer in linears.items() if layer is output()), None)
    total, done, reported, dense = sum(sizes.values()), 0, -1, list[str]()
    for name in list(linears):
        if (tenth := 10 * done // total) != reported:
            reported = tenth
            report(f"packing the weights: {10 * tenth} %")
        layer_kind = None if name.rpartition(".")[2] in KEPT_DENSE else "int8" if kind and name == head else kind
        made = _made(linears.pop(name), layer_kind, levels.get(name) if levels else None)
        done += sizes[name]
        if made is None:
            dense.append(name)
        else:
            model.set_submodule(name, made)
    if isinstance(output(), PackedLinear):
        _untie(model)
    _let_go_of_files(model)
    log.info("%d linear layers are packed; dense: %s", len(sizes) - len(dense), ", ".join(dense) or "none")
    return dense


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The layers that could be packed, by their names."""
    return {name: module for name, module in model.named_modules() if type(module) is nn.Linear}


def fits(shape: tuple[int, ...], kind: Kind) -> bool:
    """Whether the kernel takes a weight [out, in] of this shape. The int8 one crashes on widths it does not take."""
    return len(shape) == 2 and shape[1] % GROUP == 0 and (kind == "int8" or shape[0] % ROWS == 0)


def _untie(model: PreTrainedModel) -> None:
    """Say in the config that the output layer is no longer the embedding."""
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = False


def _let_go_of_files(model: PreTrainedModel) -> None:
    """Copy what stays dense, so that the checkpoint's file is not kept mapped; not experts, which are most of it."""
    if all(parameter.dim() <= 2 for parameter in model.parameters()):
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def _made(layer: nn.Linear, kind: Kind | None, levels: Levels | None) -> PackedLinear | None:
    shape = tuple(layer.weight.shape)
    if levels is not None and fits(shape, "int4"):
        return of_levels(levels, layer.in_features, layer.bias)
    if kind is None or not fits(shape, kind):
        return None
    if kind == "int8":
        return in_8_bits(layer.weight, layer.bias)
    return Int4Linear(rounded(layer.weight), layer.in_features, layer.bias)


def _packed(nibbles: Tensor) -> Tensor:
    """Levels as this CPU's kernel reads them."""
    own = ops.takes(len(nibbles))
    return _in_parts(nibbles, lambda part: ops.pack(unpacked(part).int(), own))


def _in_parts(nibbles: Tensor, pack: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([pack(part) for part in torch.split(nibbles, _rows(nibbles.shape[1] * 2))])


def _rows(columns: int) -> int:
    """How many rows to work on at a time; the kernels' blocks of rows, at most 64, are never cut."""
    return max(1, CHUNK // columns // 64) * 64
