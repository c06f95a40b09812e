"""How models mark what they think: the tags of every convention known, and those that a model's own files name."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

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

    @property
    def force_closed(self) -> str:
        """The same where a thought is ended in the middle: a tag counts only at the start of a line."""
        return self.closed if self.lines or self == HARMONY else "\n" + self.closed


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
    Tags("<mm:think>", "</mm:think>"),
    Tags("<longcat_think>", "</longcat_think>"),
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
"""Qwen, DeepSeek and most others; those trained on Claude's or OpenAI's style; Seed-OSS, MiniMax, LongCat, Magistral,
Kimi, OpenThinker, Command A, Apertus, Gemma, Granite, Apriel."""
ANSWERS = tuple((f"<{name}>", f"</{name}>") for name in ("answer", "response", "output", "Output"))
"""What Hunyuan, ERNIE, Granite and Marco write around the answer behind a thought; their templates name it."""
UNKNOWN = re.compile(r"[<\[]\|?[\w:]*(?:think|thought|reason)[\w:]*\|?[>\]]", re.IGNORECASE)
ENDS = ((r"^([<\[]\|?)", r"\1/"), ("begin", "end"), ("start", "end"), ("BEGIN", "END"), ("START", "END"))
"""How the tag at the end of a thought is made of the one at its start."""
MAX_TAG_LENGTH = max(len(tags.open) for tags in TAGS)


def find_tags(template: str, tokens: Collection[str], response: Mapping[str, Any] | None = None) -> Tags | None:
    """How a model with this chat template, added tokens and response template marks its thoughts, as far as tags go."""
    if {"<|channel|>", "<|message|>"} <= set(tokens):
        return HARMONY
    for name in THOUGHTS:
        thought = (response or {}).get("fields", {}).get(name, {})
        if isinstance(thought.get("open"), str) and isinstance(thought.get("close"), str):
            same = (tags for tags in TAGS if tags.open.strip() == thought["open"].strip())
            return next(same, Tags(thought["open"], thought["close"], lines=False))
    named = [tags for tags in TAGS if tags.open in tokens or tags.close in tokens]
    named += [tags for tags in TAGS if tags.open in template] or _paired(template, tokens)
    if not named:
        return None
    answers = (answer for answer in ANSWERS if answer[0] in template and not named[0].answer[1])
    return next((replace(named[0], answer=answer) for answer in answers), named[0])


def _paired(template: str, tokens: Collection[str]) -> list[Tags]:
    """Tags of a convention that nobody has told of: both of them are named, and the first speaks of thinking."""
    there = " ".join((template, *tokens))
    opens = dict.fromkeys(UNKNOWN.findall(there))
    pairs = ((open, re.sub(begin, end, open, count=1)) for open in opens for begin, end in ENDS)
    return [Tags(open, close) for open, close in pairs if open != close and close in there]


def opened_by(text: str, own: Tags | None = None) -> Tags | None:
    """The tags that are open where a prompt ends so, which lets the model begin with a thought."""
    end = text.rstrip()
    known = (*([own] if own else []), HARMONY, *TAGS)
    return next((tags for tags in known if end.endswith(tags.open.rstrip())), None)
