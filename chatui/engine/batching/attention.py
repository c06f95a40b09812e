"""Attention over keys and values in blocks: what a model calls in place of its own, plugged in by name."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.kernels import ops, prefill_attention
from chatui.engine.kernels.checks import TIMES, TOLERANCE, seconds
from chatui.engine.kernels.int8_kv import from_stored, to_stored
from chatui.engine.kernels.layer_ops import Pieces

log = logging.getLogger(__name__)

NAME = "chatui_blocks"


@dataclass(frozen=True)
class DecodeBatch:
    """Where the tokens of a decode step stand: row i adds one token at `positions[i]` of the sequence whose blocks are
    `tables[i]`.

    `tables` has shape [rows, blocks]: shorter ones are filled up with block 0. `positions` has shape [rows]. `span`
    holds the numbers of the positions that the step looks at, from 0 on, in shape [blocks, BLOCK], as float32: those
    are compared faster, and exact up to 2**24.
    """

    tables: torch.Tensor
    positions: torch.Tensor
    span: torch.Tensor
    cache: KVCache

    @cached_property
    def slots(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(block, offset in it) of each row's new token: two of shape [rows]."""
        block = self.tables.gather(1, (self.positions // BLOCK)[:, None])[:, 0]
        return block, self.positions % BLOCK

    @cached_property
    def windowed(self) -> "DecodeBatch":
        """The same for the group of layers with a window."""
        return replace(self, tables=self.cache.places_in(self.tables))


@dataclass(frozen=True)
class PrefillChunk:
    """Where a piece of a prompt stands: `count` tokens from position `first` on, in the sequence of blocks `table`.

    `table` has shape [blocks], as many as hold all tokens up to those.
    """

    table: torch.Tensor
    first: int
    count: int


@dataclass(frozen=True)
class PrefillBatch:
    """Where tokens that are read together stand: those of one run behind those of another.

    The first `decoded` runs are one token each, which fused layers compute as in a decode step.
    """

    runs: Sequence[PrefillChunk]
    cache: KVCache
    decoded: int = 0
    _masks: dict[tuple[int, int | None, int], torch.Tensor] = field(default_factory=dict)

    @cached_property
    def slots(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(block, offset in it) of each token: two of shape [tokens]."""
        blocks, offsets = list[torch.Tensor](), list[torch.Tensor]()
        for run in self.runs:
            positions = torch.arange(run.first, run.first + run.count, device=run.table.device)
            blocks.append(run.table[positions // BLOCK])
            offsets.append(positions % BLOCK)
        return torch.cat(blocks), torch.cat(offsets)

    @cached_property
    def windowed(self) -> "PrefillBatch":
        """The same for the group of layers with a window."""
        return replace(self, runs=[replace(run, table=self.cache.places_in(run.table)) for run in self.runs])

    @cached_property
    def pieces(self) -> Pieces:
        """The same as our kernels take it."""
        counts = torch.tensor([0, *(run.count for run in self.runs)])
        positions = torch.cat([torch.arange(run.first, run.first + run.count) for run in self.runs])
        return Pieces(pad_sequence([run.table for run in self.runs], batch_first=True), counts.cumsum(0), positions)

    def visible(self, index: int, window: int | None) -> torch.Tensor:
        """Which tokens each of this run sees: booleans [count, first + count]."""
        run = self.runs[index]
        span = torch.arange(run.first + run.count, device=run.table.device)
        return _visible(span, span[run.first :], window)

    def mask(self, index: int, window: int | None, query: torch.Tensor) -> torch.Tensor:
        """The same as what is added to scores: [group * count, first + count], made once for all layers."""
        key = index, window, query.shape[1]
        if key not in self._masks:
            visible = self.visible(index, window)
            mask = torch.zeros(visible.shape, dtype=query.dtype, device=query.device)
            self._masks[key] = mask.masked_fill_(~visible, float("-inf")).repeat(query.shape[1], 1)
        return self._masks[key]


@dataclass(frozen=True)
class LayerProbe:
    """A first look at a model: nothing is attended to, only what each layer would store and asks for is noted."""

    layers: dict[int, tuple[int, int, int]]
    """(kv heads, key size, value size) by the layer's index."""
    options: dict[int, "AttentionOptions"] = field(default_factory=dict)


@dataclass(frozen=True)
class AttentionOptions:
    """What a layer asks of attention, as `attend` has it."""

    scaling: float
    sliding_window: int | None
    softcap: float | None
    has_sinks: bool


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - the interface's; what is visible follows from attn_metadata
    attn_metadata: DecodeBatch | PrefillBatch | LayerProbe | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store `key` and `value` in their slots and attend to all that is visible from there.

    `query` has shape [rows, heads, tokens, head size], `key` and `value` [rows, kv heads, tokens, head size]; the
    result [rows, tokens, heads, head size]. The signature is that of transformers' AttentionInterface.
    """
    if attn_metadata is None or position_bias is not None:
        raise ValueError("attention over blocks needs attn_metadata, and knows no bias")
    index: Any = module.layer_idx
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    if isinstance(attn_metadata, LayerProbe):
        attn_metadata.layers[index] = (key.shape[1], key.shape[3], value.shape[3])
        attn_metadata.options[index] = AttentionOptions(scaling, sliding_window, softcap, s_aux is not None)
        return value.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3]), None
    if sliding_window is not None and attn_metadata.cache.places is not None:
        attn_metadata = attn_metadata.windowed
    keys, values = attn_metadata.cache.keys[index], attn_metadata.cache.values[index]
    rows, heads, tokens, size = query.shape
    query = query * scaling
    grouped = query.view(rows, keys.shape[1], heads // keys.shape[1], tokens, size)
    sinks = None if s_aux is None else s_aux.float().view(keys.shape[1], -1)
    if isinstance(attn_metadata, DecodeBatch):
        result = _decode(grouped, key, value, keys, values, attn_metadata, sliding_window, softcap, sinks)
    else:
        result = _prefill(grouped, key, value, keys, values, attn_metadata, sliding_window, softcap, sinks)
    return result.reshape(rows, heads, tokens, -1).transpose(1, 2).to(query.dtype), None


def _decode(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attn_metadata: DecodeBatch,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One token for each row; `query` has shape [rows, kv heads, group, 1, head size]."""
    block, offset = attn_metadata.slots
    keys[block, :, :, offset] = to_stored(key[:, :, 0], keys.dtype)
    values[block, :, offset] = to_stored(value[:, :, 0], values.dtype)
    query = query[:, :, :, 0]
    if softcap is None and sinks is None and ops.attends(query, keys, values):
        return ops.attend(query, keys, values, attn_metadata.tables, attn_metadata.positions, window)
    sinks = None if sinks is None else sinks[None, :, :, None]
    visible = _visible(attn_metadata.span.flatten(), attn_metadata.positions.float(), window)[:, None, None]
    k = from_stored(keys[attn_metadata.tables], query.dtype, dim=3)
    v = from_stored(values[attn_metadata.tables], query.dtype)
    if torch.compiler.is_compiling():
        # Written out, so that the compiler reads the blocks where they are instead of gathering them first. as_strided
        # makes it compute the query once, and not again for every key.
        query = query.float().contiguous()
        query = query.as_strided(query.shape, query.stride())
        scores = (query[:, None, :, :, :, None] * k[:, :, :, None].float()).sum(4)
        weights, total = _weights(scores.permute(0, 2, 3, 1, 4).flatten(3), visible, softcap, sinks)
        weights = weights.unflatten(3, (-1, BLOCK)).permute(0, 3, 1, 2, 4)
        weighed: torch.Tensor = weights[..., None] * v[:, :, :, None].float()
        return weighed.sum((1, 4)) / total
    k, v = k.permute(0, 2, 3, 1, 4).flatten(3), v.transpose(1, 2).flatten(2, 3)
    weights, total = _weights(torch.matmul(query, k).float(), visible, softcap, sinks)
    return torch.matmul(weights.to(v.dtype), v) / total


def _prefill(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attn_metadata: PrefillBatch,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Runs of tokens one behind the other; `query` has shape [1, kv heads, group, tokens, head size]."""
    block, offset = attn_metadata.slots
    keys[block, :, :, offset] = to_stored(key[0].transpose(0, 1), keys.dtype)
    values[block, :, offset] = to_stored(value[0].transpose(0, 1), values.dtype)
    if prefill_attention.takes(query, keys) and _kernel_is_faster(query.dtype):
        return _read_by_kernel(query, keys, values, attn_metadata, window, softcap, sinks)
    return _read_runs(query, keys, values, attn_metadata, window, softcap, sinks)


def _read_by_kernel(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attn_metadata: PrefillBatch,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """As _prefill, where keys and values are stored."""
    tokens_first = query[0].permute(2, 0, 1, 3)
    attended = prefill_attention.attend(tokens_first, keys, values, attn_metadata.pieces, window, softcap, sinks)
    return attended.permute(1, 2, 0, 3)


@cache
def _kernel_is_faster(dtype: torch.dtype) -> bool:
    """Whether our kernel computes what PyTorch does and takes no more time; measured once in a process."""
    generator = torch.Generator().manual_seed(0)
    shape, size, first, count = (4, 2), 64, 2 * BLOCK, BLOCK
    numbers = (torch.randn(4, shape[0], BLOCK, size, generator=generator, dtype=torch.float32) for _ in range(2))
    keys, values = (each.to(dtype) for each in numbers)
    query = torch.randn(1, *shape, count, size, generator=generator, dtype=torch.float32).to(dtype) / 8
    batch = PrefillBatch([PrefillChunk(torch.tensor([2, 1, 3]), first, count)], KVCache([keys], [values]))
    calls = [partial(read, query, keys, values, batch, None, None, None) for read in (_read_by_kernel, _read_runs)]
    found, expected = (call().reshape(-1).float() for call in calls)
    if not (found - expected).norm() <= TOLERANCE * expected.norm():
        log.warning("attention of prompts is PyTorch's own: the kernel for it computes something else here")
        return False
    own, other = seconds(*calls, times=TIMES)
    log.info("attention of prompts takes %.2f of the time that PyTorch's does", own / other)
    return own <= other


def _read_runs(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attn_metadata: PrefillBatch,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """As _prefill, where keys and values are stored."""
    read = list[torch.Tensor]()
    for run, begin in enumerate(accumulate((run.count for run in attn_metadata.runs[:-1]), initial=0)):
        own = query[0, :, :, begin : begin + attn_metadata.runs[run].count]
        read.append(_read(own, keys, values, attn_metadata, run, window, softcap, sinks).flatten(0, 1))
    return torch.cat(read, 1)


def _read(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    attn_metadata: PrefillBatch,
    index: int,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """A run of tokens, whose keys and values are stored; `query` and result [kv heads, group, tokens, head size].

    Its own keys and values are read as they are stored too, so that it does not matter where a prompt is cut.
    """
    run = attn_metadata.runs[index]
    after = run.first + run.count
    k = from_stored(keys.index_select(0, run.table), query.dtype, dim=2).permute(1, 0, 3, 2).flatten(1, 2)[:, :after]
    v = from_stored(values.index_select(0, run.table), query.dtype).transpose(0, 1).flatten(1, 2)[:, :after]
    if softcap is None and sinks is None:
        # The heads of a group are further tokens that look at the same keys.
        folded, mask = query.flatten(1, 2)[None], attn_metadata.mask(index, window, query)
        attended = scaled_dot_product_attention(folded, k[None], v[None], attn_mask=mask, scale=1.0)
        return attended.view(*query.shape[:3], -1)
    scores = torch.matmul(query, k[:, None].transpose(2, 3)).float()
    sinks = None if sinks is None else sinks[:, :, None, None]
    weights, total = _weights(scores, attn_metadata.visible(index, window), softcap, sinks)
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
