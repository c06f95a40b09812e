"""The layers of a model, computed by one call of our own C++ where they have the usual shape.

What comes before and after the layers is the model's own.
"""

import copy
from collections.abc import Callable, Sequence
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
)
from chatui.engine.batching.forward import model_logits
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.kernels.int8_kv import from_stored, to_stored, width_of
from chatui.engine.kernels.layer_ops import LayerProgram, Pieces

TYPES = {torch.bfloat16, torch.float32}
# How far a layer's change of the hidden state may be off, relative to its size.
TOLERANCES = {torch.bfloat16: 0.05, torch.float32: 1e-3}
# Room for rows is doubled, but grows by no more than so many.
FEWEST_ROWS, MOST_MORE_ROWS = 4, 64


class FusedLayers:
    """The model with layers in place of its own that compute all at once. `layers` are those that it has in the list of
    this name.
    """

    def __init__(self, model: PreTrainedModel, list_name: str, layers: Sequence[DecoderLayer]) -> None:
        self.model, self.layers, self.dtype, self.list_name = model, layers, model.dtype, list_name
        self._size = layers[0].norms["input_layernorm"].weight.shape[0]
        self._stubbed = _with_layers(model, list_name, [_Stub(self, index) for index in range(len(layers))])
        self._ropes: list[tuple[Tensor, Tensor]] = []
        self.clear()

    def clear(self) -> None:
        """Let go of keys, values and buffers; `build` takes new ones."""
        self._tensors: list[Tensor] = []
        self.program = LayerProgram(0, self.dtype)
        self.buffers = LayerBuffers(self.program, self._size)

    def logits(self, ids: Tensor, positions: Tensor, pieces: Pieces, ends: Tensor | int) -> Tensor:
        """As model_logits."""
        self._pieces, self._ropes = pieces, []
        return model_logits(self._stubbed, ids, positions, None, ends)

    def build(self, rows: int, tensors: list[Tensor]) -> None:
        """Be ready for so many rows, and for these keys and values."""
        if rows <= self.program.capacity and tensors is self._tensors:
            return
        doubled, padded = 1 << (rows - 1).bit_length(), -(-rows // MOST_MORE_ROWS) * MOST_MORE_ROWS
        capacity = max(FEWEST_ROWS, min(doubled, padded))
        self.program, self._tensors = LayerProgram(capacity, self.dtype), tensors
        self.buffers, half = LayerBuffers(self.program, self._size), len(tensors) // 2
        # Where the operations of each layer begin, and those after the last.
        self.begins = [0]
        for index, layer in enumerate(self.layers):
            append_layer(self.program, self.buffers, layer, index, (tensors[index], tensors[half + index]))
            self.begins.append(len(self.program))

    def advance(self, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
        """What a layer does to the hidden state [..., size]: nothing, but for the last, which does all."""
        ropes = self._ropes
        known = bool(ropes) and position_embeddings is ropes[-1]
        ropes.append(position_embeddings if known else self.checked(hidden, position_embeddings))
        if len(ropes) < len(self.layers):
            return hidden
        return self.compute(hidden, self._pieces, ropes, 0, self.buffers.hidden)

    def compute(
        self,
        hidden: Tensor,
        pieces: Pieces,
        ropes: Sequence[tuple[Tensor, Tensor]],
        begin: int,
        output: Tensor,
        end: int | None = None,
    ) -> Tensor:
        """What lies in the buffer `output` after operations `begin` to `end`; `ropes` are those of all layers."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        self.buffers.hidden[: len(flat)].copy_(flat)
        self.program.run(pieces, ropes, begin, end)
        return output[: len(flat)].clone().view(*hidden.shape[:-1], -1)

    def checked(self, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The cosines and sines. Raises UnusualLayerError where they are not one row for each token."""
        for each in rope:
            if each.shape[:2] != hidden.shape[:2] or each.dtype is not self.dtype or not each.is_contiguous():
                raise UnusualLayerError("positions are encoded in another way")
        return rope

    def check(self, calls: Sequence["LayerCall"], cache: KVCache, pieces: Pieces, slots: tuple[Tensor, Tensor]) -> None:
        """Raises UnusualLayerError where a layer of the model's own, which has stored into `slots` of the cache what it
        does, and one of ours do not compute the same.
        """
        self.build(calls[0].rows, cache.tensors)
        ropes = [call.rope for call in calls]
        for index, call in enumerate(calls):
            keys, (begin, end) = cache.keys[index], self.begins[index : index + 2]
            stored = from_stored(keys[slots[0], :, :, slots[1]], self.dtype).clone()
            found = self.compute(call.before, pieces, ropes, begin, self.buffers.hidden, end)
            agreed = agree(found - call.before, call.after - call.before, call.after)
            if not agreed or not agree(from_stored(keys[slots[0], :, :, slots[1]], self.dtype), stored, stored):
                raise UnusualLayerError(f"layer {index} computes something else")


class _Stub:
    """Stands for a layer of the model."""

    def __init__(self, fused: FusedLayers, index: int) -> None:
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


def find_layers(model: PreTrainedModel) -> str:
    """The name of the list of layers."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    lists = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    if len(lists) == 1:
        return str(lists[0])
    raise UnusualLayerError(f"{len(lists)} lists of layers")


def read_layers(model: PreTrainedModel, list_name: str) -> list[DecoderLayer]:
    """The layers in this list. Raises UnusualLayerError."""
    probe = LayerProbe({})
    model_logits(model, torch.zeros(1, 2, dtype=torch.long), torch.arange(2)[None], probe)
    layers: Any = model.get_submodule(list_name)
    return [
        read_layer(layer, probe.layers[index], probe.options[index], model.dtype) for index, layer in enumerate(layers)
    ]


def random_cache(cache: KVCache, blocks: int) -> KVCache:
    """A cache for the same layers, filled with random numbers."""
    dtype, generator = cache.keys[0].dtype, torch.Generator().manual_seed(0)

    def stored(shape: Sequence[int], size: int) -> Tensor:
        """For so many numbers of a head: [blocks, kv heads, BLOCK, as they are stored]."""
        numbers = torch.randn(blocks + 1, shape[1], BLOCK, size, generator=generator, dtype=torch.float32)
        return to_stored(numbers.to(dtype if dtype.is_floating_point else torch.float32), dtype)

    keys = [stored(each.shape, width_of(each.transpose(2, 3))).transpose(2, 3).contiguous() for each in cache.keys]
    return KVCache(keys, [stored(each.shape, width_of(each)) for each in cache.values])


@dataclass(frozen=True)
class LayerCall:
    """A layer's hidden state before and after it, and the cosines and sines that it was given."""

    before: Tensor
    after: Tensor
    rope: tuple[Tensor, Tensor]

    @property
    def rows(self) -> int:
        """Of so many tokens."""
        return self.before.shape[0] * self.before.shape[1]


def recorded(model: PreTrainedModel, list_name: str, compute: Callable[[], Tensor]) -> tuple[list[LayerCall], Tensor]:
    """What the layers of the model are given and give while it computes, and what it computes."""
    calls = list[LayerCall]()

    def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        calls.append(LayerCall(given[0].clone(), result.clone(), named["position_embeddings"]))

    layers: Any = model.get_submodule(list_name)
    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
    try:
        return calls, compute()
    finally:
        for hook in hooks:
            hook.remove()


def agree(found: Tensor, expected: Tensor, rounded: Tensor) -> bool:
    """Whether these are the same but for rounding, that of `rounded` among it."""
    relative, epsilon = TOLERANCES[found.dtype], torch.finfo(rounded.dtype).eps
    allowed = relative * expected.float().norm() + epsilon * rounded.float().norm()
    return bool((found.float() - expected.float()).norm() <= allowed)
