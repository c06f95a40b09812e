"""Prompt lookup decoding: a reply that repeats something goes on as that did. Pure: it knows token ids alone.

The method is https://github.com/apoorvumang/prompt-lookup-decoding, in transformers `prompt_lookup_num_tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

NGRAM = 2
"""Tokens that must have stood together before."""
MAX_RUN = 16
"""Tokens. A longer match is no surer."""
RUN_CHANCES = ((4, 0.4), (8, 0.6), (MAX_RUN, 0.85), (MAX_RUN + 1, 0.95))
"""Below so many matching tokens, the chance of one more at the start of a reply."""
WEIGHT = 0.1
"""Of the newest token in a chance."""


@dataclass(frozen=True)
class Draft:
    """Tokens that may come next, and for each the chance that it and all before it do."""

    tokens: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()


NO_DRAFT = Draft()


class PromptLookup:
    """Looks up what followed the last tokens of one sequence where they stood before."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._ids = list[int]()
        self._ends: dict[tuple[int, ...], int] = {}
        self._next: int | None = None  # where the token stands that may come next
        self._run = 0  # how many tokens before it are those at the end
        self._chances = [chance for _, chance in RUN_CHANCES]
        self._prompt_tokens = len(prompt)
        for token in prompt:
            self._append(token)

    def update(self, output_ids: Sequence[int]) -> None:
        """Take the tokens that were added to those behind the prompt."""
        for token in output_ids[len(self._ids) - self._prompt_tokens :]:
            if self._next is not None:
                at, hit = self._bucket(self._run), self._ids[self._next] == token
                self._chances[at] += WEIGHT * (hit - self._chances[at])
            self._append(token)

    def draft(self, limit: int) -> Draft:
        """At most so many tokens."""
        if self._next is None:
            return NO_DRAFT
        tokens = tuple(self._ids[self._next : self._next + limit])
        chances, chance = list[float](), 1.0
        for depth in range(len(tokens)):
            chance *= self._chances[self._bucket(self._run + depth)]
            chances.append(chance)
        return Draft(tokens, tuple(chances))

    def _append(self, token: int) -> None:
        goes_on = self._next is not None and self._ids[self._next] == token
        self._ids.append(token)
        ngram = tuple(self._ids[-NGRAM:])
        found = self._ends.get(ngram)
        self._ends[ngram] = len(self._ids)
        if goes_on and self._next is not None:
            self._next, self._run = self._next + 1, min(self._run + 1, MAX_RUN)
        else:
            self._next, self._run = found, 0 if found is None else self._common(found)

    def _common(self, end: int) -> int:
        """How many tokens before `end` are those at the end of the sequence."""
        last, run = len(self._ids), NGRAM
        while run < min(MAX_RUN, end) and self._ids[end - run - 1] == self._ids[last - run - 1]:
            run += 1
        return run

    @staticmethod
    def _bucket(run: int) -> int:
        return next((at for at, (limit, _) in enumerate(RUN_CHANCES) if run < limit), len(RUN_CHANCES) - 1)
