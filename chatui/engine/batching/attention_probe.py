"""Whether a model's attention is of the plain kind, which attention over blocks can stand for."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from chatui.engine.batching import attention
from chatui.engine.batching.attention import LayerProbe
from chatui.engine.batching.forward import Forward, PromptChunk, model_logits, same
from chatui.engine.batching.kv_cache import KVCache, KVLayout
from chatui.engine.batching.longrope import encode_by_row

log = logging.getLogger(__name__)

ATTENTION_KINDS = {"full_attention", "sliding_attention"}
CHECKED_TOKENS = 12


def probe_layout(model: PreTrainedModel) -> KVLayout | None:
    """What the model stores for each token, or None where its attention is not the plain kind.

    The model is left with the attention over blocks in place, and with a rope by row, or as it was.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not model._supports_attention_backend or not kinds <= ATTENTION_KINDS:
        return None
    before = config._attn_implementation
    found = LayerProbe({})
    try:
        encode_by_row(model)
        model.set_attn_implementation(attention.NAME)
        with torch.inference_mode():
            ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
            model_logits(model, ids, torch.arange(2, device=model.device)[None], found)
        if sorted(found.layers) == list(range(config.num_hidden_layers)):
            layers = tuple(found.layers[index] for index in range(config.num_hidden_layers))
            windows = tuple(found.options[index].sliding_window for index in range(config.num_hidden_layers))
            return KVLayout(layers, model.dtype, windows)
    except Exception as error:  # a model may do anything here; the serial path takes it
        log.debug("no attention over blocks for %s: %r", type(model).__name__, error)
    model.set_attn_implementation(before)
    return None


def matches_own_attention(model: PreTrainedModel, shape: KVLayout) -> bool:
    """Whether a few tokens read and decoded in blocks give the logits of the model's own forward pass.

    A prompt is read in two pieces by two rows at once, which then decode it together, one behind the other: a chat in
    small.
    """
    over_blocks = Forward(model, KVCache.allocate(shape, 2, model.device))
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    ids = [(7 + 31 * index) % min(vocabulary, 200) for index in range(CHECKED_TOKENS)]
    half, tables = CHECKED_TOKENS // 2, ((1,), (2,))
    try:
        for begin, ends in ((0, (2, 2)), (2, (half, half - 1))):
            over_blocks.prefill(
                [PromptChunk(table, begin, ids[begin:end]) for table, end in zip(tables, ends, strict=True)]
            )
        pairs = [[at, at - 1] for at in range(half, CHECKED_TOKENS)]
        found = [over_blocks.decode([ids[at] for at in pair], tables, pair) for pair in pairs]
        expected = _plain(model, ids)
    except Exception as error:  # as above
        log.debug("no attention over blocks for %s: %r", type(model).__name__, error)
        return False
    return all(same(logits, expected[pair]) for logits, pair in zip(found, pairs, strict=True))


def _plain(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    """Logits [tokens, vocabulary] of the model's own forward pass, with its own attention."""
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            plain: Any = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
            logits: torch.Tensor = plain.logits[0]
            return logits
    finally:
        model.set_attn_implementation(attention.NAME)
