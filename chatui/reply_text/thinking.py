"""Splits replies whose thoughts stand between tags. Knows no model."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import itemgetter

from chatui.reply_text.reply_parts import Parts
from chatui.reply_text.stop_strings import overlap
from chatui.reply_text.thinking_tags import MAX_TAG_LENGTH, TAGS, THINK, Tags

FENCES = ("```", "~~~")
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}


@dataclass
class ThinkingSplitter:
    """A Splitter for thoughts between tags.

    The model's own tags, and `<think>`, count at the start of a line outside code fences, so that a reply may write
    about them; those of other models count only where a reply begins. With `thinking` the template has opened the span
    already. Newlines around the tags belong to them.

    An end without a start folds all before it, where nothing was `thought` yet: outside code and quotation marks, not
    `asked` for by the user, and once something follows. In models that are not known to think, it does so only where it
    is no word of a sentence.
    """

    thinking: Tags | None = None
    own: Tags | None = None
    started: bool = False
    thought: bool = False
    asked: str = ""
    finished: bool = False
    _held: str = ""
    _line: str = ""
    _fence: str = ""
    _trim: bool = field(init=False)
    _again: Tags | None = field(init=False)
    _lone: tuple[Tags, ...] = field(init=False)
    _folds: str | None = None
    _answer: Tags | None = None
    _answer_end: str = ""
    _plain: list[str] = field(default_factory=list)
    _mark: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        self._mark = _start_of_a_mark(self.own)
        self._trim = self.thinking is not None
        self._again = None if self.started else self.thinking  # some open it once more
        lone = () if self.thinking or self.thought else (self.own, THINK) if self.own else TAGS
        mine = self.own is not None and self.own.in_words
        self._lone = tuple(
            tags for tags in dict.fromkeys(lone) if (mine or not tags.in_words) and tags.close not in self.asked
        )

    def push(self, text: str) -> Parts:
        """See Splitter."""
        if self._held or self._trim or self.thinking or self._answer or self._mark.search(text):
            self._held += text
            return self._moved()
        # In most of a reply no tag can begin: its lines are looked at once one can.
        self._plain.append(text)
        self.started = self.started or bool(text.strip())
        return Parts(text)

    def flush(self) -> Parts:
        """See Splitter."""
        moved = self._moved(at_end=True)
        held, self._held = self._held, ""
        return moved.then(Parts(thought=held) if self.thinking else Parts(held))

    def _moved(self, at_end: bool = False) -> Parts:
        if self._plain:
            plain, self._plain = "".join(self._plain), []
            self._emit(plain, [])
        content: list[str] = []
        thought: list[str] = []
        self._folds = None
        while self._step(content, thought, at_end):
            pass
        return Parts("".join(content), "".join(thought), self._folds)

    def _step(self, content: list[str], thought: list[str], at_end: bool) -> bool:
        """Move text out of `_held`; True when a tag was passed and there may be more."""
        if self._trim:
            self._held = self._held.lstrip("\r\n")
            if not self._held:
                return False
            self._trim = False
        if self.thinking is not None:
            return self._think(self.thinking, thought, at_end)
        if self._answer is not None:
            mark = self._answer.answer[0]
            if self._held.startswith(mark):
                self._held, self._trim = self._held[len(mark) :], True
                self._answer_end = self._answer.answer[1]
                self._answer = None
                return True
            if mark.startswith(self._held):
                return False
            self._answer = None
        return self._emit_up_to_a_tag(content, at_end)

    def _think(self, tags: Tags, thought: list[str], at_end: bool) -> bool:
        if self._again is not None:
            if len(self._held) < len(self._again.open) and self._again.open.startswith(self._held):
                return False
            self._trim = self._held.startswith(self._again.open)
            self._held, self._again = self._held.removeprefix(self._again.open), None
            return True
        at, sure = self._ends(tags.close, at_end)
        thought.append(self._held[:at].rstrip("\r\n"))
        if sure:
            self._end_of_thought(tags, at)
            return True
        self._line = (self._line + thought[-1]).rpartition("\n")[2]
        self._held = self._held[len(thought[-1]) :]
        return False

    def _ends(self, close: str, at_end: bool) -> tuple[int, bool]:
        """Where in `_held` the thought may end, and whether it surely does."""
        at = self._held.find(close)
        while at >= 0:
            before = (self._line + self._held[:at]).rpartition("\n")[2]
            quoted = _quoted(before, self._held[at + len(close) :], at_end)
            if not quoted:
                return at, quoted is not None
            at = self._held.find(close, at + 1)
        return len(self._held) - overlap(self._held, close), False

    def _end_of_thought(self, tags: Tags, at: int) -> None:
        self._held, self._trim, self._line, self.thinking = self._held[at + len(tags.close) :], True, "", None
        self._answer, self._answer_end = (tags, "") if tags.answer[0] else (None, tags.answer[1])
        self._lone = ()

    def _emit_up_to_a_tag(self, content: list[str], at_end: bool) -> bool:
        found = self._opening()
        end = self._held.find(self._answer_end) if self._answer_end else -1
        if end >= 0 and (found is None or end < found[0]):
            self._emit(self._held[:end], content)
            self._held, self._answer_end = self._held[end + len(self._answer_end) :], ""
            return True
        lone = self._closing(len(self._held) if found is None else found[0], at_end)
        if lone is not None:
            at, tags, sure = lone
            if not sure:
                self._emit(self._held[:at], content)
                self._held = self._held[at:]
                return False
            self._folds = ("".join(content) + self._held[:at]).rstrip("\r\n")
            content.clear()
            self._fence, self.started = "", True
            self._end_of_thought(tags, at)
            return True
        if found is not None:
            at, tags = found
            self._emit(self._held[:at], content)
            self._held, self._trim, self._line, self.thinking = self._held[at + len(tags.open) :], True, "", tags
            self._lone = ()
            return True
        marks = [tags.open for tags in self._candidates(self.started)] + [self._answer_end]
        keep = max(overlap(self._held, mark) for mark in (*marks, *(tags.close for tags in self._lone)))
        self._emit(self._held[: len(self._held) - keep], content)
        self._held = self._held[len(self._held) - keep :]
        return False

    def _candidates(self, started: bool) -> Sequence[Tags]:
        own = (THINK,) if self.own is None else (self.own, THINK)
        if started:
            return own
        # Any reply may begin with words: those count only in models that think in words.
        words = self.own is not None and self.own.in_words
        return [*own, *(tags for tags in TAGS if words or not tags.in_words)]

    def _opening(self) -> tuple[int, Tags] | None:
        """Where in `_held` which tags open a span, if some do."""
        line, fence, start, started = self._line, self._fence, 0, self.started
        for piece in self._held.splitlines(keepends=True):
            indent = len(piece) - len(piece.lstrip(" \t"))
            if not fence and not line.strip():
                for tags in self._candidates(started):
                    if self._held.startswith(tags.open, start + indent):
                        return start + indent, tags
            line += piece
            started = started or not piece.isspace()
            if piece.endswith("\n"):
                line, fence = "", _fence_after(line, fence)
            start += len(piece)
        return None

    def _closing(self, limit: int, at_end: bool) -> tuple[int, Tags, bool] | None:
        """Where in `_held`, before `limit`, which tags end what no tag began, and whether they surely do."""
        line, fence, start = self._line, self._fence, 0
        for piece in self._held[:limit].splitlines(keepends=True) if self._lone else ():
            for at, tags in () if fence else sorted(_closes(piece, self._lone), key=itemgetter(0)):
                sure = self._is_lone(tags, start + at, line + piece[:at], at_end)
                if sure is not False:
                    return start + at, tags, bool(sure)
            line += piece
            if piece.endswith("\n"):
                line, fence = "", _fence_after(line, fence)
            start += len(piece)
        return None

    def _is_lone(self, tags: Tags, at: int, before: str, at_end: bool) -> bool | None:
        """Whether the end tag there, with so much of its line `before` it, ends a thought; None while that is open."""
        after, mine = self._held[at + len(tags.close) :], self.own is not None
        in_sentence = before[-1:].isspace() and bool(before.strip())
        if in_sentence or before.count("`") % 2 or tags.open.strip() in self._held[:at]:
            return False
        if not after.strip():
            return (mine and self.started) if at_end else None
        if not (self.started or self._held[:at].strip()) and not (mine and after.startswith(("\n", "\r"))):
            return False
        quoted = _quoted(before, after, at_end)
        return quoted if quoted is None else not quoted

    def _emit(self, text: str, content: list[str]) -> None:
        for piece in text.splitlines(keepends=True):
            self._line += piece
            new = self._line[-len(piece) - MAX_TAG_LENGTH :]
            self._lone = tuple(tags for tags in self._lone if tags.open.strip() not in new)
            if piece.endswith("\n"):
                self._line, self._fence = "", _fence_after(self._line, self._fence)
        self.started = self.started or bool(text.strip())
        content.append(text)


@cache
def _start_of_a_mark(own: Tags | None) -> re.Pattern[str]:
    """Finds the first character of any tag that may count in replies of a model with its `own` tags."""
    tags = TAGS if own is None else (*TAGS, own)
    marks = (mark for each in tags for mark in (each.open, each.close, *each.answer) if mark)
    return re.compile("[" + re.escape("".join(sorted({mark[0] for mark in marks}))) + "]")


def _closes(text: str, lone: Sequence[Tags]) -> Iterator[tuple[int, Tags]]:
    """Where in the text which tags end."""
    for tags in lone:
        at = text.find(tags.close)
        while at >= 0:
            yield at, tags
            at = text.find(tags.close, at + 1)


def _quoted(before: str, after: str, at_end: bool) -> bool | None:
    """Whether a tag with this `before` it on its line stands in code or quotation marks; None while that is open."""
    if before.count("`") % 2:
        rest = re.search("[`\n]", after)
        return rest[0] == "`" if rest else False if at_end else None
    mark = QUOTES.get(before[-1:])
    if mark is None or (mark == '"' and before.count('"') % 2 == 0):
        return False
    return after[0] == mark if after else False if at_end else None


def _fence_after(line: str, fence: str) -> str:
    """The code fence that is open after this line, given the one open before it."""
    mark = line.strip()[:3]
    if fence:
        return "" if mark == fence else fence
    return mark if mark in FENCES else ""
