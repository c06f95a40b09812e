"""How much keys and values in int8 change what a model says, measured over a fixed text when it is loaded."""

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.forward import Forward, PromptChunk
from chatui.engine.batching.kv_cache import KVCache, KVLayout

TEXT = (
    "The observatory stands on a hill above the town, where the nights are clear for most of the year. On Tuesday a "
    "school class of 24 children came to look at Saturn. They asked how far away it is, why it has rings, and whether "
    "anyone could ever walk on it. The astronomer drew the planets on a blackboard, and explained that light takes "
    "more than an hour to come here from there."
)


def measure_divergence(model: PreTrainedModel, layout: KVLayout, tokenizer: PreTrainedTokenizerBase) -> float:
    """The mean KL divergence, in nats, of next-token distributions with K/V in int8 from those with K/V as in `layout`.

    The mean is over the tokens of one K/V block. Takes two passes over them.
    """
    ids: list[int] = tokenizer(TEXT)["input_ids"][:BLOCK]
    full, rounded = (_log_probabilities(model, each, ids) for each in (layout, layout.in_int8()))
    return float((full.exp() * (full - rounded)).sum(-1).mean())


def _log_probabilities(model: PreTrainedModel, layout: KVLayout, ids: list[int]) -> Tensor:
    """Behind each of the tokens: [tokens, vocabulary]."""
    forward = Forward(model, KVCache.allocate(layout, 1, model.device))
    return forward.prefill_every_token(PromptChunk((1,), 0, ids)).float().log_softmax(-1)
