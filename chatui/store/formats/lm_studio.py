"""Conversations as LM Studio keeps them: each message with its `versions`, replies in steps."""

from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin, shown
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is one of them."""
    listed = as_object(value).get("messages")
    return isinstance(listed, list) and any("versions" in as_object(message) for message in listed)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A conversation of LM Studio's; the versions of a message stand beside each other."""
    listed = value["messages"]
    import_limits.check_count(sum(len(as_list(as_object(message).get("versions"))) for message in listed))
    drafts: list[Draft] = []
    parent: str | None = None
    for number, message in enumerate(listed, 1):
        versions = as_list(as_object(message).get("versions"))
        chosen = as_object(message).get("currentlySelected")
        read = [_draft(f"{number}.{place}", one, skipped) for place, one in enumerate(versions, 1)]
        made = [draft for draft in read if draft is not None]
        for draft in made:
            draft.parent = parent
        drafts += made
        here = read[chosen] if isinstance(chosen, int) and 0 <= chosen < len(read) else None
        parent = (here or made[-1]).id if made else parent
    prompt = value.get("systemPrompt")
    origin = Origin(
        common.moment(value.get("createdAt"), now),
        words(value.get("name")),
        system_prompt=words(prompt),
        pinned=value.get("pinned") is True,
        source="lm-studio",
        id=str(value.get("createdAt") or ""),
    )
    return import_limits.tree(origin, drafts, parent)


def _draft(id: str, version: object, skipped: Skipped) -> Draft | None:
    fields = as_object(version)
    role = fields.get("role")
    if role not in ("user", "assistant"):
        skipped.append(f"message {shown(id)} is from {shown(role)}")
        return None
    made = common.parts(fields.get("content"))
    for step in map(as_object, as_list(fields.get("steps"))):
        if step.get("type") == "contentBlock":
            read = common.parts(step.get("content"))
            thinking = as_object(step.get("style")).get("type") == "thinking"
            (made.thought if thinking else made.said).extend(read.said)
            made.thought += read.thought
    said = [text for text in made.said if text.strip()]
    return Draft(id, None, role, said, [text for text in made.thought if text.strip()])
