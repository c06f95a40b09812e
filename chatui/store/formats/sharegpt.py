"""Conversations in the shape that ShareGPT began and data sets for training took over: `from` and `value`."""

from datetime import datetime
from typing import Any

from chatui.store.formats import messages
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.records import Tree

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "ai": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}
LISTS = ("conversations", "conversation", "items", "messages")


def matches(value: Any) -> bool:
    """Whether this is one of them, or only its list."""
    return any({"from", "value"} <= as_object(turn).keys() for turn in _turns(value)[:3])


def conversation(value: Any, now: datetime, skipped: Skipped) -> Tree:
    """A conversation of turns."""
    fields = as_object(value)
    turns: list[dict[str, Any]] = []
    for turn in _turns(value):
        speaker = as_object(turn).get("from")
        said = as_object(turn).get("value")
        if isinstance(speaker, str) and speaker.lower() == "function_call":
            call = {"function": {"name": "", "arguments": said}}
            turns.append({"role": "assistant", "tool_calls": [call]})
        else:
            role = ROLES.get(speaker.lower(), speaker) if isinstance(speaker, str) else speaker
            turns.append({"role": role, "content": said})
    if isinstance(fields.get("system"), str) and fields["system"].strip():
        turns.insert(0, {"role": "system", "content": fields["system"]})
    described = {"messages": turns, "title": words(fields.get("title")), "id": fields.get("id")}
    return messages.conversation(described, now, skipped)


def _turns(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return next((found for name in LISTS if (found := as_list(as_object(value).get(name)))), [])
