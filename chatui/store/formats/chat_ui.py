"""Conversations as HuggingChat and its open twin chat-ui keep them: `from` and `content`, with ancestors."""

from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin, shown
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is one of them."""
    listed = as_list(as_object(value).get("messages"))
    return any({"from", "content"} <= as_object(message).keys() for message in listed)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A conversation of chat-ui's."""
    listed = [message for message in value["messages"] if isinstance(message, dict)]
    import_limits.check_count(len(listed))
    found: dict[str, tuple[str | None, Draft | None]] = {}
    before: str | None = None
    prompt = words(value.get("preprompt"))
    for number, message in enumerate(listed, 1):
        id = words(message.get("id")) or str(number)
        ancestors = message.get("ancestors")
        parent = before if not isinstance(ancestors, list) else words(ancestors[-1]) if ancestors else None
        if message.get("from") == "system":
            prompt = prompt or words(message.get("content"))
        found[id] = (parent, _draft(id, message, skipped))
        before = id
    drafts, places = common.tree_of(found, skipped)
    leaf = places.get(before or "") or (drafts[-1].id if drafts else None)
    origin = Origin(
        common.moment(_date(value.get("createdAt")), now),
        words(value.get("title")),
        common.time(_date(value.get("updatedAt"))),
        system_prompt=prompt,
        source="chat-ui",
        id=words(value.get("id")) or words(value.get("_id")) or words(as_object(value.get("_id")).get("$oid")),
    )
    return import_limits.tree(origin, drafts, leaf)


def _date(value: object) -> object:
    """A time, out of MongoDB's wrapping."""
    return as_object(value).get("$date") or value


def _draft(id: str, message: dict[str, Any], skipped: Skipped) -> Draft | None:
    role = message.get("from")
    if role == "system":
        return None
    if role not in ("user", "assistant"):
        skipped.append(f"message {shown(id)} is from {shown(role)}")
        return None
    made = common.parts(message.get("content"))
    files = [
        common.attached({"name": one} if isinstance(one, str) else as_object(one))
        for one in as_list(message.get("files"))
    ]
    thought = [*made.thought, words(message.get("reasoning"))]
    said = [text for text in (*files, *made.said) if text.strip()]
    created = common.time(_date(message.get("createdAt")))
    return Draft(id, None, role, said, [text for text in thought if text.strip()], created)
