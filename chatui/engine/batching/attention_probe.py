"""Whether a model's attention is of the plain kind, which attention over blocks can stand for, and whether states that
it keeps beside keys and values are of transformers' common kind.
"""

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
from chatui.engine.batching.recurrent_states import SequenceStates, StateLayout

log = logging.getLogger(__name__)

ATTENTION_KINDS = {"full_attention", "sliding_attention"}
# Kinds of layers that keep more for each token than keys and values, or see them otherwise.
UNUSUAL_KINDS = {"chunked_attention", "indexed_attention"}
# Models whose recurrent states begin anew with each piece of a prompt, so that a model without weights is known, too;
# `_goes_on` finds out about others.
RESTARTING = {"mamba", "falcon_mamba", "jamba"}
CHECKED_TOKENS = 12


def probe_layout(model: PreTrainedModel) -> KVLayout | None:
    """What the model stores for each token, or None where its attention is not the plain kind.

    The model is left with the attention over blocks in place, and with a rope by row, or as it was.
    """
    config = model.config.get_text_config(decoder=True)
    try:
        states = StateLayout.of(model)
    except Exception as error:  # as below
        log.debug("no states of %s: %r", type(model).__name__, error)
        return None
    if not _may_be_plain(model, set(getattr(config, "layer_types", None) or ()), states):
        return None
    before = config._attn_implementation
    found = LayerProbe({})
    try:
        encode_by_row(model)
        model.set_attn_implementation(attention.NAME)
        with torch.inference_mode():
            ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
            stack = None if states is None else states.stack([SequenceStates()])
            cache = None if states is None else {states.argument: stack}
            model_logits(model, ids, torch.arange(2, device=model.device)[None], found, cache=cache)
        if states is not None and stack is not None and set(found.layers) == states.attention:
            layers = tuple(found.layers.get(index, (0, 0, 0)) for index in range(len(states.counts)))
            return KVLayout(layers, model.dtype, state_bytes=SequenceStates(stack.rows(1)[0]).nbytes)
        if states is None and sorted(found.layers) == list(range(config.num_hidden_layers)):
            layers = tuple(found.layers[index] for index in range(config.num_hidden_layers))
            windows = tuple(found.options[index].sliding_window for index in range(config.num_hidden_layers))
            return KVLayout(layers, model.dtype, windows)
    except Exception as error:  # a model may do anything here; the serial path takes it
        log.debug("no attention over blocks for %s: %r", type(model).__name__, error)
    model.set_attn_implementation(before)
    return None


def _may_be_plain(model: PreTrainedModel, kinds: set[str], states: StateLayout | None) -> bool:
    """What the config tells; `kinds` are those of its layers."""
    if states is not None:
        return not kinds & UNUSUAL_KINDS and model.config.model_type not in RESTARTING
    return bool(model._supports_attention_backend) and kinds <= ATTENTION_KINDS


def matches_own_attention(model: PreTrainedModel, shape: KVLayout) -> bool:
    """Whether a few tokens read and decoded in blocks give the logits of the model's own forward pass.

    A prompt is read in two pieces by two rows at once, which then decode it together, one behind the other: a chat in
    small.
    """
    over_blocks = Forward(model, KVCache.allocate(shape, 2, model.device))
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    ids = [(7 + 31 * index) % min(vocabulary, 200) for index in range(CHECKED_TOKENS)]
    half, tables, states = CHECKED_TOKENS // 2, ((1,), (2,)), (SequenceStates(), SequenceStates())
    try:
        for begin, ends in ((0, (2, 2)), (2, (half, half - 1))):
            rows = zip(tables, ends, states, strict=True)
            over_blocks.prefill([PromptChunk(table, begin, ids[begin:end], states=row) for table, end, row in rows])
            _commit(states)
        pairs, found = [[at, at - 1] for at in range(half, CHECKED_TOKENS)], list[torch.Tensor]()
        for pair in pairs:
            found.append(over_blocks.decode([ids[at] for at in pair], tables, pair, states))
            _commit(states)
        if over_blocks.states is not None and not _goes_on(over_blocks, ids):
            return False
        expected = _plain(model, ids)
    except Exception as error:  # as above
        log.debug("no attention over blocks for %s: %r", type(model).__name__, error)
        return False
    return all(same(logits, expected[pair]) for logits, pair in zip(found, pairs, strict=True))


def _commit(states: Sequence[SequenceStates]) -> None:
    for each in states:
        each.commit()


def _goes_on(over_blocks: Forward, ids: Sequence[int]) -> bool:
    """Whether tokens that are read together go on from the recurrent states in front of them. Those of some models
    (Mamba, Jamba) begin anew in transformers; with the short texts that are compared here that could pass as rounding.
    """
    half, end = len(ids) // 2, len(ids) // 2 + 2
    known = SequenceStates()
    over_blocks.prefill([PromptChunk((1,), 0, ids[:half], states=known)])
    known.commit()
    # So large that some of it is left whatever is forgotten with each token.
    large = {key: 1e20 * each if key[2] == "recurrent" else each for key, each in known.tensors.items()}
    rows = (known, SequenceStates(large))
    for row in rows:
        over_blocks.prefill([PromptChunk((1,), half, ids[half:end], states=row)])
    _commit(rows)
    first = min((key for key in known.tensors if key[2] == "recurrent"), default=None)
    return first is None or not torch.equal(*(row.tensors[first] for row in rows))


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
