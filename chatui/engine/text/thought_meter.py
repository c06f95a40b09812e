"""Counts the tokens and seconds of a reply's thought, and says when the thought must be ended."""

import functools
from collections.abc import Callable, Sequence

from chatui.reply_text.reply_parts import Parts
from chatui.reply_text.thinking_tags import Tags

RESERVED_SHARE = 4
"""One token in so many of a reply's greatest length is kept for the answer."""


class ThoughtMeter:
    """`tokens` and `seconds` of the thought so far, its tags among them.

    `end_ids` gives the token ids that end a thought between these tags. A thought may take `budget` tokens, 0 for no
    limit of its own, and no more than leaves room for its end and for a quarter of the reply's `max_tokens`.
    """

    def __init__(self, end_ids: Callable[[Tags], Sequence[int]], budget: int, max_tokens: int) -> None:
        self._end_ids = functools.cache(end_ids)
        self._budget, self._max_tokens = budget, max_tokens
        self._answers_now = False
        self.tokens, self.seconds = 0, 0.0

    def answer_now(self) -> None:
        """From now on no thought may go on."""
        self._answers_now = True

    def count(self, thinking: bool, parts: Parts, tokens: int, seconds: float, all_seconds: float) -> None:
        """Count one token, which took so long, as thought or not. The reply has `tokens` in `all_seconds` so far."""
        if parts.folds is not None:
            self.tokens, self.seconds = tokens, all_seconds
        elif thinking or parts.thought:
            self.tokens += 1
            self.seconds += seconds

    def end_of(self, tags: Tags | None) -> Sequence[int]:
        """The ids that end the open thought between these tags now, or none if it may go on, or if there is none."""
        if tags is None:
            return ()
        ids = self._end_ids(tags)
        available = self._max_tokens - max(self._max_tokens // RESERVED_SHARE, len(ids) + 1)
        limit = 0 if self._answers_now else min(self._budget or available, available)
        return ids if self.tokens >= limit else ()
