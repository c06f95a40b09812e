"""Reads conversations exported by LibreChat: messages in a list, or nested in `children`."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from chatui.chat import Role
from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is a conversation of LibreChat."""
    fields = as_object(value)
    listed = as_list(fields.get("messages", fields.get("messagesTree")))
    return any("isCreatedByUser" in as_object(message) for message in listed[:3])


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a conversation of LibreChat."""
    drafts_by_id: dict[str, tuple[str | None, Draft | None]] = {}
    listed = list(_listed(as_list(value.get("messages", value.get("messagesTree")))))
    import_limits.check_count(len(listed))
    known = {as_text(message.get("messageId")) for _, message in listed} - {""}
    previous: str | None = None
    for number, (outer, message) in enumerate(listed, 1):
        id = as_text(message.get("messageId")) or str(number)
        parent = as_text(message.get("parentMessageId"))
        # The parent of the first message is an id that does not occur.
        known_parent = outer if outer in known else parent if parent in known else None if parent else previous
        drafts_by_id.setdefault(id, (known_parent, _draft(id, message)))
        previous = id
    drafts, _ = common.build_tree(drafts_by_id, skipped)
    options = as_object(value.get("options"))
    origin = Origin(
        common.first_time(value.get("createdAt"), value.get("exportAt"), now),
        as_text(value.get("title")),
        system_prompt=as_text(options.get("promptPrefix")) or as_text(options.get("system")),
        source="librechat",
        id=as_text(value.get("conversationId")),
    )
    return import_limits.make_tree(origin, drafts, drafts[-1].id if drafts else None)


def _listed(messages: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All messages, each with the id of the message that it is nested in, or "", parents first."""
    waiting = [("", message) for message in reversed(messages)]
    while waiting:
        outer, message = waiting.pop()
        fields = as_object(message)
        yield outer, fields
        id = as_text(fields.get("messageId"))
        waiting += [(id, child) for child in reversed(as_list(fields.get("children")))]


def _draft(id: str, message: dict[str, Any]) -> Draft | None:
    parts = common.parse_content(message.get("content"))
    for part in map(as_object, as_list(message.get("content"))):
        if part.get("type") == "tool_call":
            call = as_object(part.get("tool_call"))
            parts.content[:] = [text for text in parts.content if text != "[tool call: unnamed]"]
            parts.content.append(common.tool_call(as_text(call.get("name")), call.get("args")))
    if not parts.content:
        parts.content = [as_text(message.get("text"))]
    files = [common.attachment(one) for one in as_list(message.get("files")) if isinstance(one, dict)]
    texts = [text for text in (*files, *parts.content) if text.strip()]
    if not texts and not parts.reasoning:
        return None
    role: Role = "user" if message.get("isCreatedByUser") is True else "assistant"
    return Draft(id, None, role, texts, parts.reasoning, common.time(message.get("createdAt")))
