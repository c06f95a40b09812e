"""What each token of a reply was chosen from: the model's scores and the steps of its sampler.

All rows of a step are looked at together, their logits still at hand; TokenTraces are made of many tokens at a time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log
from typing import Any

import torch
from torch import Tensor

from chatui.chat import TokenTrace
from chatui.local.highest import Look, look

ALTERNATIVES = 10
TOGETHER = 32
"""Tokens of a reply whose traces are made in one go."""

DIGITS = 7
"""Decimal places that are kept."""

Filter = tuple[str, Tensor]
"""A filter's name and the scores that it leaves, [1, candidates], minus infinity for those that it rules out."""


@dataclass(frozen=True)
class Step:
    """What there is to tell of the tokens that one step of the engine has chosen, one for each row.

    `ids` [rows, alternatives + 1] are the likeliest by the model and the chosen one; `numbers` of each row their
    logits, their scores after penalties and the model's own rules, and the FIGURES.
    """

    ids: Tensor
    numbers: Tensor


FIGURES = 5
"""The logits' total, their entropy, how many are higher than the chosen one's, the scores' total, the same at the
reply's temperature; totals are logarithms of the sum of all exponentials."""


@dataclass(frozen=True)
class Choice:
    """One token and where it came from, a `row` of a step, or of a plain look that tells as much.

    Where it was drawn, `ids` [1, candidates] are those it was drawn among, None for all, and `filters` what has ruled
    some of them out, in order.
    """

    token: int
    at: float
    step: Step | Look
    row: int
    ids: Tensor | None
    filters: Sequence[Filter]


class Trace:
    """Collects the choices of one reply, drawn at a `temperature`, or 0 where the likeliest token is always taken.

    `ruled` says whether penalties or rules of the model's change its logits.
    """

    def __init__(self, temperature: float, ruled: bool) -> None:
        self._temperature = temperature
        self._ruled = ruled
        self._choices: list[Choice] = []
        self._ids: Tensor | None = None
        self._filters: list[Filter] = []
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

    def is_among(self, ids: Tensor) -> bool:
        """Whether the token, which has been chosen, is sure to be one of these [rows, count], the highest there are."""
        return self._temperature == 0.0 or (self._ids is not None and self._ids.shape[-1] == ids.shape[-1])

    def chosen(self, token: int, step: Step | Look, row: int, now: float) -> None:
        """This token was chosen by that row of a step, `now` by time.perf_counter()."""
        self._choices.append(Choice(token, now - self._began, step, row, self._ids, self._filters))
        self._ids, self._filters = None, []

    def take(self, everything: bool = False) -> tuple[TokenTrace, ...]:
        """The traces of what was chosen since the last time, once there are enough, or of `everything`."""
        if not self._choices or (len(self._choices) < TOGETHER and not everything):
            return ()
        choices, self._choices = self._choices, []
        with torch.inference_mode():
            return _traces(choices, self._temperature, self._ruled)


def note(traces: Sequence[Trace], tokens: Sequence[int], logits: Tensor, ruled: Tensor | None, seen: Look) -> None:
    """A step has chosen these tokens, one for each trace.

    `logits` [rows, vocabulary] are the model's; `ruled` those after penalties and rules, None where there are none;
    `seen` is a plain look at the latter.
    """
    now = time.perf_counter()
    # What a look tells is left for later, when there are many tokens to make something of in one go.
    enough = ruled is None and all(trace.is_among(seen.ids) for trace in traces)
    step = seen if enough else _step(tokens, logits, ruled, seen)
    for row, (trace, token) in enumerate(zip(traces, tokens, strict=True)):
        trace.chosen(token, step, row, now)


def _step(tokens: Sequence[int], logits: Tensor, ruled: Tensor | None, seen: Look) -> Step:
    told, scores = (seen, logits) if ruled is None else (look(logits, [1.0] * len(tokens), ALTERNATIVES, True), ruled)
    ids = torch.cat((told.ids[:, :ALTERNATIVES], torch.tensor(tokens, device=logits.device)[:, None]), -1)
    own = logits.gather(-1, ids)
    higher = (logits > own[:, -1:]).sum(-1)
    figures = torch.stack((*_plain(told), higher, _plain(seen)[0], seen.totals), -1)
    return Step(ids, torch.cat((own, scores.gather(-1, ids), figures), -1))


def _plain(seen: Look) -> tuple[Tensor, Tensor]:
    if seen.plain_totals is None or seen.entropies is None:
        raise RuntimeError("a plain look is needed")
    return seen.plain_totals, seen.entropies


