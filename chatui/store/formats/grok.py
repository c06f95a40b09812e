"""Reads conversations exported by Grok: `responses` with a sender and a message, with branches."""

from datetime import datetime
from typing import Any

from chatui.chat import Role
from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_object, as_text
from chatui.store.import_limits import Draft, Origin, short_repr
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is a conversation of Grok."""
    fields = as_object(value)
    return isinstance(fields.get("responses"), list) and isinstance(fields.get("conversation"), dict)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a conversation of Grok."""
    listed = [as_object(as_object(one).get("response")) for one in value["responses"]]
    import_limits.check_count(len(listed))
    drafts_by_id: dict[str, tuple[str | None, Draft | None]] = {}
    for number, response in enumerate(listed, 1):
        id = as_text(response.get("_id")) or str(number)
        parent = as_text(response.get("parent_response_id")) or next(reversed(drafts_by_id), None)
        drafts_by_id.setdefault(id, (parent, _draft(id, response, skipped)))
    drafts, _ = common.build_tree(drafts_by_id, skipped)
    fields = value["conversation"]
    created, updated = common.time(_date(fields.get("create_time"))), common.time(_date(fields.get("modify_time")))
    origin = Origin(
        created or updated or now,
        as_text(fields.get("title")),
        updated,
        pinned=fields.get("starred") is True,
        source="grok",
        id=as_text(fields.get("id")),
    )
    return import_limits.make_tree(origin, drafts, drafts[-1].id if drafts else None)


def _draft(id: str, response: dict[str, Any], skipped: Skipped) -> Draft | None:
    sender = as_text(response.get("sender")).lower()
    if sender not in ("human", "user", "assistant"):
        skipped.append(f"message {short_repr(id)} is from {short_repr(response.get('sender'))}")
        return None
    texts = [text for text in (as_text(response.get("message")),) if text.strip()]
    reasoning = [text for text in (as_text(response.get("thinking_trace")),) if text.strip()]
    role: Role = "assistant" if sender == "assistant" else "user"
    return Draft(id, None, role, texts, reasoning, common.time(_date(response.get("create_time"))))


def _date(value: object) -> object:
    """A time without MongoDB's wrappers."""
    inner = as_object(value).get("$date", value)
    return as_object(inner).get("$numberLong", inner)
