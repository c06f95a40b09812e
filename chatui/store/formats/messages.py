"""Reads lists of messages with role and content, as in OpenAI's API, alone or in an object with a title."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin, refusal, short_repr
from chatui.store.records import Tree

LISTS = ("messages", "input", "conversation", "chat")
CONTENTS = ("content", "contentParts", "contentChunks", "parts", "text")
"""The names of a message's content, also in files of Chatbox, Mistral's Le Chat and others."""
TIMES = ("created_at", "createdAt", "create_time", "created", "timestamp", "date")
TITLES = ("title", "name", "chatTitle", "topic")
IDS = ("id", "chatID")


def matches(value: Any) -> bool:
    """Whether this is a message, an object with a list of messages, or a list in which one of the first has a role."""
    if isinstance(value, dict):
        return "role" in value or any(name in value and isinstance(value[name], list) for name in LISTS)
    return any("role" in as_object(message) for message in as_list(value)[:2])


def conversation(value: Any, now: datetime, skipped: Skipped) -> Tree:
    """Read a list of messages. The first system message becomes the persona's; tool results become parts of replies."""
    fields = as_object(value) if "role" not in as_object(value) else {}
    listed = next((fields[name] for name in LISTS if isinstance(fields.get(name), list)), value)
    listed = listed if isinstance(listed, list) else [listed]
    import_limits.check_count(len(listed))
    created = common.first_time(*(fields.get(name) for name in TIMES), now)
    prompt = as_text(fields.get("instructions"))
    drafts: list[Draft] = []
    for number, message in enumerate(listed, 1):
        draft = _draft(number, message, skipped)
        if draft is None:
            continue
        if as_object(message).get("role") in ("system", "developer"):
            if not drafts:
                prompt = "\n\n".join(filter(None, [prompt, *draft.content]))
                continue
            draft.content = ["[system]", *draft.content]
        draft.created = draft.created or created + timedelta(microseconds=number)
        drafts.append(draft)
    if not drafts and not prompt:
        raise refusal(f"None of its messages can be read: {skipped[0]}." if skipped else "It has no messages.")
    drafts, _ = (
        common.join_replies(common.chain(drafts)) if any(map(_has_tools, listed)) else (common.chain(drafts), {})
    )
    title = next((value for name in TITLES if (value := as_text(fields.get(name)))), "")
    id = next((value for name in IDS if (value := as_text(fields.get(name)))), "")
    origin = Origin(created, title, system_prompt=prompt, source="messages", id=id)
    return import_limits.make_tree(origin, drafts, drafts[-1].id if drafts else None)


def _has_tools(message: object) -> bool:
    """Whether a message has tool calls or is a tool result."""
    fields = as_object(message)
    return fields.get("role") in ("tool", "function") or bool(fields.get("tool_calls") or fields.get("function_call"))


def _draft(number: int, message: object, skipped: Skipped) -> Draft | None:
    fields = as_object(message)
    role = fields.get("role")
    if not isinstance(message, dict):
        skipped.append(f"message {number:,} is not an object with role and content")
        return None
    content = next((value for name in CONTENTS if (value := fields.get(name))), fields.get("content"))
    parts = common.parse_content(content)
    separate = next(
        (text for name in ("reasoning_content", "reasoning", "thinking") if (text := as_text(fields.get(name)))), ""
    )
    reasoning = [*parts.reasoning, *([separate] if separate else [])]
    if role in ("tool", "function"):
        texts = [common.tool_result("\n".join(parts.content), as_text(fields.get("name")))]
    else:
        is_empty = not parts.content or (parts.content == [""] and _has_tools(message))
        texts = [*([] if is_empty else ["\n".join(parts.content)]), *_tool_calls(fields)]
    if not texts and not reasoning:
        skipped.append(f"message {number:,} has no content")
        return None
    if role in ("user", "human", "system", "developer"):
        return Draft(str(number), None, "user", texts, reasoning, _time(fields))
    if role in ("assistant", "model", "bot", "tool", "function"):
        return Draft(str(number), None, "assistant", texts, reasoning, _time(fields))
    skipped.append(f"message {number:,} is from {short_repr(role)}")
    return None


def _time(fields: dict[str, Any]) -> datetime | None:
    return next((value for name in TIMES if (value := common.time(fields.get(name)))), None)


def _tool_calls(fields: dict[str, Any]) -> Iterable[str]:
    calls = [as_object(as_object(call).get("function")) for call in as_list(fields.get("tool_calls"))]
    calls += [as_object(fields["function_call"])] if fields.get("function_call") else []
    return [common.tool_call(as_text(call.get("name")), call.get("arguments")) for call in calls]
