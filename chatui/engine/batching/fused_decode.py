"""A decode step whose layers are computed by one call of our own C++, for models whose layers have the usual shape.

What comes before and after the layers is the model's own, or computed with them where it is the usual as well.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chatui.engine.batching.attention import LayerProbe
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.decoder_layers import (
    DecoderLayer,
    LayerBuffers,
    UnusualLayerError,
    append_layer,
    read_layer,
    read_norm,
)
from chatui.engine.batching.forward import DecodeFunction, DecodeStep, model_logits, span_of
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.longrope import read_as
from chatui.engine.kernels import ops
from chatui.engine.kernels.int8_kv import from_stored, to_stored, width_of
from chatui.engine.kernels.layer_ops import FUNCTION, LayerProgram, RmsNorm, multiplies

log = logging.getLogger(__name__)

TYPES = {torch.bfloat16, torch.float32}
# How far a layer's change of the hidden state may be off, relative to its size.
TOLERANCES = {torch.bfloat16: 0.05, torch.float32: 1e-3}
FEWEST_ROWS = 4
# Rows of the check stand at these positions: in a first block, at the end of one, and in a second.
CHECKED_POSITIONS = (3, 63, 70)


def fuse(step: DecodeStep, cache: KVCache) -> DecodeFunction | None:
    """The fused form of this step, or None where the model is not of the usual shape; only logs why not."""
    if ops.function(FUNCTION) is None or step.model.device.type != "cpu" or step.model.dtype not in TYPES:
        return None
    try:
        with torch.inference_mode():
            list_name = _find_layers(step.model)
            fused = FusedDecode(step.model, list_name, _read_layers(step.model, list_name))
            fused.ends = _check(fused, step, list_name, cache)
        return fused
    except Exception as error:  # a model may do anything here; its own step goes on
        log.info("the layers are not fused: %s", error)
        return None


@dataclass(frozen=True)
class Ends:
    """What a model of the usual shape does before and after its layers."""

    embedding: nn.Module
    rotary: nn.Module
    norm: RmsNorm
    output: nn.Module
    vocabulary: int


class FusedDecode:
    """As DecodeStep. `layers` are those that the model has in the list of this name.

    Without known `ends` the model's own forward pass goes through stubs in place of its layers.
    """

    def __init__(self, model: PreTrainedModel, list_name: str, layers: Sequence[DecoderLayer]) -> None:
        self.layers, self.dtype = layers, model.dtype
        self.ends: Ends | None = None
        self._size = layers[0].norms["input_layernorm"].weight.shape[0]
        self._model = _with_layers(model, list_name, [_Stub(self, index) for index in range(len(layers))])
        self._ropes: list[tuple[Tensor, Tensor]] = []
        self._step = torch.empty(0), torch.empty(0)
        self._tensors: list[Tensor] = []
        self.program = LayerProgram(0, self.dtype)

    def __call__(self, ids: Tensor, tables: Tensor, positions: Tensor, span: Tensor, tensors: list[Tensor]) -> Tensor:  # noqa: ARG002
        """As DecodeStep.forward."""
        self.build(len(ids), tensors)
        self._step = tables.contiguous(), positions.contiguous()
        self._ropes = []
        with read_as(0):
            if self.ends is None:
                return model_logits(self._model, ids[:, None], positions[:, None], None)[:, -1]
            hidden = self.ends.embedding(ids[:, None])
            rope = self._checked(hidden, self.ends.rotary(hidden, positions[:, None]))
        return self.compute(hidden, *self._step, [rope] * len(self.layers), 0, self.logits)[:, -1]

    def build(self, rows: int, tensors: list[Tensor]) -> None:
        """Be ready for so many rows, and for these keys and values."""
        if rows <= self.program.capacity and tensors is self._tensors:
            return
        capacity = max(FEWEST_ROWS, 1 << (rows - 1).bit_length())
        self.program, self._tensors = LayerProgram(capacity, self.dtype), tensors
        self.buffers, half = LayerBuffers(self.program, self._size), len(tensors) // 2
        # Where the operations of each layer begin, and those after the last.
        self.begins = [0]
        for index, layer in enumerate(self.layers):
            append_layer(self.program, self.buffers, layer, index, (tensors[index], tensors[half + index]))
            self.begins.append(len(self.program))
        if self.ends is not None:
            self.append_ends(self.ends)

    def append_ends(self, ends: Ends) -> None:
        """Let the program compute `logits` too."""
        self.logits = self.program.buffer(ends.vocabulary)
        self.program.norm(ends.norm, self.buffers.hidden, self.buffers.normed)
        self.program.product(ends.output, self.buffers.normed, self.logits)

    def advance(self, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
        """What a layer does to the hidden state [rows, 1, size]: nothing, but for the last, which does all."""
        ropes = self._ropes
        known = bool(ropes) and position_embeddings is ropes[-1]
        ropes.append(position_embeddings if known else self._checked(hidden, position_embeddings))
        if len(ropes) < len(self.layers):
            return hidden
        return self.compute(hidden, *self._step, ropes, 0, self.buffers.hidden)

    def compute(
        self,
        hidden: Tensor,
        tables: Tensor,
        positions: Tensor,
        ropes: Sequence[tuple[Tensor, Tensor]],
        begin: int,
        output: Tensor,
        end: int | None = None,
    ) -> Tensor:
        """What lies in the buffer `output` after operations `begin` to `end`; `ropes` are those of all layers."""
        rows = len(hidden)
        self.buffers.hidden[:rows].copy_(hidden[:, 0])
        self.program.run(tables, positions, ropes, begin, end)
        return output[:rows, None].clone()

    def _checked(self, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        for each in rope:
            if each.shape[:2] != hidden.shape[:2] or each.dtype is not self.dtype or not each.is_contiguous():
                raise UnusualLayerError("positions are encoded in another way")
        return rope


class _Stub:
    """Stands for a layer of the model."""

    def __init__(self, fused: FusedDecode, index: int) -> None:
        self._fused, self.layer_idx = fused, index

    def __call__(self, hidden: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        return self._fused.advance(hidden, position_embeddings)


def _with_layers(model: PreTrainedModel, list_name: str, stubs: list[_Stub]) -> PreTrainedModel:
    """The same model, all of it shared but for the list of its layers."""
    *path, last = list_name.split(".")
    whole: PreTrainedModel = _shallow(model)
    copied: Any = whole
    for name in path:
        part = _shallow(copied.get_submodule(name))
        copied._modules[name] = copied = part
    del copied._modules[last]
    copied.__dict__[last] = stubs
    return whole


def _shallow(module: Any) -> Any:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


def _find_layers(model: PreTrainedModel) -> str:
    """The name of the list of layers."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    if len(lists) == 1:
        return str(lists[0])
    raise UnusualLayerError(f"{len(lists)} lists of layers")


