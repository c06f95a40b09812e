"""Conversations as DeepSeek exports them: a `mapping` like ChatGPT's, whose messages are in `fragments`."""

from datetime import datetime
from typing import Any

from chatui.chat import Role
from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin, shown
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is one of them."""
    fields = as_object(value)
    return isinstance(fields.get("mapping"), dict) and "inserted_at" in fields


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A conversation of DeepSeek's."""
    nodes = {id: as_object(node) for id, node in value["mapping"].items()}
    import_limits.check_count(len(nodes))
    found: dict[str, tuple[str | None, Draft | None]] = {}
    for id, node in nodes.items():
        parent = node.get("parent")
        found[id] = (parent if isinstance(parent, str) else None, _draft(id, node.get("message"), skipped))
    drafts, _ = common.tree_of(found, skipped)
    origin = Origin(
        common.moment(value.get("inserted_at"), now),
        words(value.get("title")),
        common.time(value.get("updated_at")),
        source="deepseek",
        id=words(value.get("id")),
    )
    return import_limits.tree(origin, drafts, drafts[-1].id if drafts else None)


def _draft(id: str, message: object, skipped: Skipped) -> Draft | None:
    if message is None:
        return None
    fields = as_object(message)
    said, thought = [words(fields.get("content"))], [words(fields.get("reasoning_content"))]
    kinds = set()
    for fragment in map(as_object, as_list(fields.get("fragments"))):
        kind = words(fragment.get("type"))
        kinds.add(kind)
        (thought if kind == "THINK" else said).append(words(fragment.get("content")))
    files = [common.attached(one) for one in as_list(fields.get("files")) if isinstance(one, dict)]
    said = [text for text in (*files, *said) if text.strip()]
    thought = [text for text in thought if text.strip()]
    if not said and not thought:
        skipped.append(f"message {shown(id)} has no content")
        return None
    asked = "REQUEST" in kinds or words(fields.get("role")).lower() == "user"
    role: Role = "user" if asked else "assistant"
    return Draft(id, None, role, said, thought, common.time(fields.get("inserted_at")))
