"""Searches a text for the keys of a lorebook, in bounded time even with hostile keys and patterns."""

import contextlib
import re
import time
import unicodedata
from functools import cached_property

REGEX_SECONDS = 0.5
"""Time limit for all patterns of one search together. Patterns tried after it match nothing."""
MAX_REGEX_LENGTH = 2_000

_DELIMITED = re.compile(r"/(.+)/([a-z]*)", re.DOTALL)
_WORD = re.compile(r"\w+")


class TimedRegexes:
    """Matches JavaScript regular expressions, bare or as /pattern/flags, within `seconds` for all of them together."""

    def __init__(self, seconds: float = REGEX_SECONDS) -> None:
        self._seconds_left = seconds

    def search(self, pattern: str, text: str, case_sensitive: bool) -> bool:
        """Whether the pattern matches somewhere in the text. False if it is invalid or takes too long."""
        import regex  # imported here because few lorebooks need it

        delimited = _DELIMITED.fullmatch(pattern)
        source, letters = delimited.groups() if delimited else (pattern, "" if case_sensitive else "i")
        if self._seconds_left <= 0 or not source or len(source) > MAX_REGEX_LENGTH:
            return False
        flags = 0
        for letter, flag in (("i", regex.IGNORECASE), ("m", regex.MULTILINE), ("s", regex.DOTALL)):
            flags |= flag if letter in letters else 0
        started_at = time.perf_counter()
        try:
            with contextlib.suppress(regex.error, OverflowError, RecursionError, MemoryError):
                return regex.search(source, text, flags, timeout=self._seconds_left, concurrent=True) is not None
            return False
        except TimeoutError:  # regex has its own clock, so perf_counter() may show some time left
            self._seconds_left = 0.0
            return False
        finally:
            self._seconds_left -= time.perf_counter() - started_at


class SearchableText:
    """A text that is searched for keys. It is normalized to NFC and case-folded once."""

    def __init__(self, text: str, regexes: TimedRegexes) -> None:
        self._text = unicodedata.normalize("NFC", text)
        self._regexes = regexes

    def contains(
        self, key: str, case_sensitive: bool = False, whole_words: bool = False, is_regex: bool = False
    ) -> bool:
        """Whether the text contains the key.

        `whole_words` applies to keys of one word only. Others, such as "c++", match within words too.
        """
        if is_regex or _DELIMITED.fullmatch(key):
            return self._regexes.search(key, self._text, case_sensitive)
        key = unicodedata.normalize("NFC", key.strip())
        if not case_sensitive:
            key = key.casefold()
        if not key:
            return False
        if whole_words and _WORD.fullmatch(key):
            return key in (self._words if case_sensitive else self._folded_words)
        return key in (self._text if case_sensitive else self._folded)

    @cached_property
    def _folded(self) -> str:
        return self._text.casefold()

    @cached_property
    def _words(self) -> frozenset[str]:
        return frozenset(_WORD.findall(self._text))

    @cached_property
    def _folded_words(self) -> frozenset[str]:
        return frozenset(_WORD.findall(self._folded))