def _read_layers(model: PreTrainedModel, list_name: str) -> list[DecoderLayer]:
    probe = LayerProbe({})
    model_logits(model, torch.zeros(1, 2, dtype=torch.long), torch.arange(2)[None], probe)
    layers: Any = model.get_submodule(list_name)
    return [
        read_layer(layer, probe.layers[index], probe.options[index], model.dtype) for index, layer in enumerate(layers)
    ]


def _check(fused: FusedDecode, step: DecodeStep, list_name: str, cache: KVCache) -> Ends | None:
    """Let the model's own layers and ours compute the same; returns the ends if they are the usual ones. Raises
    UnusualLayerError where the layers are not.
    """
    rows = len(CHECKED_POSITIONS)
    scratch = _random_cache(cache, 2 * rows)
    tensors = [*scratch.keys, *scratch.values]
    ids, positions = torch.arange(rows), torch.tensor(CHECKED_POSITIONS)
    tables = torch.arange(1, 2 * rows + 1).view(rows, 2)
    calls, logits = _recorded(step, list_name, (ids, tables, positions, span_of(2 * BLOCK, ids.device), tensors))
    fused.build(rows, tensors)
    ropes = [call.rope for call in calls]
    slots = tables.gather(1, (positions // BLOCK)[:, None])[:, 0], positions % BLOCK
    for index, call in enumerate(calls):
        keys, (begin, end) = scratch.keys[index], fused.begins[index : index + 2]
        stored = from_stored(keys[slots[0], :, :, slots[1]], fused.dtype).clone()
        found = fused.compute(call.before, tables, positions, ropes, begin, fused.buffers.hidden, end)
        agreed = _agree(found - call.before, call.after - call.before, call.after)
        if not agreed or not _agree(from_stored(keys[slots[0], :, :, slots[1]], fused.dtype), stored, stored):
            raise UnusualLayerError(f"layer {index} computes something else")
    ends = _read_ends(step.model, list_name)
    if ends is None or logits.dtype is not fused.dtype or not _begins(ends, ids, positions, calls):
        return None
    fused.append_ends(ends)
    found = fused.compute(calls[-1].after, tables, positions, ropes, fused.begins[-1], fused.logits)[:, -1]
    return ends if _agree(found, logits, logits) else None


def _random_cache(cache: KVCache, blocks: int) -> KVCache:
    """A cache for the same layers, filled with random numbers."""
    dtype, generator = cache.keys[0].dtype, torch.Generator().manual_seed(0)

    def stored(shape: Sequence[int], size: int) -> Tensor:
        """For so many numbers of a head: [blocks, kv heads, BLOCK, as they are stored]."""
        numbers = torch.randn(blocks + 1, shape[1], BLOCK, size, generator=generator, dtype=torch.float32)
        return to_stored(numbers.to(dtype if dtype.is_floating_point else torch.float32), dtype)

    keys = [stored(each.shape, width_of(each.transpose(2, 3))).transpose(2, 3).contiguous() for each in cache.keys]
    return KVCache(keys, [stored(each.shape, width_of(each)) for each in cache.values])


def _read_ends(model: PreTrainedModel, list_name: str) -> Ends | None:
    """What may be the ends of a model."""
    parent, _, last = list_name.rpartition(".")
    parts = dict(model.get_submodule(parent).named_children())
    output: Any = model.get_output_embeddings()
    if set(parts) != {"embed_tokens", last, "norm", "rotary_emb"} or not multiplies(output, model.dtype):
        return None
    norm = read_norm(parts["norm"], model.dtype)
    return Ends(parts["embed_tokens"], parts["rotary_emb"], norm, output, output.out_features)


def _begins(ends: Ends, ids: Tensor, positions: Tensor, calls: Sequence["_Call"]) -> bool:
    """Whether the layers were given what these ends make."""
    hidden = ends.embedding(ids[:, None])
    if not torch.equal(hidden, calls[0].before) or any(call.rope is not calls[0].rope for call in calls):
        return False
    with read_as(0):
        rope = ends.rotary(hidden, positions[:, None])
    return all(torch.equal(one, other) for one, other in zip(rope, calls[0].rope, strict=True))


@dataclass(frozen=True)
class _Call:
    """A layer's hidden state before and after it, and the cosines and sines that it was given."""

    before: Tensor
    after: Tensor
    rope: tuple[Tensor, Tensor]


def _recorded(step: DecodeStep, list_name: str, inputs: tuple[Any, ...]) -> tuple[list[_Call], Tensor]:
    """What the layers of a plain step are given and give, and its logits."""
    calls = list[_Call]()

    def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        calls.append(_Call(given[0].clone(), result.clone(), named["position_embeddings"]))

    layers: Any = step.model.get_submodule(list_name)
    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        return calls, step(*inputs)
    finally:
        for hook in hooks:
            hook.remove()


def _agree(found: Tensor, expected: Tensor, rounded: Tensor) -> bool:
    """Whether these are the same but for rounding, that of `rounded` among it."""
    relative, epsilon = TOLERANCES[found.dtype], torch.finfo(rounded.dtype).eps
    allowed = relative * expected.float().norm() + epsilon * rounded.float().norm()
    return bool((found.float() - expected.float()).norm() <= allowed)
