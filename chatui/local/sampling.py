"""Logits and settings -> one token, with transformers' own logits processors in the order of `generate()`."""

from collections.abc import Sequence
from typing import cast

import torch
from transformers import LogitsProcessor, PreTrainedModel
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatui.errors import GenerationError
from chatui.settings import GenerationSettings


class Sampler:
    """Chooses tokens for one reply; the same seed, settings and logits choose the same tokens.

    `rules` are the model's own, see `model_rules`.
    """

    def __init__(self, settings: GenerationSettings, seed: int, rules: Sequence[LogitsProcessor] = ()) -> None:
        self.greedy = settings.temperature == 0.0
        self._processors = _processors(settings, rules)
        self._generator = torch.Generator().manual_seed(seed)

    def choose(self, input_ids: torch.Tensor, logits: torch.Tensor) -> int:
        """The next token id.

        `input_ids` has shape [1, tokens so far], `logits` [1, vocabulary]. Raises GenerationError where the
        logits hold NaN. Probabilities are drawn on the CPU, so a seed means the same on every device.
        """
        scores = self._processors(cast(torch.LongTensor, input_ids), cast(torch.FloatTensor, logits.float()))
        if self.greedy:
            best = scores.argmax(dim=-1)
            if torch.isnan(scores[0, best]).any():
                raise _broken()
            return int(best.item())
        probabilities = torch.softmax(scores, dim=-1).cpu()
        if torch.isnan(probabilities).any():
            raise _broken()
        return int(torch.multinomial(probabilities, 1, generator=self._generator).item())


def model_rules(model: PreTrainedModel, prompt_tokens: int) -> list[LogitsProcessor]:
    """What the model's generation config forbids or favours beside our settings: tokens, words, repeated n-grams."""
    config, device = model.generation_config, str(model.device)
    rules: list[LogitsProcessor] = []
    if config is None:
        return rules
    if config.sequence_bias:
        rules.append(SequenceBiasLogitsProcessor(config.sequence_bias))
    if config.no_repeat_ngram_size:
        rules.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        rules.append(NoBadWordsLogitsProcessor(config.bad_words_ids))
    if config.suppress_tokens:
        rules.append(SuppressTokensLogitsProcessor(config.suppress_tokens, device))
    if config.begin_suppress_tokens:
        rules.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, prompt_tokens, device))
    return rules


def _broken() -> GenerationError:
    return GenerationError(
        "The model produced invalid numbers (NaN) instead of probabilities.",
        "Try again with --dtype bfloat16 or float32.",
    )


def _processors(settings: GenerationSettings, rules: Sequence[LogitsProcessor]) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    processors.extend(rules)
    if settings.temperature == 0.0:
        return processors
    if settings.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        processors.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p > 0.0:
        processors.append(MinPLogitsWarper(settings.min_p))
    return processors
