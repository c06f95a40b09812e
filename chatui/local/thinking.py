"""What of a reply is thought and what is said, in the ways in which models mark it. Knows no model."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers.utils.chat_parsing import ResponseParser

from chatui.local.text import overlap

FENCES = ("```", "~~~")
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Fields of response templates that hold what was thought."""


@dataclass(frozen=True)
class Tags:
    """What stands before and behind a thought, and around the answer behind it where that is marked as well.

    `lines` where models write the tags on lines of their own.
    """

    open: str
    close: str
    answer: tuple[str, str] = ("", "")
    lines: bool = True

    @property
    def in_words(self) -> bool:
        """Whether a thought begins with plain words."""
        return self.open[0].isalpha()

    @property
    def opened(self) -> str:
        """The start of a thought as the models that think so write it."""
        return self.open + "\n" * self.lines

    @property
    def closed(self) -> str:
        """Its end, and what comes before the answer."""
        return "\n" * self.lines + self.close + "\n\n" * self.lines + self.answer[0]


THINK = Tags("<think>", "</think>")
HARMONY = Tags(
    "<|channel|>analysis<|message|>", "<|end|>", ("<|start|>assistant<|channel|>final<|message|>", ""), lines=False
)
"""gpt-oss: a reply is a series of messages, each in a channel."""
TAGS = (
    THINK,
    Tags("<thinking>", "</thinking>"),
    Tags("<thought>", "</thought>"),
    Tags("<Thought>", "</Thought>"),
    Tags("<thoughts>", "</thoughts>"),
    Tags("<reasoning>", "</reasoning>"),
    Tags("<reason>", "</reason>"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("[THINK]", "[/THINK]", lines=False),
    Tags("◁think▷", "◁/think▷"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>", ("<|begin_of_solution|>", "<|end_of_solution|>")),
    Tags("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_RESPONSE|>", "<|END_RESPONSE|>"), lines=False),
    Tags("<|inner_prefix|>", "<|inner_suffix|>", lines=False),
    Tags("<|channel>thought\n", "<channel|>", lines=False),
    Tags("<unused94>thought\n", "<unused95>", lines=False),
    Tags("Here is my thought process:", "Here is my response:"),
    Tags("Here's my thought process:", "Here's my response:"),
    Tags("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", ("", "[END FINAL RESPONSE]")),
)
"""Qwen, DeepSeek and most others; those trained on Claude's or OpenAI's style; Magistral, Seed-OSS, Kimi, OpenThinker,
Command A, Apertus, Gemma, Granite, Apriel."""


def known(template: str, tokens: Collection[str], response: Mapping[str, Any] | None = None) -> Tags | None:
    """How a model with this chat template, added tokens and response template marks its thoughts, as far as tags go."""
    if {"<|channel|>", "<|message|>"} <= set(tokens):
        return HARMONY
    for name in THOUGHTS:
        thought = (response or {}).get("fields", {}).get(name, {})
        if isinstance(thought.get("open"), str) and isinstance(thought.get("close"), str):
            same = (tags for tags in TAGS if tags.open.strip() == thought["open"].strip())
            return next(same, Tags(thought["open"], thought["close"], lines=False))
    named = [tags for tags in TAGS if tags.open in tokens or tags.close in tokens]
    return next(iter(named), None) or next((tags for tags in TAGS if tags.open in template), None)


def opened_by(text: str) -> Tags | None:
    """The tags that are open where a prompt ends so, which lets the model begin with a thought."""
    end = text.rstrip()
    return next((tags for tags in (HARMONY, *TAGS) if end.endswith(tags.open.rstrip())), None)


class Splitter(Protocol):
    """Parts a reply into what was thought and what was said, as it comes; `over` once that ends it."""

    over: bool

    def push(self, text: str) -> tuple[str, str]:
        """(text, reasoning) that this piece adds."""

    def flush(self) -> tuple[str, str]:
        """What was held back because it looked like the start of a mark."""


@dataclass
class ThinkingSplitter:
    """A Splitter for thoughts between tags.

    The model's own tags, and `<think>`, count at the start of a line outside code fences, so that a reply may write
    about them; those of other models count only where a reply begins. With `thinking` the template has opened the span
    already. Newlines around the tags belong to them.
    """

    thinking: Tags | None = None
    own: Tags | None = None
    begun: bool = False
    over: bool = False
    _held: str = ""
    _line: str = ""
    _fence: str = ""
    _trim: bool = field(init=False)
    _answer: Tags | None = None
    _answer_end: str = ""

    def __post_init__(self) -> None:
        self._trim = self.thinking is not None

    def push(self, text: str) -> tuple[str, str]:
        """See Splitter."""
        self._held += text
        said: list[str] = []
        thought: list[str] = []
        while self._step(said, thought):
            pass
        return "".join(said), "".join(thought)

    def flush(self) -> tuple[str, str]:
        """See Splitter."""
        held, self._held = self._held, ""
        return ("", held) if self.thinking else (held, "")

    def _step(self, said: list[str], thought: list[str]) -> bool:
        """Move text out of `_held`; True when a tag was passed and there may be more."""
        if self._trim:
            self._held = self._held.lstrip("\r\n")
            if not self._held:
                return False
            self._trim = False
        if self.thinking is not None:
            return self._think(self.thinking, thought)
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
        return self._say_up_to_a_tag(said)

    def _think(self, tags: Tags, thought: list[str]) -> bool:
        before, tag, after = self._held.partition(tags.close)
        sure = before if tag else before[: len(before) - overlap(before, tags.close)]
        sure = sure.rstrip("\r\n")
        thought.append(sure)
        if not tag:
            self._held = self._held[len(sure) :]
            return False
        self._held, self._trim, self._line, self.thinking = after, True, "", None
        self._answer, self._answer_end = (tags, "") if tags.answer[0] else (None, tags.answer[1])
        return True

    def _say_up_to_a_tag(self, said: list[str]) -> bool:
        found = self._opening()
        end = self._held.find(self._answer_end) if self._answer_end else -1
        if end >= 0 and (found is None or end < found[0]):
            self._say(self._held[:end], said)
            self._held, self._answer_end = self._held[end + len(self._answer_end) :], ""
            return True
        if found is not None:
            at, tags = found
            self._say(self._held[:at], said)
            self._held, self._trim, self._line, self.thinking = self._held[at + len(tags.open) :], True, "", tags
            return True
        marks = [tags.open for tags in self._candidates(self.begun)] + [self._answer_end]
        keep = max(overlap(self._held, mark) for mark in marks)
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

    def _say(self, text: str, said: list[str]) -> None:
        for piece in text.splitlines(keepends=True):
            self._line += piece
            if piece.endswith("\n"):
                self._line, self._fence = "", _fence_after(self._line, self._fence)
        self.begun = self.begun or bool(text.strip())
        said.append(text)


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

    def push(self, text: str) -> tuple[str, str]:
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
        return "".join(said), "".join(thought)

    def flush(self) -> tuple[str, str]:
        """See Splitter."""
        return "", ""

    def _control(self, name: str) -> None:
        if name in ("<|start|>", "<|channel|>"):
            self._header = (self._header or "") + name
        elif name == "<|message|>":
            words = (self._header or "").rpartition("<|channel|>")[2].split()
            self.channel, self._header = words[0] if words else "", None
            self._apart = dict.fromkeys(self._apart, "\n\n")
        elif name == "<|end|>":
            self.over = self.channel not in ("analysis", "commentary")


class TemplateSplitter:
    """A Splitter for a model whose response template knows more than tags."""

    over = False

    def __init__(self, template: dict[str, Any], prompt: str) -> None:
        self._parser: Any = ResponseParser(template, prefix=prompt)
        self._newlines = {True: "", False: ""}
        self._begins = True

    def push(self, text: str) -> tuple[str, str]:
        """See Splitter."""
        if self._parser is None:
            return text, ""
        try:
            return self._parted(self._parser.feed(text))
        except Exception:  # what does not parse, such as a call that is no JSON
            self._parser = None
            return text, ""

    def flush(self) -> tuple[str, str]:
        """See Splitter."""
        if self._parser is None:
            return "", ""
        try:
            _, events = self._parser.finalize()
        except Exception:
            return "", ""
        return self._parted(events)

    def _parted(self, events: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
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
        return "".join(parts[False]), "".join(parts[True])


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
