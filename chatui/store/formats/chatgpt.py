"""Conversations as ChatGPT exports them, with all of their branches.

What is skipped (system and hidden messages) hands its children on to its parent; a reply in several pieces, tools and
their results among them, becomes one; what is no text is named in brackets.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from chatui.chat import Role
from chatui.store import import_limits
from chatui.store.formats import citations, common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin, refusal, shown
from chatui.store.records import Tree

ROLES: dict[object, Role] = {"user": "user", "assistant": "assistant", "tool": "assistant"}
# Custom instructions, sent as if the user had said them, "Thought for 7 seconds", and pages as a tool read them.
NOT_SAID = ("user_editable_context", "model_editable_context", "reasoning_recap", "tether_browsing_display")
KINDS = ("image", "audio", "video")
CANVAS = "canmore."


def matches(value: Any) -> bool:
    """Whether this is one of them; also one whose messages are gone."""
    fields = as_object(value)
    return "mapping" in fields or ("conversation_id" in fields and "current_node" in fields)


def conversation(value: Mapping[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A conversation from its `mapping`; `now` is its time where it has none. Raises TransferError."""
    mapping = value.get("mapping")
    if not isinstance(mapping, dict):
        raise refusal("It has no messages: its “mapping” is missing.")
    import_limits.check_count(len(mapping))
    created, updated = (common.time(value.get(name)) for name in ("create_time", "update_time"))
    origin = Origin(
        created=created or updated or now,
        title=words(value.get("title")),
        updated=updated,
        archived=value.get("is_archived") is True,
        pinned=value.get("is_starred") is True,
        source="chatgpt",
        id=words(value.get("conversation_id") or value.get("id")),
    )
    kept, places = _kept(mapping, skipped)
    drafts, became = common.joined(kept)
    current = words(value.get("current_node"))
    place = places.get(current)
    if place is None and drafts:
        place = drafts[-1].id
    return import_limits.tree(origin, drafts, became.get(place, place) if place is not None else None)


def _kept(mapping: dict[str, Any], skipped: Skipped) -> tuple[list[Draft], dict[str, str | None]]:
    """The messages to keep, parents first; and for every node the nearest one kept, itself or above it."""
    nodes = {id: node for id, node in mapping.items() if isinstance(node, dict)}
    for id in (id for id in mapping if id not in nodes):
        skipped.append(f"message {shown(id)} is not an object")
    rank: dict[str, int] = {}
    for node in nodes.values():
        for child in as_list(node.get("children")):
            if isinstance(child, str):
                rank.setdefault(child, len(rank))
    ordered = sorted(nodes, key=lambda id: rank.get(id, len(rank)))
    found: dict[str, tuple[str | None, Draft | None]] = {}
    for id in ordered:
        parent = nodes[id].get("parent")
        known = isinstance(parent, str) and (parent in nodes or parent not in mapping)
        found[id] = (parent if known else None, _draft(id, nodes[id].get("message"), skipped))
    return common.tree_of(found, skipped)


def _draft(id: str, message: object, skipped: Skipped) -> Draft | None:
    """What a node says, or None where it says nothing that its reader saw."""
    if message is None:
        return None
    if not isinstance(message, dict):
        skipped.append(f"message {shown(id)} is not an object")
        return None
    author, metadata, content = (as_object(message.get(name)) for name in ("author", "metadata", "content"))
    speaker = words(author.get("role"))
    hidden = metadata.get("is_visually_hidden_from_conversation") is True
    if speaker not in ROLES or hidden or content.get("content_type") in NOT_SAID:
        return None
    recipient, name = words(message.get("recipient")), words(author.get("name"))
    thought: list[str] = []
    if speaker == "assistant" and recipient not in ("", "all"):
        said = [_call(recipient, content)]
    elif speaker == "tool":
        said = _result(name, content)
    else:
        said, thought = _said(content, metadata), _thoughts(content)
    said = [citations.resolved(text, metadata) for text in said]
    if not any(text.strip() for text in (*said, *thought)):
        return None
    return Draft(id, None, ROLES[speaker], said, thought, common.time(message.get("create_time")))


