"""Conversations as Claude exports them: `chat_messages` with parts, attachments and, in newer files, branches."""

from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin, shown
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is one of them."""
    return isinstance(as_object(value).get("chat_messages"), list)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A conversation of Claude's."""
    listed = value["chat_messages"]
    import_limits.check_count(len(listed))
    found: dict[str, tuple[str | None, Draft | None]] = {}
    before: str | None = None
    known = {words(as_object(message).get("uuid")) for message in listed} - {""}
    for number, message in enumerate(listed, 1):
        draft = _draft(str(number), message, skipped)
        if draft is None:
            continue
        parent = words(as_object(message).get("parent_message_uuid"))
        # The first message's parent is a number that is nowhere.
        place = before if not parent else parent if parent in known else None
        if draft.id not in found:
            found[draft.id] = (place, draft)
            before = draft.id
    for parent in [parent for parent, _ in found.values() if parent is not None and parent not in found]:
        found.setdefault(parent, (None, None))
    drafts, places = common.tree_of(found, skipped)
    current = places.get(words(value.get("current_leaf_message_uuid"))) or (drafts[-1].id if drafts else None)
    created = common.moment(value.get("created_at"), now)
    origin = Origin(
        created,
        words(value.get("name")),
        common.time(value.get("updated_at")),
        source="claude",
        id=words(value.get("uuid")),
        pinned=value.get("is_starred") is True,
    )
    return import_limits.tree(origin, drafts, current)


def _draft(number: str, message: object, skipped: Skipped) -> Draft | None:
    fields = as_object(message)
    sender = fields.get("sender")
    if sender not in ("human", "assistant"):
        skipped.append(f"message {number} is from {shown(sender)}")
        return None
    made = common.Parts()
    for part in as_list(fields.get("content")):
        if as_object(part).get("name") == "artifacts" and as_object(part).get("type") == "tool_use":
            made.said.append(_artifact(as_object(part.get("input"))))
        elif as_object(part).get("name") != "artifacts":
            made.add(part)
    if not any(text.strip() for text in made.said):
        made.said = [words(fields.get("text"))]
    files = [
        common.attached(one)
        for name in ("attachments", "files")
        for one in as_list(fields.get(name))
        if isinstance(one, dict)
    ]
    said = [text for text in (*dict.fromkeys(files), *made.said) if text.strip()]
    return Draft(
        words(fields.get("uuid")) or number,
        None,
        "user" if sender == "human" else "assistant",
        said,
        [text for text in made.thought if text.strip()],
        common.time(fields.get("created_at")),
    )


def _artifact(fields: dict[str, Any]) -> str:
    """A text beside the chat, as it was made or changed."""
    text = words(fields.get("content")) or words(fields.get("new_str"))
    kind, language = words(fields.get("type")), words(fields.get("language"))
    name = common.named("artifact", words(fields.get("title")) or words(fields.get("id")))
    if not text.strip():
        return name
    return f"{name}\n\n{text if kind == 'text/markdown' else common.fenced(text, language)}"