def _looked(choices: Sequence[Choice], looks: Sequence[Look], temperature: float) -> tuple[Tensor, Tensor]:
    """The ids and numbers of a Step, [choices, ...], of what was chosen of the highest scores of plain looks."""
    firsts = accumulate((len(seen.ids) for seen in looks), initial=0)
    rows = torch.tensor([first + choice.row for first, choice in zip(firsts, choices, strict=False)])
    # A step looks less far where all its rows are greedy, whose tokens come first.
    width = min(seen.ids.shape[-1] for seen in looks)
    top, highest = (
        torch.cat([each[:, :width] for each in parts])[rows]
        for parts in zip(*((seen.top, seen.ids) for seen in looks), strict=True)
    )
    totals = torch.cat([seen.totals for seen in looks])[rows]
    plain_totals, entropies = (torch.cat(each)[rows] for each in zip(*map(_plain, looks), strict=True))
    tokens = torch.tensor([choice.token for choice in choices], device=highest.device)
    place = (highest == tokens[:, None]).float().argmax(-1, keepdim=True)
    places = torch.arange(min(ALTERNATIVES, top.shape[-1]), device=place.device).expand(len(choices), -1)
    told = torch.cat((places, place), -1)
    own = top.gather(-1, told)
    higher = (top > own[:, -1:]).sum(-1)
    own = own * (temperature or 1.0)
    figures = torch.stack((plain_totals, entropies, higher, plain_totals, totals), -1)
    return highest.gather(-1, told), torch.cat((own, own, figures), -1)


def _traces(choices: Sequence[Choice], temperature: float, ruled: bool) -> tuple[TokenTrace, ...]:
    """What is to be told of these choices of one reply."""
    ids, numbers = _told(choices, temperature)
    logits, scores, figures = torch.split(numbers, [ids.shape[1], ids.shape[1], FIGURES], -1)
    model_total, entropies, higher, total, heated_total = figures.unsqueeze(-1).unbind(1)
    names, told = ["model"], [logits - model_total]
    if ruled:
        names.append("penalties")
        told.append(scores - total)
    if temperature not in (0.0, 1.0):
        names.append("temperature")
        told.append(scores / temperature - heated_total)
    names += [name for name, _ in choices[0].filters]
    shares = torch.cat((torch.stack(told, 1).exp(), _left(choices, ids)), 1)
    bits = entropies[:, 0] / log(2)
    each = zip(choices, ids.tolist(), _short(shares), (higher[:, 0].long() + 1).tolist(), _short(bits), strict=True)
    return tuple(_trace(*row, tuple(names)) for row in each)


def _told(choices: Sequence[Choice], temperature: float) -> tuple[Tensor, Tensor]:
    """The ids and numbers of a Step, [choices, ...]: of those that only looks tell of in one go."""
    looks = {at: choice.step for at, choice in enumerate(choices) if isinstance(choice.step, Look)}
    steps = {at: choice.step for at, choice in enumerate(choices) if isinstance(choice.step, Step)}
    parts = [_looked([choices[at] for at in looks], list(looks.values()), temperature)] if looks else []
    parts += [(step.ids[choices[at].row, None], step.numbers[choices[at].row, None]) for at, step in steps.items()]
    order = torch.tensor([*looks, *steps]).argsort()
    ids, numbers = map(torch.cat, zip(*parts, strict=True))
    return ids[order], numbers[order]


def _left(choices: Sequence[Choice], ids: Tensor) -> Tensor:
    """Probabilities [rows, filters, ids] of `ids` [rows, ids] after each filter, 0 where one has ruled them out."""
    count = len(choices[0].filters)
    left = torch.zeros(len(choices), count, ids.shape[1], device=ids.device)
    sizes = {0 if choice.ids is None else choice.ids.shape[-1] for choice in choices}
    for size in sizes if count else ():
        rows = [at for at, one in enumerate(choices) if size == (0 if one.ids is None else one.ids.shape[-1])]
        scores = torch.cat([scores for at in rows for _, scores in choices[at].filters])
        shares, wanted = scores.softmax(-1).view(len(rows), count, -1), ids[rows]
        if size == 0:
            left[rows] = shares.gather(-1, wanted[:, None].expand(-1, count, -1))
        else:
            among = torch.cat([choices[at].ids for at in rows])  # type: ignore[misc]
            left[rows] = shares @ (among[:, :, None] == wanted[:, None]).float()
    return left


def _short(numbers: Tensor) -> list[Any]:
    """As lists, without more decimal places than say anything."""
    found: list[Any] = ((numbers.double() * 10**DIGITS).round() / 10**DIGITS).tolist()
    return found


def _trace(
    choice: Choice,
    ids: list[int],
    shares: list[list[float]],
    rank: int,
    entropy: float,
    names: tuple[str, ...],
) -> TokenTrace:
    """`ids` end with the token's own, which may be among the others too; `shares` by `names`, in the order of `ids`."""
    count = len(ids) - 1 if choice.token in ids[:-1] else len(ids)
    return TokenTrace(
        id=choice.token,
        at=round(choice.at, DIGITS),
        probability=shares[0][-1],
        rank=rank,
        entropy=max(0.0, entropy),
        ids=tuple(ids[:count]),
        names=names,
        steps=tuple(tuple(row[:count]) for row in shares),
    )
