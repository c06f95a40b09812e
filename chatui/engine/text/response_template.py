"""Splits replies by a model's response template, which transformers parses."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from transformers.utils.chat_parsing import ResponseParser

from chatui.reply_text.reply_parts import NOTHING, Parts
from chatui.reply_text.thinking_tags import THOUGHTS, Tags


class TemplateSplitter:
    """A Splitter for a model whose response template knows more than tags."""

    finished = False
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
