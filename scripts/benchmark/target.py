"""The nouns of a measurement: what is asked, what comes back, and whoever answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Conversation = Sequence[dict[str, str]]
"""Messages with `role` and `content`."""


class BenchError(Exception):
    """What the user of the benchmark should read, in one line."""


@dataclass(frozen=True)
class Reply:
    """One reply. Times are seconds of one clock: `sent`, the arrival of each piece of text, and the end in `last`.

    `last` is when the finish came, since the last tokens may make no text. `cached_tokens` is None where the server
    does not tell.
    """

    sent: float
    pieces: tuple[float, ...]
    last: float
    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None

    @property
    def first(self) -> float:
        """When the first text came."""
        return self.pieces[0] if self.pieces else self.last

    @property
    def seconds_to_first(self) -> float:
        """Time to first token."""
        return self.first - self.sent

    @property
    def ms_per_token(self) -> float | None:
        """None for a reply of one token, which takes no time after its first."""
        return 1000 * (self.last - self.first) / (self.completion_tokens - 1) if self.completion_tokens > 1 else None

    def tokens_between(self, start: float, end: float) -> float:
        """Tokens that came after `start` up to `end`: pieces of text, each worth the same share of the tokens."""
        inside = sum(start < moment <= end for moment in self.pieces)
        return inside * self.completion_tokens / len(self.pieces) if self.pieces else 0.0


class Target(Protocol):
    """Whoever answers. `weight_bytes` is what it reads from memory for one token, where that is known."""

    @property
    def name(self) -> str:
        """What the tables call it."""

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of weights read for one token."""

    @property
    def serial(self) -> bool:
        """Whether it is known to answer one user at a time."""

    async def ask(self, messages: Conversation, tokens: int, heard: Callable[[], None] | None = None) -> Reply:
        """A greedy reply of so many tokens; `heard` is called at each piece of text. Raises BenchError."""

    async def settle(self) -> None:
        """Return when it does nothing in the background any more, as far as that can be seen."""
