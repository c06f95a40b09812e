"""Conversations as LibreChat exports them: messages in a list, or each with its `children`."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin
from chatui.store.records import Tree


def matches(value: Any) -> bool:
    """Whether this is one of them."""
    fields = as_object(value)
    listed = as_list(fields.get("messages", fields.get("messagesTree")))
    return any("isCreatedByUser" in as_object(message) for message in listed[:3])


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A conversation of LibreChat's."""
    found: dict[str, tuple[str | None, Draft | None]] = {}
    listed = list(_listed(as_list(value.get("messages", value.get("messagesTree")))))
    import_limits.check_count(len(listed))
    known = {words(message.get("messageId")) for _, message in listed} - {""}
    before: str | None = None
    for number, (above, message) in enumerate(listed, 1):
        id = words(message.get("messageId")) or str(number)
        parent = words(message.get("parentMessageId"))
        # The first message's parent is a number that is nowhere.
        place = above if above in known else parent if parent in known else None if parent else before
        found.setdefault(id, (place, _draft(id, message)))
        before = id
    drafts, _ = common.tree_of(found, skipped)
    options = as_object(value.get("options"))
    origin = Origin(
        common.moment(value.get("createdAt"), value.get("exportAt"), now),
        words(value.get("title")),
        system_prompt=words(options.get("promptPrefix")) or words(options.get("system")),
        source="librechat",
        id=words(value.get("conversationId")),
    )
    return import_limits.tree(origin, drafts, drafts[-1].id if drafts else None)


def _listed(messages: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All messages, each with the id of the one that it is a child of, parents first."""
    waiting = [("", message) for message in reversed(messages)]
    while waiting:
        above, message = waiting.pop()
        fields = as_object(message)
        yield above, fields
        id = words(fields.get("messageId"))
        waiting += [(id, child) for child in reversed(as_list(fields.get("children")))]


def _draft(id: str, message: dict[str, Any]) -> Draft | None:
    made = common.parts(message.get("content"))
    for part in map(as_object, as_list(message.get("content"))):
        if part.get("type") == "tool_call":
            call = as_object(part.get("tool_call"))
            made.said[:] = [text for text in made.said if text != "[tool call: unnamed]"]
            made.said.append(common.called(words(call.get("name")), call.get("args")))
    if not made.said:
        made.said = [words(message.get("text"))]
    files = [common.attached(one) for one in as_list(message.get("files")) if isinstance(one, dict)]
    said = [text for text in (*files, *made.said) if text.strip()]
    if not said and not made.thought:
        return None
    user = message.get("isCreatedByUser") is True
    return Draft(id, None, "user" if user else "assistant", said, made.thought, common.time(message.get("createdAt")))
