"""Decoder layers of the usual shape, known by what they are made of: what layers.cpp can compute."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chatui.engine.batching.attention import AttentionOptions
from chatui.engine.kernels.layer_ops import GELU_TANH, SILU, AttentionShape, LayerProgram, RmsNorm, multiplies

# The names that transformers' models give to what a layer holds; those of one line stand for each other.
PROJECTIONS = ("q_proj", "k_proj", "v_proj"), ("qkv_proj",)
MULTIPLICATIONS = ("gate_proj", "up_proj"), ("gate_up_proj",)
ACTIVATIONS = {"act_fn", "activation_fn"}
NORMS_BEFORE = {"input_layernorm", "post_attention_layernorm"}
NORMS_AROUND = {*NORMS_BEFORE, "pre_feedforward_layernorm", "post_feedforward_layernorm"}
HEAD_NORMS = ["q_norm", "k_norm"]
CHECKED = 64
CLOSE = 1e-2


class UnusualLayerError(Exception):
    """A layer holds something else; the message says what."""


@dataclass(frozen=True)
class DecoderLayer:
    """A layer's parts: linear ones, and norms by their names."""

    projections: tuple[nn.Module, ...]
    output: nn.Module
    multiplications: tuple[nn.Module, ...]
    down: nn.Module
    activation: int
    norms: dict[str, RmsNorm]
    head_norms: tuple[RmsNorm, RmsNorm] | None
    attention: AttentionShape

    @property
    def linear(self) -> tuple[nn.Module, ...]:
        """All linear parts."""
        return *self.projections, self.output, *self.multiplications, self.down


def read_layer(
    layer: nn.Module, sizes: tuple[int, int, int], options: AttentionOptions, dtype: torch.dtype
) -> DecoderLayer:
    """The parts of a layer whose attention has (kv heads, key size, value size). Raises UnusualLayerError."""
    parts = _children(layer)
    names = set(parts) - {"self_attn", "mlp"}
    if names not in (NORMS_BEFORE, NORMS_AROUND) or options.has_sinks:
        raise UnusualLayerError(f"a layer of {sorted(parts)}")
    attention, mlp = _children(parts["self_attn"]), _children(parts["mlp"])
    projections, multiplications = _one_of(PROJECTIONS, attention), _one_of(MULTIPLICATIONS, mlp)
    [activation] = set(mlp) & ACTIVATIONS or {""}
    head_norms = sorted(set(attention) - {*projections, "o_proj"}, reverse=True)
    if set(mlp) != {*multiplications, activation, "down_proj"} or head_norms not in ([], HEAD_NORMS):
        raise UnusualLayerError(f"an attention of {sorted(attention)} and an MLP of {sorted(mlp)}")
    linear = [attention[name] for name in (*projections, "o_proj")]
    linear += [mlp[name] for name in (*multiplications, "down_proj")]
    if not all(multiplies(each, dtype) for each in linear):
        raise UnusualLayerError("a linear layer of another kind")
    shared, size, width = sizes
    output: Any = attention["o_proj"]
    heads = output.in_features // width
    normed = [read_norm(attention[name], dtype, size) for name in head_norms]
    return DecoderLayer(
        tuple(attention[name] for name in projections),
        output,
        tuple(mlp[name] for name in multiplications),
        mlp["down_proj"],
        _activation(mlp[activation]),
        {name: read_norm(parts[name], dtype) for name in names},
        (normed[0], normed[1]) if normed else None,
        AttentionShape(heads, shared, size, width, options.scaling, options.sliding_window, options.softcap),
    )


class LayerBuffers:
    """Room for what layers hand to each other, and for what is within them."""

    def __init__(self, program: LayerProgram, size: int) -> None:
        self.hidden, self.normed, self.added = (program.buffer(size) for _ in range(3))
        self._program, self._by_use = program, dict[tuple[str, int], Tensor]()

    def of(self, use: str, width: int) -> Tensor:
        """A buffer that all layers have in common for this use."""
        if (use, width) not in self._by_use:
            self._by_use[use, width] = self._program.buffer(width)
        return self._by_use[use, width]


