"""Reads conversations of HuggingChat and chat-ui: messages with `from`, `content` and `ancestors`."""

from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin, short_repr
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is a conversation of chat-ui."""
    listed = as_list(as_object(value).get("messages"))
    return any({"from", "content"} <= as_object(message).keys() for message in listed)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a conversation of chat-ui."""
    listed = [message for message in value["messages"] if isinstance(message, dict)]
    import_limits.check_count(len(listed))
    drafts_by_id: dict[str, tuple[str | None, Draft | None]] = {}
    previous: str | None = None
    prompt = as_text(value.get("preprompt"))
    for number, message in enumerate(listed, 1):
        id = as_text(message.get("id")) or str(number)
        ancestors = message.get("ancestors")
        parent = previous if not isinstance(ancestors, list) else as_text(ancestors[-1]) if ancestors else None
        if message.get("from") == "system":
            prompt = prompt or as_text(message.get("content"))
        drafts_by_id[id] = (parent, _draft(id, message, skipped))
        previous = id
    drafts, nearest = common.build_tree(drafts_by_id, skipped)
    leaf = nearest.get(previous or "") or (drafts[-1].id if drafts else None)
    origin = Origin(
        common.first_time(_date(value.get("createdAt")), now),
        as_text(value.get("title")),
        common.time(_date(value.get("updatedAt"))),
        system_prompt=prompt,
        source="chat-ui",
        id=as_text(value.get("id")) or as_text(value.get("_id")) or as_text(as_object(value.get("_id")).get("$oid")),
    )
    return import_limits.make_tree(origin, drafts, leaf)


def _date(value: object) -> object:
    """A time without MongoDB's wrapper."""
    return as_object(value).get("$date") or value


def _draft(id: str, message: dict[str, Any], skipped: Skipped) -> Draft | None:
    role = message.get("from")
    if role == "system":
        return None
    if role not in ("user", "assistant"):
        skipped.append(f"message {short_repr(id)} is from {short_repr(role)}")
        return None
    parts = common.parse_content(message.get("content"))
    files = [
        common.attachment({"name": one} if isinstance(one, str) else as_object(one))
        for one in as_list(message.get("files"))
    ]
    reasoning = [*parts.reasoning, as_text(message.get("reasoning"))]
    texts = [text for text in (*files, *parts.content) if text.strip()]
    created = common.time(_date(message.get("createdAt")))
    return Draft(id, None, role, texts, [text for text in reasoning if text.strip()], created)
