"""Ends a reply before its first stop string. Knows no model."""

from collections.abc import Sequence


class StopStrings:
    """Cuts a stream of text just before the stop string that is complete first, however the pieces split it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """The text that cannot be part of a stop string. After a hit, `hit` is set and nothing more comes."""
        if not self._stops:
            return text
        if self.hit is not None:
            return ""
        text = self._held + text
        found = [(text.index(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, _, self.hit = min(found)
            self._held = ""
            return text[: end - len(self.hit)]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once it is sure that no stop string follows."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, pattern: str) -> int:
    """Length of the longest end of `text` that is a start of `pattern`, short of all of it."""
    size = min(len(text), len(pattern) - 1)
    start = text.find(pattern[0], len(text) - size) if size > 0 else -1
    while start >= 0:
        if pattern.startswith(text[start:]):
            return len(text) - start
        start = text.find(pattern[0], start + 1)
    return 0
