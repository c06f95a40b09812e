"""Reads conversations exported by DeepSeek: a `mapping` like ChatGPT's, with messages in `fragments`."""

from datetime import datetime
from typing import Any

from chatui.chat import Role
from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin, short_repr
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is a conversation of DeepSeek."""
    fields = as_object(value)
    return isinstance(fields.get("mapping"), dict) and "inserted_at" in fields


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a conversation of DeepSeek."""
    nodes = {id: as_object(node) for id, node in value["mapping"].items()}
    import_limits.check_count(len(nodes))
    drafts_by_id: dict[str, tuple[str | None, Draft | None]] = {}
    for id, node in nodes.items():
        parent = node.get("parent")
        drafts_by_id[id] = (parent if isinstance(parent, str) else None, _draft(id, node.get("message"), skipped))
    drafts, _ = common.build_tree(drafts_by_id, skipped)
    origin = Origin(
        common.first_time(value.get("inserted_at"), now),
        as_text(value.get("title")),
        common.time(value.get("updated_at")),
        source="deepseek",
        id=as_text(value.get("id")),
    )
    return import_limits.make_tree(origin, drafts, drafts[-1].id if drafts else None)


def _draft(id: str, message: object, skipped: Skipped) -> Draft | None:
    if message is None:
        return None
    fields = as_object(message)
    texts, reasoning = [as_text(fields.get("content"))], [as_text(fields.get("reasoning_content"))]
    kinds = set()
    for fragment in map(as_object, as_list(fields.get("fragments"))):
        kind = as_text(fragment.get("type"))
        kinds.add(kind)
        (reasoning if kind == "THINK" else texts).append(as_text(fragment.get("content")))
    files = [common.attachment(one) for one in as_list(fields.get("files")) if isinstance(one, dict)]
    texts = [text for text in (*files, *texts) if text.strip()]
    reasoning = [text for text in reasoning if text.strip()]
    if not texts and not reasoning:
        skipped.append(f"message {short_repr(id)} has no content")
        return None
    is_user = "REQUEST" in kinds or as_text(fields.get("role")).lower() == "user"
    role: Role = "user" if is_user else "assistant"
    return Draft(id, None, role, texts, reasoning, common.time(fields.get("inserted_at")))
