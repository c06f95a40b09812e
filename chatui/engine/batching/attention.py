"""Attention over keys and values that live in slots: what a model calls in place of its own, plugged in by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from chatui.engine.kernels import ops
from chatui.estimates import ATTENTION_BLOCK

NAME = "chatui_slots"


@dataclass(frozen=True)
class KVCache:
    """One tensor for each layer: `keys` [slots, kv heads, head size, capacity], `values` [slots, kv heads, capacity,
    head size]. Keys lie so that scores of neighbouring tokens are computed together.
    """

    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]


@dataclass(frozen=True)
class DecodeBatch:
    """Where the tokens of a decode step stand: row i adds one token at `positions[i]` of slot `slots[i]`.

    Both have shape [rows]; `span` holds the numbers of the positions that the step looks at, from 0 on, in shape
    [blocks, ATTENTION_BLOCK], as float32: those are compared faster, and exact up to 2**24.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    span: torch.Tensor
    storage: KVCache


@dataclass(frozen=True)
class PrefillChunk:
    """Where a piece of a prompt stands: `count` tokens from position `first` on, all of one slot."""

    slot: int
    first: int
    count: int


@dataclass(frozen=True)
class PrefillBatch:
    """Where tokens that are read together stand: those of one run behind those of another."""

    runs: Sequence[PrefillChunk]
    storage: KVCache


@dataclass(frozen=True)
class LayerProbe:
    """A first look at a model: nothing is attended to, only what each layer would store is written down."""

    layers: dict[int, tuple[int, int, int]]
    """(kv heads, key size, value size) by the layer's index."""


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the interface's; what is visible follows from the place
    place: DecodeBatch | PrefillBatch | LayerProbe | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store `key` and `value` at their place and attend to all that is visible there.

    `query` has shape [rows, heads, tokens, head size], `key` and `value` [rows, kv heads, tokens, head size]; the
    result [rows, tokens, heads, head size]. The signature is that of transformers' AttentionInterface.
    """
    if place is None:
        raise ValueError("attention over slots needs a place")
    index: Any = module.layer_idx
    if isinstance(place, LayerProbe):
        place.layers[index] = (key.shape[1], key.shape[3], value.shape[3])
        return value.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None
    keys, values = place.storage.keys[index], place.storage.values[index]
    rows, heads, tokens, size = query.shape
    query = query * (size**-0.5 if scaling is None else scaling)
    grouped = query.view(rows, keys.shape[1], heads // keys.shape[1], tokens, size)
    sinks = None if s_aux is None else s_aux.float().view(keys.shape[1], -1)
    if isinstance(place, DecodeBatch):
        result = _decode(grouped, key, value, keys, values, place, sliding_window, softcap, sinks)
    else:
        read = list[torch.Tensor]()
        for run, begin in zip(place.runs, accumulate((run.count for run in place.runs), initial=0), strict=False):
            own = slice(begin, begin + run.count)
            pieces = grouped[:, :, :, own], key[:, :, own], value[:, :, own]
            result = _read(*pieces, keys, values, run, sliding_window, softcap, sinks)
            read.append(result.reshape(1, heads, run.count, -1))
        result = torch.cat(read, 2)
    return result.reshape(rows, heads, tokens, -1).transpose(1, 2).to(query.dtype), None


def _decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    place: DecodeBatch,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One token for each row; `query` has shape [rows, kv heads, group, 1, head size]."""
    keys[place.slots, :, :, place.positions] = key[:, :, 0]
    values[place.slots, :, place.positions] = value[:, :, 0]
    query = query[:, :, :, 0]
    if softcap is None and sinks is None and ops.attends(query, keys, values):
        return ops.attend(query, keys, values, place.slots, place.positions, window)
    sinks = None if sinks is None else sinks[None, :, :, None]
    blocks = place.span.shape[0]
    visible = _visible(place.span.flatten(), place.positions.float(), window)[:, None, None]
    if torch.compiler.is_compiling():
        # Written out, so that the compiler reads the slots where they are instead of gathering them first. as_strided
        # makes it compute the query once, and not again for every key.
        query = query.float().contiguous()
        query = query.as_strided(query.shape, query.stride())
        k = keys.view(*keys.shape[:3], -1, ATTENTION_BLOCK)[:, :, :, :blocks][place.slots]
        v = values.view(*values.shape[:2], -1, ATTENTION_BLOCK, values.shape[3])[:, :, :blocks][place.slots]
        scores = (query[..., None, None] * k[:, :, None].float()).sum(3)
        weights, total = _weights(scores.flatten(3), visible, softcap, sinks)
        weighed = weights.view(scores.shape)[..., None] * v[:, :, None].float()
        return weighed.sum((3, 4)) / total
    length = blocks * ATTENTION_BLOCK
    k, v = keys[:, :, :, :length][place.slots], values[:, :, :length][place.slots]
    weights, total = _weights(torch.matmul(query, k).float(), visible, softcap, sinks)
    return torch.matmul(weights.to(v.dtype), v) / total


def _read(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    place: PrefillChunk,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """A run of tokens in one slot; `query` has shape [1, kv heads, group, tokens, head size]."""
    after = place.first + place.count
    keys[place.slot, :, :, place.first : after] = key[0].transpose(1, 2)
    values[place.slot, :, place.first : after] = value[0]
    k, v = keys[place.slot, :, :, :after], values[place.slot, :, :after]
    span = torch.arange(after, device=keys.device)
    visible = _visible(span, span[place.first :], window)
    group = query.shape[2]
    if softcap is None and sinks is None:
        # The heads of a group are further tokens that look at the same keys, which the kernel wants in rows.
        folded = query.flatten(2, 3), k.transpose(1, 2).contiguous()[None], v[None]
        return scaled_dot_product_attention(*folded, attn_mask=visible.repeat(group, 1), scale=1.0)
    scores = torch.matmul(query[0], k[:, None]).float()
    weights, total = _weights(scores, visible, softcap, None if sinks is None else sinks[:, :, None, None])
    return torch.matmul(weights.to(v.dtype), v[:, None]) / total


def _visible(span: torch.Tensor, positions: torch.Tensor, window: int | None) -> torch.Tensor:
    """Which of the positions `span` [n] a token at each of `positions` [m] sees: shape [m, n]."""
    seen = span <= positions[:, None]
    return seen if window is None else seen & (span > positions[:, None] - window)


def _weights(
    scores: torch.Tensor, visible: torch.Tensor, softcap: float | None, sinks: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention weights over the last dimension, and the total by which what they weigh is still to be divided.

    A softcap squeezes scores as in Gemma 2; a sink is one more score, which takes weight and gives nothing, as in
    gpt-oss (transformers' eager attention of both is the reference).
    """
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~visible, float("-inf"))
    highest = scores.amax(-1, keepdim=True)
    if sinks is not None:
        highest = torch.maximum(highest, sinks)
    weights = torch.exp(scores - highest)
    total = weights.sum(-1, keepdim=True)
    return weights, total if sinks is None else total + torch.exp(sinks - highest)


AttentionInterface.register(NAME, attend)
