"""A pass over pieces of prompts whose layers are computed by one call of our own C++, where that is faster."""

import logging
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from chatui.engine.batching.attention import PrefillBatch, PrefillChunk
from chatui.engine.batching.forward import model_logits
from chatui.engine.batching.fused_decode import FusedDecode
from chatui.engine.batching.fused_layers import FusedLayers, random_cache, recorded
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.longrope import read_as
from chatui.engine.kernels.checks import TIMES, seconds
from chatui.estimates import blocks_for

log = logging.getLogger(__name__)

# (first position, tokens) of the pieces of the check: one within a block, and one that goes over to the next.
CHECKED_PIECES = (0, 5), (50, 27)


class FusedPrefill(FusedLayers):
    """As model_logits for pieces of prompts, and for rows that are decoded beside them as `decode` does it."""

    def __init__(self, decode: FusedDecode) -> None:
        super().__init__(decode.model, decode.list_name, decode.layers)
        self.decode = decode

    def __call__(
        self, ids: Tensor, positions: Tensor, batch: PrefillBatch, ends: Tensor, tensors: list[Tensor]
    ) -> Tensor:
        """Logits [1, ends, vocabulary]; ids and positions [1, tokens], `tensors` as DecodeStep.forward has them.

        Raises RuntimeError, and UnusualLayerError where positions are encoded in another way.
        """
        self.build(ids.shape[1], tensors)
        tables = batch.pieces.tables
        pieces = replace(batch.pieces, windowed_tables=batch.cache.places_in(tables), decoded=batch.decoded)
        if self.decode.ends is None:
            return self.logits(ids, positions, pieces, ends)
        hidden, ropes = self.decode.embed(self.decode.ends, ids, positions)
        hidden = self.compute(hidden, pieces, ropes, 0, self.buffers.hidden)
        return self.decode.logits_of(hidden[0, ends], tensors)[None]


def fuse_prefill(decode: FusedDecode, cache: KVCache) -> FusedPrefill | None:
    """The layers of a fused decode step for prompts, or None where they are no faster there; only logs why not."""
    try:
        with torch.inference_mode(), read_as(0):
            fused = FusedPrefill(decode)
            is_faster = _is_faster(fused, random_cache(cache, 4))
            fused.clear()
        return fused if is_faster else None
    except Exception as error:  # as in fuse
        log.info("the layers are not fused for prompts: %s", error)
        return None
    finally:
        decode.clear()  # which computed the logits


def _is_faster(fused: FusedPrefill, cache: KVCache) -> bool:
    """Let the model's own layers and ours read the same, and compare the times. Raises UnusualLayerError."""
    runs = [
        PrefillChunk(torch.arange(1, 1 + blocks_for(first + count)) + 2 * at, first, count)
        for at, (first, count) in enumerate(CHECKED_PIECES)
    ]
    batch, tensors = PrefillBatch(runs, cache), cache.tensors
    positions = batch.pieces.positions[None]
    ids = torch.arange(positions.shape[1])[None] % fused.model.config.get_text_config(decoder=True).vocab_size
    ends = batch.pieces.begins[1:] - 1
    own = partial(model_logits, fused.model, ids, positions, batch, ends)
    calls, _ = recorded(fused.model, fused.list_name, own)
    fused.check(calls, cache, batch.pieces, batch.slots)
    ours, others = seconds(partial(fused, ids, positions, batch, ends, tensors), own, times=TIMES)
    log.info("with fused layers prompts take %.2f of the time", ours / others)
    return ours <= others
