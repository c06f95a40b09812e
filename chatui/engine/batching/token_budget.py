"""How many tokens of prompts a forward pass reads, so that it does not take too long. Pure: it is told the time."""

from chatui.estimates import MAX_CHUNK

MAX_TOKENS = MAX_CHUNK
MIN_TOKENS = 8
"""Fewer take about as long: a model is read once for all of them."""
START_TOKENS = 16
# The next larger size is tried where it should take at most so many times as long as planned, and a size is given up
# where it takes longer than that. Between the two lies the noise of a machine, so that sizes stay as they are.
GROW, SHRINK = 1.1, 1.2


class TokenBudget:
    """Tokens of a pass that is planned to take so many seconds. They are a power of two, so that pieces of one prompt
    end at the same tokens from run to run.
    """

    def __init__(self, seconds: float) -> None:
        self.tokens = START_TOKENS
        self._seconds = seconds
        self._seconds_each = 0.0  # that a token took when it was last measured

    def record(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took so long."""
        expected = seconds * 2 * self.tokens / tokens
        if seconds > SHRINK * self._seconds:
            self.tokens = min(self.tokens, _power_of_two(int(tokens * self._seconds / seconds)))
        elif expected <= GROW * self._seconds:
            self.tokens = min(2 * self.tokens, MAX_TOKENS)

    def measure(self, tokens: int, seconds: float, rows: int = 0) -> None:
        """A pass of so many tokens of prompts, and of so many rows that write, took so long. Rests tell nothing."""
        if 2 * tokens >= self.tokens:
            self._seconds_each = seconds / (tokens + rows)

    def within(self, seconds: float, rows: int = 0) -> int:
        """As many of the tokens as should take no longer than that, together with so many rows that write, by what was
        measured last; half of them at least, since a part of a pass takes as long for few tokens as for many.
        """
        if (self.tokens + rows) * self._seconds_each <= seconds:
            return self.tokens
        return max(self.tokens // 2, int(seconds / self._seconds_each) - rows)


def _power_of_two(tokens: int) -> int:
    """The largest one that is no more, MIN_TOKENS at least."""
    return max(MIN_TOKENS, 1 << tokens.bit_length() >> 1)