def _call(recipient: str, content: dict[str, Any]) -> str:
    """What the assistant sent to a tool: the text of a canvas, code that it ran, or a call."""
    text = words(content.get("text")) or "\n".join(
        part for part in as_list(content.get("parts")) if isinstance(part, str)
    )
    if recipient.startswith(CANVAS):
        return _canvas(text)
    if recipient == "python":
        return common.fenced(text, "python")
    return common.called(recipient, text)


def _canvas(text: str) -> str:
    """What a canvas says once it is made, or what a change puts there."""
    try:
        fields = as_object(json.loads(text))
    except (ValueError, RecursionError):
        return common.called("canvas", text)
    written = words(fields.get("content"))
    changes = [words(as_object(change).get("replacement")) for change in as_list(fields.get("updates"))]
    comments = [words(as_object(comment).get("comment")) for comment in as_list(fields.get("comments"))]
    kind = words(fields.get("type"))
    language = kind.removeprefix("code/") if kind.startswith("code/") else ""
    name = words(fields.get("name"))
    shown = [common.named("canvas", name)]
    pieces = [piece for piece in (written, *changes, *comments) if piece.strip()]
    return "\n\n".join([*shown, *(common.fenced(piece, language) if language else piece for piece in pieces)])


def _result(tool: str, content: dict[str, Any]) -> list[str]:
    """What a tool gave back, as far as its reader saw it: output of code, pictures, errors, quotes."""
    kind, text = content.get("content_type"), words(content.get("text"))
    if tool.startswith((CANVAS, "bio")):
        return []
    if kind == "tether_quote":
        title, url = words(content.get("title")), words(content.get("url"))
        return [f"[quoted: {common.named('source', title)[1:-1]}]\n\n{common.fenced(text)}\n\n{url}".rstrip()]
    if kind == "multimodal_text":
        return [said for part in as_list(content.get("parts")) if (said := _part(part, {})).strip()]
    texts = [text, *(part for part in as_list(content.get("parts")) if isinstance(part, str))]
    return [common.returned(one, tool) for one in texts if one.strip()]


def _said(content: dict[str, Any], metadata: dict[str, Any]) -> list[str]:
    if content.get("content_type") == "thoughts":
        return []
    names = {
        words(as_object(one).get("id")): words(as_object(one).get("name"))
        for one in as_list(metadata.get("attachments"))
    }
    names.pop("", None)
    parts = content.get("parts")
    if isinstance(parts, list):
        said = [text for part in parts if (text := _part(part, names)).strip()]
    else:
        written = words(content.get("text")) or words(content.get("result"))
        language = words(content.get("language"))
        if content.get("content_type") == "code" and written.strip():
            written = common.fenced(written, "" if language == "unknown" else language)
        said = [written] if written.strip() else [_name(content)] if content and "text" not in content else []
    shown_already = "\n".join(said)
    files = [common.named("file", name) for name in names.values() if name and f": {name}]" not in shown_already]
    return [*files, *said]


def _part(part: object, names: Mapping[str, str]) -> str:
    """A part's text, as that of what was spoken, or in brackets what it is."""
    if isinstance(part, str):
        return part
    fields = as_object(part)
    spoken = fields.get("text")
    return spoken if isinstance(spoken, str) else _name(fields, names)


def _name(fields: dict[str, Any], names: Mapping[str, str] | None = None) -> str:
    kind = fields.get("content_type")
    if not isinstance(kind, str):
        return "[attachment]"
    place = re.sub(r"^.*://", "", words(fields.get("asset_pointer")))
    drawn = words(as_object(as_object(fields.get("metadata")).get("dalle")).get("prompt"))
    return common.named(next((name for name in KINDS if name in kind), kind), (names or {}).get(place) or drawn)


def _thoughts(content: dict[str, Any]) -> list[str]:
    lines = []
    for thought in as_list(content.get("thoughts")):
        pieces = (as_object(thought).get(name) for name in ("summary", "content"))
        lines += [piece for piece in pieces if isinstance(piece, str) and piece.strip()]
    return lines
