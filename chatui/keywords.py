"""Looks for the keys of a lorebook in a text, in a time that hostile keys and patterns cannot stretch."""

import contextlib
import re
import time
import unicodedata
from functools import cached_property

REGEX_SECONDS = 0.5
"""What all patterns of one search may take; those that are left are found nowhere."""
MAX_REGEX_LENGTH = 2_000

_SLASHED = re.compile(r"/(.+)/([a-z]*)", re.DOTALL)
_WORD = re.compile(r"\w+")


class Patterns:
    """Patterns as JavaScript writes them, bare or as /pattern/flags, and the time that is left for them."""

    def __init__(self, seconds: float = REGEX_SECONDS) -> None:
        self._left = seconds

    def found(self, pattern: str, text: str, case_sensitive: bool) -> bool:
        """Whether the pattern is in the text; not where it is no pattern, or takes too long."""
        import regex  # here because few books need it

        slashed = _SLASHED.fullmatch(pattern)
        source, letters = slashed.groups() if slashed else (pattern, "" if case_sensitive else "i")
        if self._left <= 0 or not source or len(source) > MAX_REGEX_LENGTH:
            return False
        flags = 0
        for letter, flag in (("i", regex.IGNORECASE), ("m", regex.MULTILINE), ("s", regex.DOTALL)):
            flags |= flag if letter in letters else 0
        began = time.perf_counter()
        try:
            with contextlib.suppress(regex.error, OverflowError, RecursionError, MemoryError):
                return regex.search(source, text, flags, timeout=self._left, concurrent=True) is not None
            return False
        except TimeoutError:  # its clock is not quite ours
            self._left = 0.0
            return False
        finally:
            self._left -= time.perf_counter() - began


class Text:
    """A text in which keys are looked for."""

    def __init__(self, text: str, patterns: Patterns) -> None:
        self._written = unicodedata.normalize("NFC", text)
        self._patterns = patterns

    def has(self, key: str, case_sensitive: bool = False, whole_words: bool = False, is_regex: bool = False) -> bool:
        """Whether the key is in it. Of `whole_words` a key of several, or with signs, may be a part all the same."""
        if is_regex or _SLASHED.fullmatch(key):
            return self._patterns.found(key, self._written, case_sensitive)
        wanted = unicodedata.normalize("NFC", key.strip())
        if not case_sensitive:
            wanted = wanted.casefold()
        if not wanted:
            return False
        if whole_words and _WORD.fullmatch(wanted):
            return wanted in (self._words if case_sensitive else self._folded_words)
        return wanted in (self._written if case_sensitive else self._folded)

    @cached_property
    def _folded(self) -> str:
        return self._written.casefold()

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(_WORD.findall(self._written))

    @cached_property
    def _folded_words(self) -> frozenset[str]:
        return frozenset(_WORD.findall(self._folded))
