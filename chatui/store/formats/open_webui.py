"""Chats as Open WebUI exports them: a tree of messages in `chat.history`."""

import html
import re
from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin, shown
from chatui.store.records import Tree

THOUGHT = re.compile(r"<details type=\"reasoning\"[^>]*>\s*(?:<summary>.*?</summary>)?(.*?)</details>\s*", re.DOTALL)


def matches(value: Any) -> bool:
    """Whether this is one of them, or what is inside of one."""
    chat = _chat(value)
    history = as_object(chat.get("history"))
    return isinstance(history.get("messages"), dict) or (
        "chat" in as_object(value) and isinstance(chat.get("messages"), list)
    )


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A chat of Open WebUI's."""
    chat = _chat(value)
    history = as_object(chat.get("history"))
    nodes = as_object(history.get("messages"))
    found: dict[str, tuple[str | None, Draft | None]] = {}
    if nodes:
        import_limits.check_count(len(nodes))
        for id, node in nodes.items():
            parent = as_object(node).get("parentId")
            found[id] = (parent if isinstance(parent, str) else None, _draft(id, node, skipped))
        drafts, places = common.tree_of(found, skipped)
    else:
        listed = as_list(chat.get("messages"))
        import_limits.check_count(len(listed))
        read = (
            _draft(words(as_object(one).get("id")) or str(number), one, skipped) for number, one in enumerate(listed, 1)
        )
        drafts, places = common.chain(draft for draft in read if draft is not None), {}
    leaf = places.get(words(history.get("currentId"))) or (drafts[-1].id if drafts else None)
    created = common.moment(value.get("created_at"), chat.get("timestamp"), now)
    prompt = words(as_object(chat.get("params")).get("system")) or words(chat.get("system"))
    origin = Origin(
        created,
        words(value.get("title")) or words(chat.get("title")),
        common.time(value.get("updated_at")),
        system_prompt=prompt,
        archived=value.get("archived") is True,
        pinned=value.get("pinned") is True,
        source="open-webui",
        id=words(value.get("id")) or words(chat.get("id")),
    )
    return import_limits.tree(origin, drafts, leaf)


def _chat(value: object) -> dict[str, Any]:
    fields = as_object(value)
    return as_object(fields["chat"]) if "chat" in fields else fields


def _draft(id: str, message: object, skipped: Skipped) -> Draft | None:
    fields = as_object(message)
    role = fields.get("role")
    if role == "system":
        return None
    if role not in ("user", "assistant"):
        skipped.append(f"message {shown(id)} is from {shown(role)}")
        return None
    made = common.parts(fields.get("content"))
    thought = list(made.thought)
    said = []
    for text in made.said:
        thought += [_unquoted(found) for found in THOUGHT.findall(text)]
        said.append(THOUGHT.sub("", text).strip("\n") if "<details" in text else text)
    thought += [words(fields.get("reasoning_content"))]
    files = [common.attached(one | {"content": ""}) for one in as_list(fields.get("files")) if isinstance(one, dict)]
    error = as_object(fields.get("error")).get("content")
    failed = [f"[error: {error}]"] if isinstance(error, str) else []
    said = [text for text in (*files, *said, *failed) if text.strip()]
    return Draft(id, None, role, said, [text for text in thought if text.strip()], common.time(fields.get("timestamp")))


def _unquoted(text: str) -> str:
    lines = (re.sub(r"^(?:>|&gt;) ?", "", line) for line in text.strip().split("\n"))
    return html.unescape("\n".join(lines))
