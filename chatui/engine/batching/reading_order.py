"""Which prompts a forward pass reads, and how much of each: users share the passes, and short prompts do not wait for
long ones. Pure: it knows no clock.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

# Fewer tokens of one more prompt are not worth its part of the pass.
MIN_CHUNK = 16
# What is left of a token by rounding.
NOTHING = 1e-6


class Reading(Protocol):
    """A prompt of `user`."""

    user: str

    @property
    def unread(self) -> int:
        """Tokens that are still to be read."""


Row = TypeVar("Row", bound=Reading)


@dataclass(eq=False)
class EndedPrompt:
    """Stands for a prompt of `user` that has been read, and that would not have been yet if all shared."""

    user: str


class ReadingOrder:
    """Prompts are read one after another, in the order in which they would end if all users shared each pass equally.

    So each ends no later than it would then, most end earlier, and none starves. This is the Fair Sojourn Protocol:
    Friedman and Henderson, "Fairness and efficiency in web server protocols", SIGMETRICS 2003.
    """

    def __init__(self) -> None:
        self._rests: dict[Reading | EndedPrompt, float] = {}  # tokens that would be left of each if all shared

    def plan(self, rows: Sequence[Row], tokens: int) -> dict[Row, int]:
        """How many tokens of which rows are read next, at most so many."""
        self._update(rows)
        counts: dict[Row, int] = {}
        left = tokens
        rates = self._rates()
        for row in sorted(rows, key=lambda row: self._rests[row] / rates.get(row, 1.0)):
            count = min(row.unread, left)
            if count < (min(MIN_CHUNK, row.unread) if counts else 1):
                continue
            counts[row] = count
            left -= count
        return counts

    def record(self, counts: Mapping[Row, int]) -> None:
        """So many tokens of these rows were read."""
        left = float(sum(counts.values()))
        while left > 0 and (rates := self._rates()):
            spent = min(left, *(self._rests[row] / rate for row, rate in rates.items()))
            for row, rate in rates.items():
                rest = self._rests[row] - spent * rate
                self._rests[row] = rest if rest > NOTHING else 0.0
            left -= spent
        for row in counts:
            if not row.unread and (rest := self._rests.pop(row, 0.0)):
                self._rests[EndedPrompt(row.user)] = rest

    def forget(self, row: Reading) -> None:
        """The row is to be read from its start again, if at all."""
        self._rests.pop(row, None)

    def _update(self, rows: Sequence[Row]) -> None:
        """Take in those that are new. Those that have ended keep their share for as long as they would have needed,
        unless there is nobody else.
        """
        if not any(row in self._rests for row in rows):
            self._rests.clear()
        self._rests = {row: rest for row, rest in self._rests.items() if rest or not isinstance(row, EndedPrompt)}
        for row in rows:
            self._rests.setdefault(row, float(row.unread))

    def _rates(self) -> dict[Reading | EndedPrompt, float]:
        """The share of a pass for each row of which something would be left: equal for users, and among one's own."""
        active = [row for row, rest in self._rests.items() if rest]
        own = Counter(row.user for row in active)
        return {row: 1 / len(own) / own[row.user] for row in active}