def append_layer(
    program: LayerProgram, buffers: LayerBuffers, layer: DecoderLayer, index: int, cached: tuple[Tensor, Tensor]
) -> None:
    """Let the program compute this layer too, from `buffers.hidden` to there; its keys and values are `cached`."""
    shape, norms = layer.attention, layer.norms
    hidden, normed, added = buffers.hidden, buffers.normed, buffers.added
    around = "pre_feedforward_layernorm" in norms
    program.norm(norms["input_layernorm"], hidden, normed)
    widths = shape.heads * shape.size, shape.shared * shape.size, shape.shared * shape.width
    projected = _multiplied(program, buffers, layer.projections, widths, "projected")
    attended = buffers.of("attended", shape.heads * shape.width)
    program.attend(shape, index, projected, layer.head_norms, cached, attended)
    program.product(layer.output, attended, added)
    if around:
        program.norm(norms["post_attention_layernorm"], added, added)
    program.add(added, hidden)
    program.norm(norms["pre_feedforward_layernorm" if around else "post_attention_layernorm"], hidden, normed)
    down: Any = layer.down
    gate, up = _multiplied(program, buffers, layer.multiplications, (down.in_features,) * 2, "multiplied")
    gated = buffers.of("gated", down.in_features)
    program.gate(gate, up, gated, layer.activation)
    program.product(layer.down, gated, added)
    if around:
        program.norm(norms["post_feedforward_layernorm"], added, added)
    program.add(added, hidden)


def _multiplied(
    program: LayerProgram, buffers: LayerBuffers, layers: tuple[nn.Module, ...], widths: tuple[int, ...], use: str
) -> tuple[Tensor, ...]:
    """What these layers make of `buffers.normed`: one for each width, or one for all side by side."""
    if len(layers) == 1:
        whole = buffers.of(use, sum(widths))
        program.product(layers[0], buffers.normed, whole)
        parts: tuple[Tensor, ...] = whole.split(list(widths), 1)
        return parts
    made = tuple(buffers.of(f"{use} {at}", width) for at, width in enumerate(widths))
    for layer, target in zip(layers, made, strict=True):
        program.product(layer, buffers.normed, target)
    return made


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """The parts of a module that is used for inference; dropout does nothing there."""
    if module.training or list(module.parameters(recurse=False)):
        raise UnusualLayerError(f"a {type(module).__name__} that has parameters of its own, or learns")
    return {name: part for name, part in module.named_children() if type(part) is not nn.Dropout}


def _one_of(choices: tuple[tuple[str, ...], ...], parts: dict[str, nn.Module]) -> tuple[str, ...]:
    for names in choices:
        if set(names) <= set(parts):
            return names
    raise UnusualLayerError(f"none of {choices} in {sorted(parts)}")


def _samples(size: int, dtype: torch.dtype) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 3.0):
        yield (scale * torch.randn(1, size, generator=generator, dtype=torch.float32)).to(dtype)


def _alike(found: Tensor, expected: Tensor) -> bool:
    return bool((found.float() - expected.float()).norm() <= CLOSE * expected.float().norm())


def _activation(module: nn.Module) -> int:
    """Which one this is, by what it computes."""
    gelu = nn.GELU(approximate="tanh")
    for kind, known in ((SILU, nn.functional.silu), (GELU_TANH, gelu)):
        if all(_alike(module(x), known(x)) for x in _samples(CHECKED, torch.float32)):
            return kind
    raise UnusualLayerError(f"the activation {type(module).__name__}")


def read_norm(module: nn.Module, dtype: torch.dtype, size: int | None = None) -> RmsNorm:
    """A root-mean-square norm by what it computes; of so many numbers, if told. Raises UnusualLayerError."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or weight.dtype is not dtype or not isinstance(epsilon, float):
        raise UnusualLayerError(f"the norm {type(module).__name__}")
    if size is None or weight.shape == (size,):
        for plus_one in (False, True):
            factor = weight.float() + plus_one
            if all(_alike(module(x), _normed(x, epsilon) * factor) for x in _samples(len(weight), dtype)):
                return RmsNorm(weight.detach(), epsilon, plus_one)
    raise UnusualLayerError(f"the norm {type(module).__name__}")


def _normed(x: Tensor, epsilon: float) -> Tensor:
    return x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + epsilon)
