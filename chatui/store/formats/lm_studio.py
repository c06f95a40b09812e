"""Reads conversations of LM Studio: each message with its `versions`, replies in `steps`."""

from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin, short_repr
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is a conversation of LM Studio."""
    listed = as_object(value).get("messages")
    return isinstance(listed, list) and any("versions" in as_object(message) for message in listed)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a conversation of LM Studio; the versions of a message become siblings."""
    listed = value["messages"]
    import_limits.check_count(sum(len(as_list(as_object(message).get("versions"))) for message in listed))
    drafts: list[Draft] = []
    parent: str | None = None
    for number, message in enumerate(listed, 1):
        versions = as_list(as_object(message).get("versions"))
        chosen = as_object(message).get("currentlySelected")
        read = [_draft(f"{number}.{version}", one, skipped) for version, one in enumerate(versions, 1)]
        siblings = [draft for draft in read if draft is not None]
        for draft in siblings:
            draft.parent = parent
        drafts += siblings
        selected = read[chosen] if isinstance(chosen, int) and 0 <= chosen < len(read) else None
        parent = (selected or siblings[-1]).id if siblings else parent
    prompt = value.get("systemPrompt")
    origin = Origin(
        common.first_time(value.get("createdAt"), now),
        as_text(value.get("name")),
        system_prompt=as_text(prompt),
        pinned=value.get("pinned") is True,
        source="lm-studio",
        id=str(value.get("createdAt") or ""),
    )
    return import_limits.make_tree(origin, drafts, parent)


def _draft(id: str, version: object, skipped: Skipped) -> Draft | None:
    fields = as_object(version)
    role = fields.get("role")
    if role not in ("user", "assistant"):
        skipped.append(f"message {short_repr(id)} is from {short_repr(role)}")
        return None
    parts = common.parse_content(fields.get("content"))
    for step in map(as_object, as_list(fields.get("steps"))):
        if step.get("type") == "contentBlock":
            block = common.parse_content(step.get("content"))
            thinking = as_object(step.get("style")).get("type") == "thinking"
            (parts.reasoning if thinking else parts.content).extend(block.content)
            parts.reasoning += block.reasoning
    texts = [text for text in parts.content if text.strip()]
    return Draft(id, None, role, texts, [text for text in parts.reasoning if text.strip()])
