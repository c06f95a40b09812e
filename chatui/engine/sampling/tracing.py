"""What each token of a reply was chosen from: the model's scores and the steps of its sampler.

All rows of a step are looked at together, their logits still at hand; Traces are made of many tokens at a time.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import log

import torch
from torch import Tensor

from chatui.ending_thread import run_in_ending_thread
from chatui.engine.sampling.top_logits import TopLogits, find_top_logits
from chatui.traces import ALTERNATIVES, Traces

TOGETHER = 256
"""Tokens of a reply, at most, of which everything is kept that was looked at: some kB for each."""
MAX_BYTES = 4 * 2**20
"""Of what filters have left of these tokens' scores, at most: for each token some kB, or where it was drawn among the
whole vocabulary, up to a MB for each filter."""

Filter = tuple[str, Tensor]
"""A filter's name and the scores that it leaves, [1, candidates], minus infinity for those that it rules out."""


@dataclass(frozen=True)
class SamplingStep:
    """What is recorded of the tokens that one step of the engine has chosen, one for each row.

    `ids` [rows, alternatives + 1] are the likeliest by the model and the chosen one; `numbers` of each row their
    logits, their scores after penalties and the model's own rules, and the FIGURES.
    """

    ids: Tensor
    numbers: Tensor

    def of(self, row: int, alternatives: int) -> tuple[Tensor, Tensor]:
        """The ids and the numbers of one row, with at most that many of the likeliest tokens."""
        width = self.ids.shape[1]
        kept = [*range(min(alternatives, width - 1)), width - 1]
        scores = [width + at for at in kept]
        figures = range(2 * width, 2 * width + FIGURES)
        return self.ids[row, kept], self.numbers[row, [*kept, *scores, *figures]]


FIGURES = 5
"""The logits' total, their entropy, how many are higher than the chosen one's, the scores' total, the same at the
reply's temperature; totals are logarithms of the sum of all exponentials."""


@dataclass(frozen=True)
class Choice:
    """One token and where it came from: a `row` of a step, or of TopLogits at temperature 1, which hold as much.

    Where it was drawn, `ids` [1, candidates] are those it was drawn among, None for all, and `filters` what has ruled
    some of them out, in order.
    """

    token: int
    at: float
    step: SamplingStep | TopLogits
    row: int
    ids: Tensor | None
    filters: Sequence[Filter]


class Trace:
    """Collects the choices of one reply, drawn at a `temperature`, or 0 where the likeliest token is always taken.

    `ruled` says whether penalties or rules of the model's change its logits. `alternatives` is how many of the
    likeliest tokens it has for each choice. One thread adds choices, and any may ask for the `traces`.
    """

    def __init__(self, temperature: float, ruled: bool, alternatives: int = ALTERNATIVES) -> None:
        self.alternatives = alternatives
        self._temperature = temperature
        self._ruled = ruled
        self._made = Traces()
        self._choices: list[Choice] = []
        self._bytes = 0  # of the filters' scores in them
        self._making, self._noting = threading.Lock(), threading.Lock()
        self._ids: Tensor | None = None
        self._filters: list[Filter] = []
        self._forced = False
        self._began = time.perf_counter()

    def begin(self) -> None:
        """Times count from now on."""
        self._began = time.perf_counter()

    def candidates(self, ids: Tensor | None) -> None:
        """A token is about to be drawn among these [1, candidates], None for all; forgets the filters noted before."""
        self._ids, self._filters = ids, []

    def filtered(self, name: str, scores: Tensor) -> None:
        """A filter has left these scores [1, candidates]."""
        self._filters.append((name, scores))

    def force(self) -> None:
        """The token that was chosen is replaced by another."""
        self._forced = True

    def is_among(self, ids: Tensor) -> bool:
        """Whether the token, which has been chosen, is sure to be one of these [rows, count], the highest there are."""
        if self._forced:
            return False
        return self._temperature == 0.0 or (self._ids is not None and self._ids.shape[-1] == ids.shape[-1])

    def chosen(self, token: int, step: SamplingStep | TopLogits, row: int, now: float) -> None:
        """This token was chosen by that row of a step, `now` by time.perf_counter()."""
        choice = Choice(token, now - self._began, step, row, self._ids, self._filters)
        self._ids, self._filters, self._forced = None, [], False
        with self._noting:
            self._choices.append(choice)
            self._bytes += sum(scores.nbytes for _, scores in choice.filters)
            full = len(self._choices) == TOGETHER or self._bytes >= MAX_BYTES
        if full:
            self._make()

    def traces(self) -> Traces:
        """How the tokens were chosen up to now; takes some work. Called in any thread."""
        return run_in_ending_thread(self._make)

    def _make(self) -> Traces:
        """Make something of the choices there are. Others may be noted meanwhile, so no step waits for a reader."""
        with self._making:
            with self._noting:
                choices, self._choices, self._bytes = self._choices, [], 0
            if choices:
                with torch.inference_mode():
                    more = _made(choices, self._temperature, self._ruled, self.alternatives)
                self._made = replace(more, data=self._made.data + more.data)
            return self._made


