"""A decode step whose layers are computed by one call of our own C++, for models whose layers have the usual shape.

What comes before and after the layers is computed with them where it is the usual as well.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.decoder_layers import DecoderLayer, read_norm
from chatui.engine.batching.forward import DecodeStep, span_of
from chatui.engine.batching.fused_layers import (
    TYPES,
    FusedLayers,
    LayerCall,
    agree,
    find_layers,
    random_cache,
    read_layers,
    recorded,
)
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.longrope import read_as
from chatui.engine.kernels import ops
from chatui.engine.kernels.layer_ops import FUNCTION, Pieces, RmsNorm, has_own_rows, multiplies

log = logging.getLogger(__name__)

# Rows of the check stand at these positions: in a first block, at the end of one, and in a second.
CHECKED_POSITIONS = (3, 63, 70)
# Logits of so many tokens are computed at a time, which bounds the room for them.
MAX_LOGITS = 64


def fuse(step: DecodeStep, cache: KVCache) -> "FusedDecode | None":
    """The fused form of this step, or None where the model is not of the usual shape; only logs why not."""
    if ops.function(FUNCTION) is None or step.model.device.type != "cpu" or step.model.dtype not in TYPES:
        return None
    try:
        with torch.inference_mode():
            list_name = find_layers(step.model)
            fused = FusedDecode(step.model, list_name, read_layers(step.model, list_name))
            fused.ends = _check(fused, step, cache)
            fused.clear()
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


class FusedDecode(FusedLayers):
    """As DecodeStep. Without known `ends` the model's own forward pass goes through its stubs."""

    def __init__(self, model: PreTrainedModel, list_name: str, layers: Sequence[DecoderLayer]) -> None:
        super().__init__(model, list_name, layers)
        self.ends: Ends | None = None

    def __call__(self, ids: Tensor, tables: Tensor, positions: Tensor, span: Tensor, tensors: list[Tensor]) -> Tensor:  # noqa: ARG002
        """As DecodeStep.forward."""
        self.build(len(ids), tensors)
        tables = tables.contiguous()
        windowed_tables = KVCache.of(tensors).places_in(tables)
        pieces = Pieces(tables, torch.arange(len(ids) + 1), positions.contiguous(), windowed_tables, len(ids))
        with read_as(0):
            if self.ends is None:
                return self.logits(ids[:, None], positions[:, None], pieces, 1)[:, -1]
            hidden, ropes = self.embed(self.ends, ids[:, None], positions[:, None])
        return self.compute(hidden, pieces, ropes, 0, self.result)[:, -1]

    @property
    def has_own_rows(self) -> bool:
        """Whether a row has the same bits whatever rows are beside it."""
        linear = [each for layer in self.layers for each in layer.linear]
        return self.ends is not None and all(map(has_own_rows, [*linear, self.ends.output]))

    def embed(self, ends: Ends, ids: Tensor, positions: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The hidden state in front of the layers, and cosines and sines for each; ids and positions [rows, tokens]."""
        hidden = ends.embedding(ids)
        return hidden, [self.checked(hidden, ends.rotary(hidden, positions))] * len(self.layers)

    def logits_of(self, hidden: Tensor, tensors: list[Tensor]) -> Tensor:
        """Logits [tokens, vocabulary] where layers have left this hidden state [tokens, size], with known ends."""
        found = list[Tensor]()
        for part in hidden.split(MAX_LOGITS):
            self.build(len(part), tensors)
            nowhere = torch.zeros(len(part), dtype=torch.long)
            pieces = Pieces(nowhere[:, None], torch.arange(len(part) + 1), nowhere)
            found.append(self.compute(part, pieces, [], self.begins[-1], self.result))
        return torch.cat(found)

    def build(self, rows: int, tensors: list[Tensor]) -> None:
        """As FusedLayers; with the ends where those are known."""
        before = self.program
        super().build(rows, tensors)
        if self.ends is not None and self.program is not before:
            self.append_ends(self.ends)

    def append_ends(self, ends: Ends) -> None:
        """Let the program compute logits too, as its `result`."""
        self.result = self.program.buffer(ends.vocabulary)
        self.program.norm(ends.norm, self.buffers.hidden, self.buffers.normed)
        self.program.product(ends.output, self.buffers.normed, self.result)


def _check(fused: FusedDecode, step: DecodeStep, cache: KVCache) -> Ends | None:
    """Let the model's own layers and ours compute the same; returns the ends if they are the usual ones. Raises
    UnusualLayerError where the layers are not.
    """
    rows = len(CHECKED_POSITIONS)
    scratch = random_cache(cache, 2 * rows)
    ids, positions = torch.arange(rows), torch.tensor(CHECKED_POSITIONS)
    tables = torch.arange(1, 2 * rows + 1).view(rows, 2)
    inputs = ids, tables, positions, span_of(2 * BLOCK, ids.device), scratch.tensors
    calls, logits = recorded(step.model, fused.list_name, lambda: step(*inputs))
    pieces = Pieces(tables, torch.arange(rows + 1), positions, decoded=rows)
    fused.check(calls, scratch, pieces, (tables.gather(1, (positions // BLOCK)[:, None])[:, 0], positions % BLOCK))
    ends = _read_ends(step.model, fused.list_name)
    if ends is None or logits.dtype is not fused.dtype or not _begins(ends, ids, positions, calls):
        return None
    fused.append_ends(ends)
    ropes = [call.rope for call in calls]
    found = fused.compute(calls[-1].after, pieces, ropes, fused.begins[-1], fused.result)[:, -1]
    return ends if agree(found, logits, logits) else None


def _read_ends(model: PreTrainedModel, list_name: str) -> Ends | None:
    """What may be the ends of a model."""
    parent, _, last = list_name.rpartition(".")
    parts = dict(model.get_submodule(parent).named_children())
    output: Any = model.get_output_embeddings()
    if set(parts) != {"embed_tokens", last, "norm", "rotary_emb"} or not multiplies(output, model.dtype):
        return None
    norm = read_norm(parts["norm"], model.dtype)
    return Ends(parts["embed_tokens"], parts["rotary_emb"], norm, output, output.out_features)


def _begins(ends: Ends, ids: Tensor, positions: Tensor, calls: Sequence[LayerCall]) -> bool:
    """Whether the layers were given what these ends make."""
    hidden = ends.embedding(ids[:, None])
    if not torch.equal(hidden, calls[0].before) or any(call.rope is not calls[0].rope for call in calls):
        return False
    with read_as(0):
        rope = ends.rotary(hidden, positions[:, None])
    return all(torch.equal(one, other) for one, other in zip(rope, calls[0].rope, strict=True))
