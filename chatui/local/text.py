"""Token ids -> text as it may be shown: whole characters, no stop strings, thinking apart. Knows no model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

REPLACEMENT = "\ufffd"
OPEN, CLOSE = "<think>", "</think>"
FENCES = ("```", "~~~")


class IncrementalDecoder:
    """Decodes ids one by one so that the pieces joined equal the whole text and no piece ends in half a character.

    `decode` turns a list of ids into text. Only the ids since the last clean break are decoded again.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token_id: int) -> str:
        """The text that this id completes, or "" while a character is unfinished."""
        self._ids.append(token_id)
        text = self._new_text()
        if text.endswith(REPLACEMENT):
            return ""
        self._ids, self._shown = self._ids[self._shown :], len(self._ids) - self._shown
        return text

    def flush(self) -> str:
        """What was held back when the reply ends in the middle of a character."""
        return self._new_text() if len(self._ids) > self._shown else ""

    def _new_text(self) -> str:
        shown = self._decode(self._ids[: self._shown]) if self._shown else ""
        return self._decode(self._ids)[len(shown) :]


class StopStrings:
    """Cuts a stream of text just before the stop string that is complete first, however the pieces split it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """The text that cannot be part of a stop string. After a hit, `hit` is set and nothing more comes."""
        if self.hit is not None:
            return ""
        text = self._held + text
        found = [(text.index(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, _, self.hit = min(found)
            self._held = ""
            return text[: end - len(self.hit)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once it is sure that no stop string follows."""
        held, self._held = self._held, ""
        return held


@dataclass
class ThinkingSplitter:
    """Parts a reply into what was thought and what was said.

    `<think>` counts at the start of a line outside code fences, so that a reply may write about the tag.
    With `thinking=True` the template has opened the span already. Newlines around the tags belong to them.
    """

    thinking: bool = False
    _held: str = ""
    _line: str = ""
    _fence: str = ""
    _trim: bool = field(init=False)

    def __post_init__(self) -> None:
        self._trim = self.thinking

    def push(self, text: str) -> tuple[str, str]:
        """(text, reasoning) that this piece adds."""
        self._held += text
        said: list[str] = []
        thought: list[str] = []
        while self._step(said, thought):
            pass
        return "".join(said), "".join(thought)

    def flush(self) -> tuple[str, str]:
        """What was held back because it looked like the start of a tag."""
        held, self._held = self._held, ""
        return ("", held) if self.thinking else (held, "")

    def _step(self, said: list[str], thought: list[str]) -> bool:
        """Move text out of `_held`; True when a tag was passed and there may be more."""
        if self._trim:
            self._held = self._held.lstrip("\r\n")
            if not self._held:
                return False
            self._trim = False
        if self.thinking:
            before, tag, after = self._held.partition(CLOSE)
            sure = before if tag else before[: len(before) - _overlap(before, CLOSE)]
            sure = sure.rstrip("\r\n")
            keep = len(before) - len(sure)
            thought.append(sure)
        else:
            at = self._opening()
            tag = OPEN if at is not None else ""
            before = self._held if at is None else self._held[:at]
            after = self._held[len(before) + len(tag) :]
            keep = 0 if tag else _overlap(before, OPEN)
            self._say(before[: len(before) - keep], said)
        if tag:
            self.thinking = not self.thinking
            self._held, self._trim, self._line = after, True, ""
            return True
        self._held = self._held[len(self._held) - keep :]
        return False

    def _opening(self) -> int | None:
        """Where in `_held` a tag opens a span, if one does."""
        line, fence, start = self._line, self._fence, 0
        for piece in self._held.splitlines(keepends=True):
            indent = len(piece) - len(piece.lstrip(" \t"))
            if not fence and not line.strip() and piece.startswith(OPEN, indent):
                return start + indent
            line += piece
            if piece.endswith("\n"):
                line, fence = "", _fence_after(line, fence)
            start += len(piece)
        return None

    def _say(self, text: str, said: list[str]) -> None:
        for piece in text.splitlines(keepends=True):
            self._line += piece
            if piece.endswith("\n"):
                self._line, self._fence = "", _fence_after(self._line, self._fence)
        said.append(text)


def _fence_after(line: str, fence: str) -> str:
    """The code fence that is open after this line, given the one open before it."""
    mark = line.strip()[:3]
    if fence:
        return "" if mark == fence else fence
    return mark if mark in FENCES else ""


def _overlap(text: str, pattern: str) -> int:
    """Length of the longest end of `text` that is a start of `pattern`, short of all of it."""
    limit = min(len(text), len(pattern) - 1)
    return next((size for size in range(limit, 0, -1) if text.endswith(pattern[:size])), 0)