def record_choices(
    traces: Sequence[Trace], tokens: Sequence[int], logits: Tensor, ruled: Tensor | None, seen: TopLogits
) -> None:
    """A step has chosen these tokens, one for each trace.

    `logits` [rows, vocabulary] are the model's; `ruled` those after penalties and rules, None where there are none;
    `seen` is a plain look at the latter, or else at the former.
    """
    now = time.perf_counter()
    # Where TopLogits are enough they are evaluated later, for many tokens at once.
    enough = ruled is None and all(trace.is_among(seen.ids) for trace in traces)
    step = seen if enough else _step(tokens, logits, ruled, seen, max(trace.alternatives for trace in traces))
    for row, (trace, token) in enumerate(zip(traces, tokens, strict=True)):
        trace.chosen(token, step, row, now)


def _step(
    tokens: Sequence[int], logits: Tensor, ruled: Tensor | None, seen: TopLogits, alternatives: int
) -> SamplingStep:
    logits = logits.float()
    look, scores = (
        (seen, logits) if ruled is None else (find_top_logits(logits, [1.0] * len(tokens), alternatives, True), ruled)
    )
    ids = torch.cat((look.ids[:, :alternatives], torch.tensor(tokens, device=logits.device)[:, None]), -1)
    own = logits.gather(-1, ids)
    higher = (logits > own[:, -1:]).sum(-1)
    figures = torch.stack((*_plain(look), higher, _plain(seen)[0], seen.totals), -1)
    return SamplingStep(ids, torch.cat((own, scores.gather(-1, ids), figures), -1))


def _plain(seen: TopLogits) -> tuple[Tensor, Tensor]:
    if seen.plain_totals is None or seen.entropies is None:
        raise RuntimeError("a plain look is needed")
    return seen.plain_totals, seen.entropies


