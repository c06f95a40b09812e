"""Reads conversations exported by Claude: `chat_messages` with parts, attachments and, in newer files, branches."""

from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin, short_repr
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is a conversation of Claude."""
    return isinstance(as_object(value).get("chat_messages"), list)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a conversation of Claude."""
    listed = value["chat_messages"]
    import_limits.check_count(len(listed))
    drafts_by_id: dict[str, tuple[str | None, Draft | None]] = {}
    previous: str | None = None
    known = {as_text(as_object(message).get("uuid")) for message in listed} - {""}
    for number, message in enumerate(listed, 1):
        draft = _draft(str(number), message, skipped)
        if draft is None:
            continue
        parent = as_text(as_object(message).get("parent_message_uuid"))
        # The parent of the first message is an id that does not occur.
        known_parent = previous if not parent else parent if parent in known else None
        if draft.id not in drafts_by_id:
            drafts_by_id[draft.id] = (known_parent, draft)
            previous = draft.id
    for parent in [parent for parent, _ in drafts_by_id.values() if parent is not None and parent not in drafts_by_id]:
        drafts_by_id.setdefault(parent, (None, None))
    drafts, nearest = common.build_tree(drafts_by_id, skipped)
    current = nearest.get(as_text(value.get("current_leaf_message_uuid"))) or (drafts[-1].id if drafts else None)
    created = common.first_time(value.get("created_at"), now)
    origin = Origin(
        created,
        as_text(value.get("name")),
        common.time(value.get("updated_at")),
        source="claude",
        id=as_text(value.get("uuid")),
        pinned=value.get("is_starred") is True,
    )
    return import_limits.make_tree(origin, drafts, current)


def _draft(number: str, message: object, skipped: Skipped) -> Draft | None:
    fields = as_object(message)
    sender = fields.get("sender")
    if sender not in ("human", "assistant"):
        skipped.append(f"message {number} is from {short_repr(sender)}")
        return None
    parts = common.Parts()
    for part in as_list(fields.get("content")):
        if as_object(part).get("name") == "artifacts" and as_object(part).get("type") == "tool_use":
            parts.content.append(_artifact(as_object(part.get("input"))))
        elif as_object(part).get("name") != "artifacts":
            parts.add(part)
    if not any(text.strip() for text in parts.content):
        parts.content = [as_text(fields.get("text"))]
    files = [
        common.attachment(one)
        for name in ("attachments", "files")
        for one in as_list(fields.get(name))
        if isinstance(one, dict)
    ]
    texts = [text for text in (*dict.fromkeys(files), *parts.content) if text.strip()]
    return Draft(
        as_text(fields.get("uuid")) or number,
        None,
        "user" if sender == "human" else "assistant",
        texts,
        [text for text in parts.reasoning if text.strip()],
        common.time(fields.get("created_at")),
    )


def _artifact(fields: dict[str, Any]) -> str:
    """The text of an artifact, or of a change of it."""
    text = as_text(fields.get("content")) or as_text(fields.get("new_str"))
    kind, language = as_text(fields.get("type")), as_text(fields.get("language"))
    name = common.placeholder("artifact", as_text(fields.get("title")) or as_text(fields.get("id")))
    if not text.strip():
        return name
    return f"{name}\n\n{text if kind == 'text/markdown' else common.code_block(text, language)}"
