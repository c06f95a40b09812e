"""Reads chats exported by Open WebUI: a tree of messages in `chat.history`."""

import html
import re
from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin, short_repr
from chatui.store.records import Tree

REASONING = re.compile(r"<details type=\"reasoning\"[^>]*>\s*(?:<summary>.*?</summary>)?(.*?)</details>\s*", re.DOTALL)


def matches(value: Any) -> bool:
    """Whether this is a chat of Open WebUI, or the `chat` of one."""
    chat = _chat(value)
    history = as_object(chat.get("history"))
    return isinstance(history.get("messages"), dict) or (
        "chat" in as_object(value) and isinstance(chat.get("messages"), list)
    )


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a chat of Open WebUI."""
    chat = _chat(value)
    history = as_object(chat.get("history"))
    nodes = as_object(history.get("messages"))
    drafts_by_id: dict[str, tuple[str | None, Draft | None]] = {}
    if nodes:
        import_limits.check_count(len(nodes))
        for id, node in nodes.items():
            parent = as_object(node).get("parentId")
            drafts_by_id[id] = (parent if isinstance(parent, str) else None, _draft(id, node, skipped))
        drafts, nearest = common.build_tree(drafts_by_id, skipped)
    else:
        listed = as_list(chat.get("messages"))
        import_limits.check_count(len(listed))
        ids = [as_text(as_object(one).get("id")) or str(number) for number, one in enumerate(listed, 1)]
        read = (_draft(id, one, skipped) for id, one in zip(ids, listed, strict=True))
        drafts = common.chain(draft for draft in read if draft is not None)
        nearest = {}
    leaf = nearest.get(as_text(history.get("currentId"))) or (drafts[-1].id if drafts else None)
    created = common.first_time(value.get("created_at"), chat.get("timestamp"), now)
    prompt = as_text(as_object(chat.get("params")).get("system")) or as_text(chat.get("system"))
    origin = Origin(
        created,
        as_text(value.get("title")) or as_text(chat.get("title")),
        common.time(value.get("updated_at")),
        system_prompt=prompt,
        archived=value.get("archived") is True,
        pinned=value.get("pinned") is True,
        source="open-webui",
        id=as_text(value.get("id")) or as_text(chat.get("id")),
    )
    return import_limits.make_tree(origin, drafts, leaf)


def _chat(value: object) -> dict[str, Any]:
    fields = as_object(value)
    return as_object(fields["chat"]) if "chat" in fields else fields


def _draft(id: str, message: object, skipped: Skipped) -> Draft | None:
    fields = as_object(message)
    role = fields.get("role")
    if role == "system":
        return None
    if role not in ("user", "assistant"):
        skipped.append(f"message {short_repr(id)} is from {short_repr(role)}")
        return None
    parts = common.parse_content(fields.get("content"))
    reasoning = list(parts.reasoning)
    texts = []
    for text in parts.content:
        reasoning += [_unquoted(thought) for thought in REASONING.findall(text)]
        texts.append(REASONING.sub("", text).strip("\n") if "<details" in text else text)
    reasoning += [as_text(fields.get("reasoning_content"))]
    files = [common.attachment(one | {"content": ""}) for one in as_list(fields.get("files")) if isinstance(one, dict)]
    error = as_object(fields.get("error")).get("content")
    failed = [f"[error: {error}]"] if isinstance(error, str) else []
    texts = [text for text in (*files, *texts, *failed) if text.strip()]
    reasoning = [text for text in reasoning if text.strip()]
    return Draft(id, None, role, texts, reasoning, common.time(fields.get("timestamp")))


def _unquoted(text: str) -> str:
    lines = (re.sub(r"^(?:>|&gt;) ?", "", line) for line in text.strip().split("\n"))
    return html.unescape("\n".join(lines))