def _looked(
    choices: Sequence[Choice], looks: Sequence[TopLogits], temperature: float, alternatives: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, numbers and filters' probabilities, as in `_collect`, of choices among the highest scores of `looks`."""
    firsts = accumulate((len(seen.ids) for seen in looks), initial=0)
    rows = torch.tensor([first + choice.row for first, choice in zip(firsts, choices, strict=False)])
    # A step looks less far where all its rows are greedy, whose tokens come first.
    widths = [seen.ids.shape[-1] for seen in looks]
    if (width := min(widths)) != max(widths):
        looks = [replace(seen, top=seen.top[:, :width], ids=seen.ids[:, :width]) for seen in looks]
    columns = zip(*((seen.top, seen.ids, seen.totals, *_plain(seen)) for seen in looks), strict=True)
    top, highest, totals, plain_totals, entropies = (torch.cat(column)[rows] for column in columns)
    tokens = torch.tensor([choice.token for choice in choices], device=highest.device)
    rank = (highest == tokens[:, None]).float().argmax(-1, keepdim=True)
    first_ranks = torch.arange(min(alternatives, top.shape[-1]), device=rank.device).expand(len(choices), -1)
    ranks = torch.cat((first_ranks, rank), -1)
    own = top.gather(-1, ranks)
    higher = (top > own[:, -1:]).sum(-1)
    own = own * (temperature or 1.0)
    figures = torch.stack((plain_totals, entropies, higher, plain_totals, totals), -1)
    filters = len(choices[0].filters)
    left = _shares(choices).gather(-1, ranks[:, None].expand(-1, filters, -1)) if filters else own[:, None][:, :0]
    return highest.gather(-1, ranks), torch.cat((own, own, figures), -1), left


def _made(choices: Sequence[Choice], temperature: float, ruled: bool, alternatives: int) -> Traces:
    """The Traces of these choices of one reply."""
    ids, numbers, left = _collect(choices, temperature, alternatives)
    logits, scores, figures = torch.split(numbers, [ids.shape[1], ids.shape[1], FIGURES], -1)
    model_total, entropies, higher, total, heated_total = figures.unsqueeze(-1).unbind(1)
    names, logprobs = ["model"], [logits - model_total]
    if ruled:
        names.append("penalties")
        logprobs.append(scores - total)
    if temperature not in (0.0, 1.0):
        names.append("temperature")
        logprobs.append(scores / temperature - heated_total)
    names += [name for name, _ in choices[0].filters]
    at = torch.tensor([[choice.at] for choice in choices], device=ids.device, dtype=torch.float32)
    bits = (entropies / log(2)).clamp_min(0.0)
    numbers = torch.cat((at, higher + 1, bits, torch.cat(logprobs, 1).exp(), left.flatten(1)), 1)
    records = torch.cat((ids.int(), numbers.view(torch.int32)), 1)
    return Traces(tuple(names), ids.shape[1], records.cpu().numpy().tobytes())


def _collect(choices: Sequence[Choice], temperature: float, alternatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and numbers as in a SamplingStep, [choices, ...], and the ids' probabilities after each filter."""
    looks = {at: choice.step for at, choice in enumerate(choices) if isinstance(choice.step, TopLogits)}
    steps = {at: choice.step for at, choice in enumerate(choices) if isinstance(choice.step, SamplingStep)}
    parts = [_looked([choices[at] for at in looks], list(looks.values()), temperature, alternatives)] if looks else []
    if steps:
        rows = [step.of(choices[at].row, alternatives) for at, step in steps.items()]
        ids, numbers = (torch.stack(column) for column in zip(*rows, strict=True))
        parts.append((ids, numbers, _left([choices[at] for at in steps], ids)))
    if len(parts) == 1:
        return parts[0]
    order = torch.tensor([*looks, *steps]).argsort()
    ids, numbers, left = (torch.cat(column)[order] for column in zip(*parts, strict=True))
    return ids, numbers, left


def _left(choices: Sequence[Choice], ids: Tensor) -> Tensor:
    """Probabilities [choices, filters, ids] of `ids` [choices, ids] after each filter, 0 where one ruled them out."""
    count = len(choices[0].filters)
    left = torch.zeros(len(choices), count, ids.shape[1], device=ids.device, dtype=torch.float32)
    sizes = {0 if choice.ids is None else choice.ids.shape[-1] for choice in choices}
    for size in sizes if count else ():
        rows = [at for at, one in enumerate(choices) if size == (0 if one.ids is None else one.ids.shape[-1])]
        shares, targets = _shares([choices[at] for at in rows]), ids[rows]
        if size == 0:
            left[rows] = shares.gather(-1, targets[:, None].expand(-1, count, -1))
        else:
            among = torch.cat([choices[at].ids for at in rows])  # type: ignore[misc]
            left[rows] = shares @ (among[:, :, None] == targets[:, None]).float()
    return left


def _shares(choices: Sequence[Choice]) -> Tensor:
    """Probabilities [choices, filters, candidates] after each filter, of choices with as many candidates."""
    scores = torch.cat([scores for choice in choices for _, scores in choice.filters])
    return scores.softmax(-1).view(len(choices), len(choices[0].filters), -1)
