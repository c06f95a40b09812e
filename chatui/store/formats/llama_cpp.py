"""Conversations as the page of llama.cpp's server exports them: a header `conv`, and messages that form a tree."""

from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin, shown
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is one of them."""
    fields = as_object(value)
    return isinstance(fields.get("conv"), dict) and isinstance(fields.get("messages"), list)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A conversation of llama.cpp's page."""
    conv, listed = value["conv"], value["messages"]
    import_limits.check_count(len(listed))
    found: dict[str, tuple[str | None, Draft | None]] = {}
    prompt = ""
    ids = {str(as_object(message).get("id")) for message in listed}
    for message in map(as_object, listed):
        id, parent = str(message.get("id")), str(message.get("parent"))
        if message.get("role") == "system" and message.get("type") != "root":
            prompt = prompt or words(message.get("content"))
        found[id] = (parent if parent in ids and parent != id else None, _draft(id, message, skipped))
    drafts, places = common.tree_of(found, skipped)
    leaf = places.get(str(conv.get("currNode"))) or (drafts[-1].id if drafts else None)
    updated = common.time(conv.get("lastModified"))
    origin = Origin(
        min((draft.created for draft in drafts if draft.created), default=updated or now),
        words(conv.get("name")),
        updated,
        system_prompt=prompt,
        source="llama.cpp",
        id=words(conv.get("id")),
    )
    return import_limits.tree(origin, drafts, leaf)


def _draft(id: str, message: dict[str, Any], skipped: Skipped) -> Draft | None:
    role = message.get("role")
    if role == "system" or message.get("type") == "root":
        return None
    if role not in ("user", "assistant"):
        skipped.append(f"message {shown(id)} is from {shown(role)}")
        return None
    made = common.parts(message.get("content"))
    thoughts = [*made.thought, words(message.get("thinking")), words(message.get("reasoningContent"))]
    files = [common.attached(one) for one in as_list(message.get("extra")) if isinstance(one, dict)]
    said = [text for text in (*files, *made.said) if text.strip()]
    return Draft(
        id, None, role, said, [text for text in thoughts if text.strip()], common.time(message.get("timestamp"))
    )
