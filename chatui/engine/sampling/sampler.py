"""Logits and settings -> one token, with transformers' own logits processors in the order of `generate()`."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Any, cast

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
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatui.engine.sampling.filters import Filtered, draw_each, filter_highest, filters_of, moved_to_cpu
from chatui.engine.sampling.top_logits import TopLogits, find_top_logits
from chatui.engine.sampling.tracing import Trace, record_choices
from chatui.errors import GenerationError
from chatui.generation_settings import GenerationSettings
from chatui.traces import ALTERNATIVES

# The likeliest tokens that are looked at first: almost always all that top-k, top-p and min-p leave.
FEW, MANY = 64, 1024
# So many rows are filtered together: for fewer that takes more operations than it saves.
TOGETHER = 3

PROCESSORS: dict[str, Callable[[Any], LogitsProcessor]] = {
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
}
"""The processor of each setting that looks back at the tokens so far, in the order of `generate()`.

It is made from the setting's value, and left out where that is the default, which is off.
"""


FILTERS: dict[str, Callable[[Any], LogitsProcessor]] = {
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
}
"""The processor of each filter, for one row."""


class Sampler:
    """Chooses tokens for one reply; the same seed, settings and logits choose the same tokens.

    `rules` are the model's own, see `model_logits_processors`. With `traced`, `trace` collects what each token was
    chosen from, the `alternatives` likeliest tokens among them.
    """

    def __init__(
        self,
        settings: GenerationSettings,
        seed: int,
        rules: Sequence[LogitsProcessor] = (),
        traced: bool = False,
        alternatives: int = ALTERNATIVES,
    ) -> None:
        self.greedy = settings.temperature == 0.0
        self.settings, self.filters = settings, filters_of(settings)
        self._rules = _rules(settings, rules)
        self.trace = Trace(settings.temperature, bool(self._rules), alternatives) if traced else None
        self.generator = torch.Generator().manual_seed(seed)
        self._forced: deque[int] = deque()

    def force(self, ids: Iterable[int]) -> None:
        """Make these the next tokens, whatever the scores. What would have been chosen is drawn, and dropped."""
        self._forced.extend(ids)

    def forced_or(self, token: int) -> int:
        """The next forced token, or the chosen one if there is none."""
        if not self._forced:
            return token
        if self.trace is not None:
            self.trace.force()
        return self._forced.popleft()

    @property
    def temperature(self) -> float:
        """What scores are divided by; 0 for the likeliest token always."""
        return self.settings.temperature

    @property
    def looks_back(self) -> bool:
        """Whether the choice depends on the tokens before it."""
        return bool(self._rules)

    def choose(self, input_ids: torch.Tensor | None, logits: torch.Tensor) -> int:
        """The next token id: as `choose_each` for one row."""
        [token] = choose_each([self], [input_ids], logits)
        if isinstance(token, GenerationError):
            raise token
        return token

    def rule(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores after penalties and the model's own rules; both of shape [1, ...]."""
        for processor in self._rules:
            scores = processor(cast(torch.LongTensor, input_ids), cast(torch.FloatTensor, scores))
        return scores

    def draw(self, highest: "RowLogits", *, need_more: bool = False) -> int:
        """A token by chance. Drawn on the CPU, so a seed means the same on every device.

        Raises GenerationError where scores are NaN.
        """
        ids, scores = self.candidates(highest, need_more=need_more)
        [token] = draw_each(ids[None], scores[None], [self.generator])
        if token is None:
            raise invalid_logits()
        return token

    def candidates(self, highest: "RowLogits", *, need_more: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, scores) of the tokens to draw from, both [candidates], on the CPU; the scores after all filters.

        The `highest` alone are not looked at where it is known that they are too few.
        """
        ids = highest.ids
        kept = None if need_more else self._among(highest.scores, ids, highest.total)
        if kept is not None:
            return ids[0].cpu(), kept[0].cpu()
        everything = highest.everything
        if self.filters and everything.shape[-1] > MANY:
            top, ids = everything.topk(MANY)
            kept = self._among(top, ids, highest.total)
        if kept is None:
            if self.trace is not None:
                self.trace.candidates(None)
            kept, ids = self._filtered(everything, self.settings.top_p), torch.arange(everything.shape[-1])[None]
        return ids[0].cpu(), kept[0].cpu()

    def _among(self, top: torch.Tensor, ids: torch.Tensor, total: torch.Tensor) -> torch.Tensor | None:
        """The scores `top` of `ids` after all filters, or None where these may keep others too: as `filter_highest`,
        with fewer operations for one row.
        """
        settings, top_p = self.settings, self.settings.top_p
        if settings.top_k:
            # Ties at the border stay, so the border must be inside.
            enough = settings.top_k < top.shape[-1] and bool(top[0, settings.top_k - 1] > top[0, -1])
        elif top_p < 1.0:
            share = float((top - total).exp().sum())
            enough, top_p = share >= top_p, min(1.0, top_p / share)
        else:
            enough = settings.min_p > 0.0 and float((top[0, -1] - top[0, 0]).exp()) < settings.min_p
        if not enough:
            return None
        if self.trace is not None:
            self.trace.candidates(ids)
        return self._filtered(top, top_p)

    def note(self, ids: torch.Tensor, kept: Filtered, row: int) -> None:
        """Tell the trace, if there is one, that the token is drawn among `ids` [1, candidates], of which that row of
        `kept` is left.
        """
        if self.trace is not None:
            self.trace.candidates(ids)
            for name in self.filters:
                self.trace.filtered(name, kept.stages[name][row : row + 1].clone())

    def _filtered(self, scores: torch.Tensor, top_p: float) -> torch.Tensor:
        for name in self.filters:
            processor = FILTERS[name](top_p if name == "top_p" else getattr(self.settings, name))
            scores = processor(_NO_IDS, cast(torch.FloatTensor, scores))
            if self.trace is not None:
                self.trace.filtered(name, scores)
        return scores


_NO_IDS = cast(torch.LongTensor, torch.empty(1, 0, dtype=torch.long))


@dataclass(frozen=True)
class RowLogits:
    """The scores of one row, divided by its temperature, and what was found out about them together with other rows.

    `scores` [1, candidates] are the highest of them and `ids` whose they are; `total` [1] is the logarithm of the sum
    of the exponentials of all.
    """

    undivided: torch.Tensor
    temperature: float
    scores: torch.Tensor
    ids: torch.Tensor
    total: torch.Tensor

    @property
    def everything(self) -> torch.Tensor:
        """All of them, [1, vocabulary]."""
        return self.undivided.float() / self.temperature

    @classmethod
    def of(cls, row: int, scores: torch.Tensor, temperature: float, seen: TopLogits) -> "RowLogits":
        """For a row of `scores` [rows, vocabulary], not yet divided, of which so much was `seen`."""
        at = slice(row, row + 1)
        return cls(scores[at], temperature, seen.top[at], seen.ids[at], seen.totals[at])


def choose_each(
    samplers: Sequence[Sampler], input_ids: Sequence[torch.Tensor | None], logits: torch.Tensor
) -> list[int | GenerationError]:
    """The next token id for each row, or what is wrong with its logits; what can be is done for all rows at once.

    `logits` has shape [rows, vocabulary]; each of `input_ids` [1, tokens so far], and may be None unless its sampler
    `looks_back`.
    """
    scores = logits
    if any(sampler.looks_back for sampler in samplers):
        scores = logits.to(torch.float32, copy=True)
    for row, (sampler, ids) in enumerate(zip(samplers, input_ids, strict=True)):
        if ids is not None and sampler.looks_back:
            scores[row : row + 1] = sampler.rule(ids, scores[row : row + 1])
    if all(sampler.greedy and sampler.trace is None for sampler in samplers):
        highest, best = moved_to_cpu(*scores.max(dim=-1))
        return _forced(samplers, _unless_broken(best, map(isnan, highest.tolist())))
    temperatures = [sampler.temperature or 1.0 for sampler in samplers]
    # A row that draws needs FEW; a greedy one what it is asked to tell of, which is less.
    alternatives = [sampler.trace.alternatives for sampler in samplers if sampler.trace is not None]
    count = max(alternatives) if all(sampler.greedy for sampler in samplers) else FEW
    seen = find_top_logits(scores, temperatures, count, plain=any(sampler.trace is not None for sampler in samplers))
    chosen = _choose_among(samplers, scores, temperatures, seen)
    chosen = _forced(samplers, chosen)
    _record(samplers, chosen, logits, scores, seen)
    return chosen


def _choose_among(
    samplers: Sequence[Sampler], scores: torch.Tensor, temperatures: Sequence[float], seen: TopLogits
) -> list[int | GenerationError]:
    """The next token of each row before any is forced; mostly it is among what was `seen`."""
    best, totals, highest = moved_to_cpu(seen.best, seen.totals, seen.top[:, 0])
    invalid = (isnan(total) and top != inf for total, top in zip(totals.tolist(), highest.tolist(), strict=True))
    chosen = _unless_broken(best, invalid)
    drawing = [row for row, sampler in enumerate(samplers) if not sampler.greedy and isinstance(chosen[row], int)]
    together = [row for row in drawing if samplers[row].filters] if len(drawing) >= TOGETHER else []
    if together:
        for row, token in _draw_together(samplers, together, seen.of(together)).items():
            chosen[row] = token
            drawing.remove(row)
    for row in drawing:
        try:
            highest_of_row = RowLogits.of(row, scores, temperatures[row], seen)
            chosen[row] = samplers[row].draw(highest_of_row, need_more=row in together)
        except GenerationError as error:
            chosen[row] = error
    return chosen


def _draw_together(
    samplers: Sequence[Sampler], rows: Sequence[int], look: TopLogits
) -> dict[int, int | GenerationError]:
    """The next token of those of the rows for which a `look` at them is enough."""
    kept = filter_highest(look.top, look.totals, [samplers[row].settings for row in rows])
    enough, ids, left = moved_to_cpu(kept.enough, look.ids, kept.scores)
    few = [at for at, found in enumerate(enough.tolist()) if found]
    if not few:
        return {}
    tokens = draw_each(_rows(ids, few), _rows(left, few), [samplers[rows[at]].generator for at in few])
    for at in few:
        samplers[rows[at]].note(look.ids[at : at + 1], kept, at)
    return {rows[at]: invalid_logits() if token is None else token for at, token in zip(few, tokens, strict=True)}


def _record(
    samplers: Sequence[Sampler],
    chosen: Sequence[int | GenerationError],
    logits: torch.Tensor,
    scores: torch.Tensor,
    seen: TopLogits,
) -> None:
    """Give the choices to the traces of those rows that have one."""
    traced = [
        (row, sampler.trace, token)
        for row, (sampler, token) in enumerate(zip(samplers, chosen, strict=True))
        if sampler.trace is not None and isinstance(token, int)
    ]
    if traced:
        rows, traces, tokens = zip(*traced, strict=True)
        ruled = any(samplers[row].looks_back for row in rows)
        record_choices(traces, tokens, _rows(logits, rows), _rows(scores, rows) if ruled else None, seen.of(rows))


def _forced(samplers: Sequence[Sampler], chosen: Sequence[int | GenerationError]) -> list[int | GenerationError]:
    """The chosen tokens, with the forced ones in their place."""
    return [
        sampler.forced_or(token) if isinstance(token, int) else token
        for sampler, token in zip(samplers, chosen, strict=True)
    ]


def _unless_broken(best: torch.Tensor, invalid: Iterable[bool]) -> list[int | GenerationError]:
    return [invalid_logits() if wrong else token for token, wrong in zip(best.tolist(), invalid, strict=True)]


def _rows(scores: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    return scores if len(rows) == len(scores) else scores[list(rows)]


def model_logits_processors(model: PreTrainedModel, prompt_tokens: int) -> list[LogitsProcessor]:
    """What the model's generation config forbids or favours beside our settings: tokens and words."""
    config, device = model.generation_config, str(model.device)
    rules: list[LogitsProcessor] = []
    if config is None:
        return rules
    if config.sequence_bias:
        rules.append(SequenceBiasLogitsProcessor(config.sequence_bias))
    if config.bad_words_ids:
        rules.append(NoBadWordsLogitsProcessor(config.bad_words_ids))
    if config.suppress_tokens:
        rules.append(SuppressTokensLogitsProcessor(config.suppress_tokens, device))
    if config.begin_suppress_tokens:
        rules.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, prompt_tokens, device))
    return rules


def invalid_logits() -> GenerationError:
    """What a user is told where logits hold NaN."""
    return GenerationError(
        "The model produced invalid numbers (NaN) instead of probabilities.",
        "Try again with --dtype bfloat16 or float32.",
    )


def _rules(settings: GenerationSettings, rules: Sequence[LogitsProcessor]) -> LogitsProcessorList:
    biases = [rule for rule in rules if type(rule) is SequenceBiasLogitsProcessor]
    processors = LogitsProcessorList(biases)
    for name, processor in PROCESSORS.items():
        value = getattr(settings, name)
        if value != GenerationSettings.model_fields[name].default:
            processors.append(processor(value))
    processors.extend(rule for rule in rules if rule not in biases)
    return processors
