"""How many tokens of prompts a forward pass may read without taking too long. Pure: it is told the time."""

# How much longer a pass may take than planned.
TOLERANCE = 1.25
# Where even one token takes about as long as a pass may, a pass may take so many times as long as that.
LONGEST = 2.2
# Passes of that kind before one token is read alone again: what made it slow may be over.
VALID_PASSES = 16
# To look at so many tokens of context costs no more than the rest of what a token costs.
NEAR = 1024


class TokenBudget:
    """Learns from each pass. It begins with one token and grows: twice the tokens take at most twice as long."""

    def __init__(self) -> None:
        self._speed = 0.0  # tokens a second, behind `_context` tokens
        self._context = 0.0
        self._one_token = 0.0  # seconds of a pass of one token, at most
        self._passes = 0  # since one token was read alone

    def tokens(self, seconds: float, context: float) -> int:
        """How many tokens behind so many others may be read in one pass of so many seconds; one at least."""
        return max(1, int(self._limit(seconds) * self._speed_behind(context)))

    def record(self, tokens: int, context: float, took: float, seconds: float) -> None:
        """A pass of so many tokens, on average behind so many others, took so long and should take `seconds`."""
        limit = self._limit(seconds)
        self._passes = 0 if tokens == 1 else self._passes + 1
        self._one_token = took if tokens == 1 else min(self._one_token, took)
        if limit > seconds and took > TOLERANCE * seconds and self._passes > VALID_PASSES:
            self._speed = 0.0
            return
        measured = tokens / max(took, 1e-6)
        # A short piece may be slow for each token and tells nothing about longer ones.
        if took > limit or measured > self._speed_behind(context):
            self._speed, self._context = measured, context

    def _limit(self, seconds: float) -> float:
        return max(seconds, LONGEST * self._one_token)

    def _speed_behind(self, context: float) -> float:
        """At least so fast: a token costs a fixed part and one in proportion to the tokens before it."""
        return self._speed * min(1.0, (NEAR + self._context) / (NEAR + context))
