"""Reads conversations exported by the page of llama.cpp's server: a header `conv` and a tree of messages."""

from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin, short_repr
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is a conversation of llama.cpp's page."""
    fields = as_object(value)
    return isinstance(fields.get("conv"), dict) and isinstance(fields.get("messages"), list)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a conversation of llama.cpp's page."""
    conv, listed = value["conv"], value["messages"]
    import_limits.check_count(len(listed))
    drafts_by_id: dict[str, tuple[str | None, Draft | None]] = {}
    prompt = ""
    ids = {str(as_object(message).get("id")) for message in listed}
    for message in map(as_object, listed):
        id, parent = str(message.get("id")), str(message.get("parent"))
        if message.get("role") == "system" and message.get("type") != "root":
            prompt = prompt or as_text(message.get("content"))
        drafts_by_id[id] = (parent if parent in ids and parent != id else None, _draft(id, message, skipped))
    drafts, nearest = common.build_tree(drafts_by_id, skipped)
    leaf = nearest.get(str(conv.get("currNode"))) or (drafts[-1].id if drafts else None)
    updated = common.time(conv.get("lastModified"))
    origin = Origin(
        min((draft.created for draft in drafts if draft.created), default=updated or now),
        as_text(conv.get("name")),
        updated,
        system_prompt=prompt,
        source="llama.cpp",
        id=as_text(conv.get("id")),
    )
    return import_limits.make_tree(origin, drafts, leaf)


def _draft(id: str, message: dict[str, Any], skipped: Skipped) -> Draft | None:
    role = message.get("role")
    if role == "system" or message.get("type") == "root":
        return None
    if role not in ("user", "assistant"):
        skipped.append(f"message {short_repr(id)} is from {short_repr(role)}")
        return None
    parts = common.parse_content(message.get("content"))
    reasoning = [*parts.reasoning, as_text(message.get("thinking")), as_text(message.get("reasoningContent"))]
    files = [common.attachment(one) for one in as_list(message.get("extra")) if isinstance(one, dict)]
    texts = [text for text in (*files, *parts.content) if text.strip()]
    return Draft(
        id, None, role, texts, [text for text in reasoning if text.strip()], common.time(message.get("timestamp"))
    )
