"""Conversations as Grok exports them: `responses` with a message and who sent it, in branches."""

from datetime import datetime
from typing import Any

from chatui.chat import Role
from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_object, words
from chatui.store.import_limits import Draft, Origin, shown
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is one of them."""
    fields = as_object(value)
    return isinstance(fields.get("responses"), list) and isinstance(fields.get("conversation"), dict)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A conversation of Grok's."""
    listed = [as_object(as_object(one).get("response")) for one in value["responses"]]
    import_limits.check_count(len(listed))
    found: dict[str, tuple[str | None, Draft | None]] = {}
    for number, response in enumerate(listed, 1):
        id = words(response.get("_id")) or str(number)
        parent = words(response.get("parent_response_id")) or next(reversed(found), None)
        found.setdefault(id, (parent, _draft(id, response, skipped)))
    drafts, _ = common.tree_of(found, skipped)
    about = value["conversation"]
    created, updated = common.time(_dated(about.get("create_time"))), common.time(_dated(about.get("modify_time")))
    origin = Origin(
        created or updated or now,
        words(about.get("title")),
        updated,
        pinned=about.get("starred") is True,
        source="grok",
        id=words(about.get("id")),
    )
    return import_limits.tree(origin, drafts, drafts[-1].id if drafts else None)


def _draft(id: str, response: dict[str, Any], skipped: Skipped) -> Draft | None:
    sender = words(response.get("sender")).lower()
    if sender not in ("human", "user", "assistant"):
        skipped.append(f"message {shown(id)} is from {shown(response.get('sender'))}")
        return None
    said = [text for text in (words(response.get("message")),) if text.strip()]
    thought = [text for text in (words(response.get("thinking_trace")),) if text.strip()]
    role: Role = "assistant" if sender == "assistant" else "user"
    return Draft(id, None, role, said, thought, common.time(_dated(response.get("create_time"))))


def _dated(value: object) -> object:
    """A time as MongoDB writes it, or as it is."""
    inner = as_object(value).get("$date", value)
    return as_object(inner).get("$numberLong", inner)
