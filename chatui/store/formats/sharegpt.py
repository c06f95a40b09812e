"""Reads conversations in the format of ShareGPT, which training data sets use: turns with `from` and `value`."""

from datetime import datetime
from typing import Any

from chatui.store.formats import messages
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
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
    """Whether this is a conversation of ShareGPT, or only its list of turns."""
    return any({"from", "value"} <= as_object(turn).keys() for turn in _turns(value)[:3])


def conversation(value: Any, now: datetime, skipped: Skipped) -> Tree:
    """Read a conversation by converting its turns to messages of OpenAI's API."""
    fields = as_object(value)
    turns: list[dict[str, Any]] = []
    for turn in _turns(value):
        speaker = as_object(turn).get("from")
        content = as_object(turn).get("value")
        if isinstance(speaker, str) and speaker.lower() == "function_call":
            call = {"function": {"name": "", "arguments": content}}
            turns.append({"role": "assistant", "tool_calls": [call]})
        else:
            role = ROLES.get(speaker.lower(), speaker) if isinstance(speaker, str) else speaker
            turns.append({"role": role, "content": content})
    if isinstance(fields.get("system"), str) and fields["system"].strip():
        turns.insert(0, {"role": "system", "content": fields["system"]})
    converted = {"messages": turns, "title": as_text(fields.get("title")), "id": fields.get("id")}
    return messages.conversation(converted, now, skipped)


def _turns(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return next((value for name in LISTS if (value := as_list(as_object(value).get(name)))), [])
