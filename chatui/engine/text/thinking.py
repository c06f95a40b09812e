"""What of a reply is thought and what is said, in the ways in which models mark it. Knows no model."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from transformers.utils.chat_parsing import ResponseParser

from chatui.engine.text.detokenizer import overlap
from chatui.engine.text.thinking_tags import HARMONY, MAX_TAG_LENGTH, TAGS, THINK, THOUGHTS, Tags

FENCES = ("```", "~~~")
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}


class Parts(NamedTuple):
    """What a piece of a reply adds.

    With `folds`, all that was said before was a thought, and that is its rest.
    """

    said: str = ""
    thought: str = ""
    folds: str | None = None

    def then(self, more: "Parts") -> "Parts":
        """Both, one behind the other."""
        if more.folds is not None:
            before = self.said if self.folds is None else self.folds + self.thought + self.said
            return more._replace(folds=(before + more.folds))
        return Parts(self.said + more.said, self.thought + more.thought, self.folds)


NOTHING = Parts()


class Splitter(Protocol):
    """Parts a reply into what was thought and what was said, as it comes; `over` once that ends it.

    `thinking` are the tags of a thought that is open, if it is between some.
    """

    over: bool

    @property
    def thinking(self) -> Tags | None:
        """See the class."""

    def push(self, text: str) -> Parts:
        """What this piece adds."""

    def flush(self) -> Parts:
        """What was held back because it looked like the start of a mark."""


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
    begun: bool = False
    thought: bool = False
    asked: str = ""
    over: bool = False
    _held: str = ""
    _line: str = ""
    _fence: str = ""
    _trim: bool = field(init=False)
    _again: Tags | None = field(init=False)
    _lone: tuple[Tags, ...] = field(init=False)
    _folds: str | None = None
    _answer: Tags | None = None
    _answer_end: str = ""

    def __post_init__(self) -> None:
        self._trim = self.thinking is not None
        self._again = None if self.begun else self.thinking  # some open it once more
        lone = () if self.thinking or self.thought else (self.own, THINK) if self.own else TAGS
        mine = self.own is not None and self.own.in_words
        self._lone = tuple(
            tags for tags in dict.fromkeys(lone) if (mine or not tags.in_words) and tags.close not in self.asked
        )

    def push(self, text: str) -> Parts:
        """See Splitter."""
        self._held += text
        return self._moved()

    def flush(self) -> Parts:
        """See Splitter."""
        moved = self._moved(over=True)
        held, self._held = self._held, ""
        return moved.then(Parts(thought=held) if self.thinking else Parts(held))

    def _moved(self, over: bool = False) -> Parts:
        said: list[str] = []
        thought: list[str] = []
        self._folds = None
        while self._step(said, thought, over):
            pass
        return Parts("".join(said), "".join(thought), self._folds)

    def _step(self, said: list[str], thought: list[str], over: bool) -> bool:
        """Move text out of `_held`; True when a tag was passed and there may be more."""
        if self._trim:
            self._held = self._held.lstrip("\r\n")
            if not self._held:
                return False
            self._trim = False
        if self.thinking is not None:
            return self._think(self.thinking, thought, over)
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
        return self._say_up_to_a_tag(said, over)

    def _think(self, tags: Tags, thought: list[str], over: bool) -> bool:
        if self._again is not None:
            if len(self._held) < len(self._again.open) and self._again.open.startswith(self._held):
                return False
            self._trim = self._held.startswith(self._again.open)
            self._held, self._again = self._held.removeprefix(self._again.open), None
            return True
        at, sure = self._ends(tags.close, over)
        thought.append(self._held[:at].rstrip("\r\n"))
        if sure:
            self._end_of_thought(tags, at)
            return True
        self._line = (self._line + thought[-1]).rpartition("\n")[2]
        self._held = self._held[len(thought[-1]) :]
        return False

    def _ends(self, close: str, over: bool) -> tuple[int, bool]:
        """Where in `_held` the thought may end, and whether it surely does."""
        at = self._held.find(close)
        while at >= 0:
            before = (self._line + self._held[:at]).rpartition("\n")[2]
            quoted = _quoted(before, self._held[at + len(close) :], over)
            if not quoted:
                return at, quoted is not None
            at = self._held.find(close, at + 1)
        return len(self._held) - overlap(self._held, close), False

    def _end_of_thought(self, tags: Tags, at: int) -> None:
        self._held, self._trim, self._line, self.thinking = self._held[at + len(tags.close) :], True, "", None
        self._answer, self._answer_end = (tags, "") if tags.answer[0] else (None, tags.answer[1])
        self._lone = ()

    def _say_up_to_a_tag(self, said: list[str], over: bool) -> bool:
        found = self._opening()
        end = self._held.find(self._answer_end) if self._answer_end else -1
        if end >= 0 and (found is None or end < found[0]):
            self._say(self._held[:end], said)
            self._held, self._answer_end = self._held[end + len(self._answer_end) :], ""
            return True
        lone = self._closing(len(self._held) if found is None else found[0], over)
        if lone is not None:
            at, tags, sure = lone
            if not sure:
                self._say(self._held[:at], said)
                self._held = self._held[at:]
                return False
            self._folds = ("".join(said) + self._held[:at]).rstrip("\r\n")
            said.clear()
            self._fence, self.begun = "", True
            self._end_of_thought(tags, at)
            return True
        if found is not None:
            at, tags = found
            self._say(self._held[:at], said)
            self._held, self._trim, self._line, self.thinking = self._held[at + len(tags.open) :], True, "", tags
            self._lone = ()
            return True
        marks = [tags.open for tags in self._candidates(self.begun)] + [self._answer_end]
        keep = max(overlap(self._held, mark) for mark in (*marks, *(tags.close for tags in self._lone)))
        self._say(self._held[: len(self._held) - keep], said)
        self._held = self._held[len(self._held) - keep :]
        return False

    def _candidates(self, begun: bool) -> Sequence[Tags]:
        own = (THINK,) if self.own is None else (self.own, THINK)
        if begun:
            return own
        # Any reply may begin with words: those count only in models that think in words.
        words = self.own is not None and self.own.in_words
        return [*own, *(tags for tags in TAGS if words or not tags.in_words)]

    def _opening(self) -> tuple[int, Tags] | None:
        """Where in `_held` which tags open a span, if some do."""
        line, fence, start, begun = self._line, self._fence, 0, self.begun
        for piece in self._held.splitlines(keepends=True):
            indent = len(piece) - len(piece.lstrip(" \t"))
            if not fence and not line.strip():
                for tags in self._candidates(begun):
                    if self._held.startswith(tags.open, start + indent):
                        return start + indent, tags
            line += piece
            begun = begun or not piece.isspace()
            if piece.endswith("\n"):
                line, fence = "", _fence_after(line, fence)
            start += len(piece)
        return None

    def _closing(self, limit: int, over: bool) -> tuple[int, Tags, bool] | None:
        """Where in `_held`, before `limit`, which tags end what no tag began, and whether they surely do."""
        line, fence, start = self._line, self._fence, 0
        for piece in self._held[:limit].splitlines(keepends=True) if self._lone else ():
            for place, tags in () if fence else sorted(_closes(piece, self._lone), key=itemgetter(0)):
                sure = self._is_lone(tags, start + place, line + piece[:place], over)
                if sure is not False:
                    return start + place, tags, bool(sure)
            line += piece
            if piece.endswith("\n"):
                line, fence = "", _fence_after(line, fence)
            start += len(piece)
        return None

    def _is_lone(self, tags: Tags, at: int, before: str, over: bool) -> bool | None:
        """Whether the end tag there, with so much of its line `before` it, ends a thought; None while that is open."""
        after, mine = self._held[at + len(tags.close) :], self.own is not None
        in_sentence = before[-1:].isspace() and bool(before.strip())
        if in_sentence or before.count("`") % 2 or tags.open.strip() in self._held[:at]:
            return False
        if not after.strip():
            return (mine and self.begun) if over else None
        if not (self.begun or self._held[:at].strip()) and not (mine and after.startswith(("\n", "\r"))):
            return False
        quoted = _quoted(before, after, over)
        return quoted if quoted is None else not quoted

    def _say(self, text: str, said: list[str]) -> None:
        for piece in text.splitlines(keepends=True):
            self._line += piece
            new = self._line[-len(piece) - MAX_TAG_LENGTH :]
            self._lone = tuple(tags for tags in self._lone if tags.open.strip() not in new)
            if piece.endswith("\n"):
                self._line, self._fence = "", _fence_after(self._line, self._fence)
        self.begun = self.begun or bool(text.strip())
        said.append(text)


def _closes(text: str, lone: Sequence[Tags]) -> Iterator[tuple[int, Tags]]:
    """Where in the text which tags end."""
    for tags in lone:
        place = text.find(tags.close)
        while place >= 0:
            yield place, tags
            place = text.find(tags.close, place + 1)


def _quoted(before: str, after: str, over: bool) -> bool | None:
    """Whether a tag with this `before` it on its line stands in code or quotation marks; None while that is open."""
    if before.count("`") % 2:
        rest = re.search("[`\n]", after)
        return rest[0] == "`" if rest else False if over else None
    mark = QUOTES.get(before[-1:])
    if mark is None or (mark == '"' and before.count('"') % 2 == 0):
        return False
    return after[0] == mark if after else False if over else None


def _fence_after(line: str, fence: str) -> str:
    """The code fence that is open after this line, given the one open before it."""
    mark = line.strip()[:3]
    if fence:
        return "" if mark == fence else fence
    return mark if mark in FENCES else ""


MARK = "\ue0ff"
"""Stands before and behind a control token that the HarmonySplitter reads, so that no text is taken for one."""


def marked(token: str) -> str:
    """A control token as the HarmonySplitter reads it."""
    return f"{MARK}{token}{MARK}"


@dataclass
class HarmonySplitter:
    """A Splitter for gpt-oss: `<|channel|>analysis<|message|>...<|end|>`, then other messages, the last one `final`.

    Its control tokens come `marked`. What is in no channel is said.
    """

    channel: str = ""
    over: bool = False
    _held: str = ""
    _header: str | None = None
    _apart: dict[bool, str] = field(default_factory=dict)
    _ended: bool = False

    @property
    def thinking(self) -> Tags | None:
        """See Splitter."""
        return HARMONY if self.channel == "analysis" and self._header is None and not self._ended else None

    def push(self, text: str) -> Parts:
        """See Splitter."""
        parts = (self._held + text).split(MARK)
        self._held = MARK + parts.pop() if len(parts) % 2 == 0 else ""
        said: list[str] = []
        thought: list[str] = []
        for number, part in enumerate(parts):
            if number % 2:
                self._control(part)
            elif self._header is not None:
                self._header += part
            elif part:
                thinks = self.channel == "analysis"
                (thought if thinks else said).append(self._apart.get(thinks, "") + part)
                self._apart[thinks] = ""
        return Parts("".join(said), "".join(thought))

    def flush(self) -> Parts:
        """See Splitter."""
        return NOTHING

    def _control(self, name: str) -> None:
        if name in ("<|start|>", "<|channel|>"):
            self._header = (self._header or "") + name
        elif name == "<|message|>":
            words = (self._header or "").rpartition("<|channel|>")[2].split()
            self.channel, self._header = words[0] if words else "", None
            self._apart, self._ended = dict.fromkeys(self._apart, "\n\n"), False
        elif name == "<|end|>":
            self._ended = True
            self.over = self.channel not in ("analysis", "commentary")


class TemplateSplitter:
    """A Splitter for a model whose response template knows more than tags."""

    over = False
    thinking: Tags | None = None

    def __init__(self, template: dict[str, Any], prompt: str) -> None:
        self._parser: Any = ResponseParser(template, prefix=prompt)
        self._newlines = {True: "", False: ""}
        self._begins = True

    def push(self, text: str) -> Parts:
        """See Splitter."""
        if self._parser is None:
            return Parts(text)
        try:
            return self._parted(self._parser.feed(text))
        except Exception:  # what does not parse, such as a call that is no JSON
            self._parser = None
            return Parts(text)

    def flush(self) -> Parts:
        """See Splitter."""
        if self._parser is None:
            return NOTHING
        try:
            _, events = self._parser.finalize()
        except Exception:
            return NOTHING
        return self._parted(events)

    def _parted(self, events: Sequence[Mapping[str, Any]]) -> Parts:
        parts: dict[bool, list[str]] = {True: [], False: []}
        for event in events:
            thinks = event["field"] in THOUGHTS
            if event["type"] != "region_chunk":
                self._begins, self._newlines[True] = True, ""
                continue
            text = event["text"].lstrip("\r\n") if self._begins else event["text"]
            if not text:
                continue
            self._begins = False
            text = self._newlines[thinks] + text
            sure = text.rstrip("\r\n") if thinks else text
            self._newlines[thinks] = text[len(sure) :]
            parts[thinks].append(sure)
        return Parts("".join(parts[False]), "".join(parts[True]))


def is_readable(template: Any) -> bool:
    """Whether a model's response template is one, and tells what is thought."""
    try:
        ResponseParser(template, prefix="")
    except Exception:
        return False
    return any(name in template["fields"] for name in THOUGHTS)


def tokens_of(template: Mapping[str, Any], tokens: Collection[str]) -> set[str]:
    """The control tokens that a response template names."""
    named = json.dumps(template, ensure_ascii=False).replace("\\", "")
    return {token for token in tokens if token in named}
