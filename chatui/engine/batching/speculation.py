"""Speculative decoding: a pass computes drafted tokens too, as further rows of the same sequence.

Each row is chosen from its own logits by its own sampler, so a reply is the same with and without drafts, as long as a
row's logits do not depend on the rows beside it. That is checked, bit by bit, before drafts are used.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from chatui.engine.batching.block_table import States
from chatui.engine.batching.forward import Forward
from chatui.engine.batching.prompt_lookup import NO_DRAFT, Draft

log = logging.getLogger(__name__)

MAX_ROWS = 16
"""A pass with drafts has no more rows: beyond, their products take as long as those of passes without."""
LENGTHS = (1, 3, 7, 15)
"""Drafted tokens of each row that a pass may have: few sizes, so that each is measured and checked soon."""
KEPT_TIMES = 5
OUTDATED_STEPS = 64
"""A measurement that is so many steps old is made again."""
GAIN = 1.05
"""Drafts are used where they should be faster by so much."""
CHECKS = 3
"""Passes with other logits after which drafts are given up."""
# How passes grow with the number of their rows, before that was measured. Too low, so that it is measured.
GROWTH = 0.5


@dataclass(frozen=True)
class DraftedRow:
    """A row of a decode step: the `token` at `position` of the sequence in `table`, and a draft of what follows.

    `states` in front of the token, where the model keeps any, cannot go back: no draft is computed then.
    """

    token: int
    table: Sequence[int]
    position: int
    draft: Draft = NO_DRAFT
    states: States | None = None


class StepTimes:
    """The seconds that a decode step takes, by its rows."""

    def __init__(self) -> None:
        self._seconds: dict[int, deque[float]] = {}
        self._measured_at: dict[int, int] = {}
        self._steps = 0

    def record(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        self._steps += 1
        self._seconds.setdefault(rows, deque(maxlen=KEPT_TIMES)).append(seconds)
        self._measured_at[rows] = self._steps

    def is_outdated(self, rows: int) -> bool:
        """Whether nothing is known of steps with so many rows, or not of late."""
        return self._steps - self._measured_at.get(rows, -OUTDATED_STEPS) >= OUTDATED_STEPS

    def estimate(self, rows: int) -> float:
        """How long a step of so many rows takes where nothing disturbs it; from steps of fewer rows where none was
        measured of late.
        """
        known = max(count for count in self._seconds if count <= rows and not self.is_outdated(count))
        return min(self._seconds[known]) * float((rows / known) ** GROWTH)


class Speculation:
    """Decides how much of each draft a step computes, and computes it."""

    def __init__(self, forward: Forward, max_tokens: int) -> None:
        """At most so many drafted tokens of each row; 0 for none."""
        self.max_tokens = max_tokens if forward.states is None else 0
        self._forward = forward
        self._times = StepTimes()
        self._decoder: object = None
        self._checks: dict[int, int] = {}
        self._exact = set[int]()

    def is_enabled(self) -> bool:
        """Whether drafts are worth being looked up for the next step."""
        if not self.max_tokens:
            return False
        if self._decoder is not self._forward.decoder:  # another one may round otherwise, and takes another time
            self._decoder, self._checks, self._exact = self._forward.decoder, {}, set()
            self._times = StepTimes()
        return self._forward.settled and max(self._checks.values(), default=0) < CHECKS

    def decode(self, rows: Sequence[DraftedRow]) -> tuple[torch.Tensor, list[int]]:
        """(logits [tokens, vocabulary], how many tokens of each row's draft they are about).

        Those of a row are behind its token, and behind each token of its draft.
        """
        lengths = self._lengths([row.draft for row in rows])
        drafted = len(rows) + sum(lengths)
        if drafted > len(rows) and drafted not in self._exact:
            return self._checked(rows, lengths, drafted)
        return self._timed(rows, lengths), lengths

    def _lengths(self, drafts: Sequence[Draft]) -> list[int]:
        """How many tokens of each draft should be computed."""
        plain = len(drafts)
        if not any(draft.tokens for draft in drafts) or self._times.is_outdated(plain):
            return [0] * plain
        best, best_speed = [0] * plain, GAIN * plain / self._times.estimate(plain)
        for limit in (length for length in LENGTHS if length <= self.max_tokens):
            lengths = [min(limit, len(draft.tokens)) for draft in drafts]
            drafted = plain + sum(lengths)
            if drafted > MAX_ROWS:
                break
            expected = plain + sum(sum(draft.chances[:limit]) for draft in drafts)
            if (speed := expected / self._times.estimate(drafted)) > best_speed:
                best, best_speed = lengths, speed
        return best

    def _checked(self, rows: Sequence[DraftedRow], lengths: list[int], drafted: int) -> tuple[torch.Tensor, list[int]]:
        """As `decode` does, with drafts if a pass of so many rows gives the same logits as one without.

        The rows are last in one pass, and first in another.
        """
        none, heads = [0] * len(rows), heads_of(lengths)
        if not self._exact:
            self._compute(rows, lengths)  # which lets a faster step get ready
        expected = self._compute(rows, none)
        last = self._compute(rows, lengths, reverse=True)
        first = self._timed(rows, lengths)
        if torch.equal(last[heads], expected) and torch.equal(first[heads], expected):
            self._exact.add(drafted)
            return first, lengths
        self._checks[drafted] = self._checks.get(drafted, 0) + 1
        if self._checks[drafted] == CHECKS:
            log.info("no drafts are used: the logits of a row depend on the rows beside it")
        return self._timed(rows, none), none

    def _timed(self, rows: Sequence[DraftedRow], lengths: Sequence[int]) -> torch.Tensor:
        started = time.perf_counter()
        logits = self._compute(rows, lengths)
        if logits.is_cuda:  # there the pass has only been begun
            torch.cuda.synchronize()
        self._times.record(len(logits), time.perf_counter() - started)
        return logits

    def _compute(self, rows: Sequence[DraftedRow], lengths: Sequence[int], *, reverse: bool = False) -> torch.Tensor:
        """The logits of all tokens. With `reverse` they are the rows of the pass in the opposite order."""
        inputs = [
            (token, row.table, row.position + depth)
            for row, length in zip(rows, lengths, strict=True)
            for depth, token in enumerate((row.token, *row.draft.tokens[:length]))
        ]
        if reverse:
            inputs.reverse()
        ids, tables, positions = zip(*inputs, strict=True)
        logits = self._forward.decode(ids, tables, positions, [row.states for row in rows])
        return logits.flip(0) if reverse else logits


def heads_of(lengths: Sequence[int]) -> list[int]:
    """Where the token of each row stands before its draft, if so many tokens of that follow."""
    return [0, *accumulate(1 + length for length in lengths[:-1])]
