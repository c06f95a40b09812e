"""Reads conversations exported by ChatGPT, with all branches.

System and hidden messages are skipped, and their children move to their parent. A reply in several messages, tool
calls and results included, becomes one. Content that is not text is replaced by a placeholder in brackets.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from chatui import shallow_json
from chatui.chat import Role
from chatui.store import import_limits
from chatui.store.formats import citations, common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin, refusal, short_repr
from chatui.store.records import Tree

ROLES: dict[object, Role] = {"user": "user", "assistant": "assistant", "tool": "assistant"}
# Custom instructions, which are sent as user messages; "Thought for 7 seconds"; and web pages that a tool has read.
SKIPPED_CONTENT_TYPES = (
    "user_editable_context",
    "model_editable_context",
    "reasoning_recap",
    "tether_browsing_display",
)
KINDS = ("image", "audio", "video")
CANVAS = "canmore."


def matches(value: Any) -> bool:
    """Whether this is a conversation of ChatGPT, even one without its messages."""
    fields = as_object(value)
    return "mapping" in fields or ("conversation_id" in fields and "current_node" in fields)


def conversation(value: Mapping[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a conversation from its `mapping`; `now` is used if it has no time. Raises TransferError."""
    mapping = value.get("mapping")
    if not isinstance(mapping, dict):
        raise refusal("It has no messages: its “mapping” is missing.")
    import_limits.check_count(len(mapping))
    created, updated = (common.time(value.get(name)) for name in ("create_time", "update_time"))
    origin = Origin(
        created=created or updated or now,
        title=as_text(value.get("title")),
        updated=updated,
        archived=value.get("is_archived") is True,
        pinned=value.get("is_starred") is True,
        source="chatgpt",
        id=as_text(value.get("conversation_id") or value.get("id")),
    )
    messages, nearest = _read_messages(mapping, skipped)
    drafts, joined_into = common.join_replies(messages)
    current = as_text(value.get("current_node"))
    leaf = nearest.get(current)
    if leaf is None and drafts:
        leaf = drafts[-1].id
    return import_limits.make_tree(origin, drafts, joined_into.get(leaf, leaf) if leaf is not None else None)


def _read_messages(mapping: dict[str, Any], skipped: Skipped) -> tuple[list[Draft], dict[str, str | None]]:
    """The messages, parents first; and for each node the nearest message, see common.build_tree()."""
    nodes = {id: node for id, node in mapping.items() if isinstance(node, dict)}
    for id in (id for id in mapping if id not in nodes):
        skipped.append(f"message {short_repr(id)} is not an object")
    rank: dict[str, int] = {}
    for node in nodes.values():
        for child in as_list(node.get("children")):
            if isinstance(child, str):
                rank.setdefault(child, len(rank))
    ordered = sorted(nodes, key=lambda id: rank.get(id, len(rank)))
    drafts_by_id: dict[str, tuple[str | None, Draft | None]] = {}
    for id in ordered:
        parent = nodes[id].get("parent")
        known = isinstance(parent, str) and (parent in nodes or parent not in mapping)
        drafts_by_id[id] = (parent if known else None, _draft(id, nodes[id].get("message"), skipped))
    return common.build_tree(drafts_by_id, skipped)


def _draft(id: str, message: object, skipped: Skipped) -> Draft | None:
    """The message of a node, or None if it has no visible content."""
    if message is None:
        return None
    if not isinstance(message, dict):
        skipped.append(f"message {short_repr(id)} is not an object")
        return None
    author, metadata, content = (as_object(message.get(name)) for name in ("author", "metadata", "content"))
    speaker = as_text(author.get("role"))
    hidden = metadata.get("is_visually_hidden_from_conversation") is True
    if speaker not in ROLES or hidden or content.get("content_type") in SKIPPED_CONTENT_TYPES:
        return None
    recipient, name = as_text(message.get("recipient")), as_text(author.get("name"))
    reasoning: list[str] = []
    if speaker == "assistant" and recipient not in ("", "all"):
        texts = [_tool_call(recipient, content)]
    elif speaker == "tool":
        texts = _tool_result(name, content)
    else:
        texts, reasoning = _texts(content, metadata), _reasoning(content)
    texts = [citations.resolve(text, metadata) for text in texts]
    if not any(text.strip() for text in (*texts, *reasoning)):
        return None
    return Draft(id, None, ROLES[speaker], texts, reasoning, common.time(message.get("create_time")))


def _tool_call(recipient: str, content: dict[str, Any]) -> str:
    """A message to a tool: the text of a canvas, code to run, or another tool call."""
    text = as_text(content.get("text")) or "\n".join(
        part for part in as_list(content.get("parts")) if isinstance(part, str)
    )
    if recipient.startswith(CANVAS):
        return _canvas(text)
    if recipient == "python":
        return common.code_block(text, "python")
    return common.tool_call(recipient, text)


def _canvas(text: str) -> str:
    """The text of a new canvas, or the replacements and comments of a change."""
    try:
        fields = as_object(shallow_json.loads(text))
    except ValueError:
        return common.tool_call("canvas", text)
    content = as_text(fields.get("content"))
    changes = [as_text(as_object(change).get("replacement")) for change in as_list(fields.get("updates"))]
    comments = [as_text(as_object(comment).get("comment")) for comment in as_list(fields.get("comments"))]
    kind = as_text(fields.get("type"))
    language = kind.removeprefix("code/") if kind.startswith("code/") else ""
    name = as_text(fields.get("name"))
    title = common.placeholder("canvas", name)
    texts = [text for text in (content, *changes, *comments) if text.strip()]
    return "\n\n".join([title, *(common.code_block(text, language) if language else text for text in texts)])


def _tool_result(tool: str, content: dict[str, Any]) -> list[str]:
    """The visible result of a tool: output of code, images, errors, quotes."""
    kind, text = content.get("content_type"), as_text(content.get("text"))
    if tool.startswith((CANVAS, "bio")):
        return []
    if kind == "tether_quote":
        title, url = as_text(content.get("title")), as_text(content.get("url"))
        return [f"[quoted: {common.placeholder('source', title)[1:-1]}]\n\n{common.code_block(text)}\n\n{url}".rstrip()]
    if kind == "multimodal_text":
        return [piece for part in as_list(content.get("parts")) if (piece := _part(part, {})).strip()]
    texts = [text, *(part for part in as_list(content.get("parts")) if isinstance(part, str))]
    return [common.tool_result(one, tool) for one in texts if one.strip()]


def _texts(content: dict[str, Any], metadata: dict[str, Any]) -> list[str]:
    """The paragraphs of a user's or assistant's message, attachments first."""
    if content.get("content_type") == "thoughts":
        return []
    names = {
        as_text(as_object(one).get("id")): as_text(as_object(one).get("name"))
        for one in as_list(metadata.get("attachments"))
    }
    names.pop("", None)
    parts = content.get("parts")
    if isinstance(parts, list):
        texts = [text for part in parts if (text := _part(part, names)).strip()]
    else:
        text = as_text(content.get("text")) or as_text(content.get("result"))
        language = as_text(content.get("language"))
        if content.get("content_type") == "code" and text.strip():
            text = common.code_block(text, "" if language == "unknown" else language)
        texts = [text] if text.strip() else [_placeholder(content)] if content and "text" not in content else []
    named_in_text = "\n".join(texts)
    files = [common.placeholder("file", name) for name in names.values() if name and f": {name}]" not in named_in_text]
    return [*files, *texts]


def _part(part: object, names: Mapping[str, str]) -> str:
    """The text of a part, or the transcript of an audio part, else a placeholder."""
    if isinstance(part, str):
        return part
    fields = as_object(part)
    text = fields.get("text")
    return text if isinstance(text, str) else _placeholder(fields, names)


def _placeholder(fields: dict[str, Any], names: Mapping[str, str] | None = None) -> str:
    """The kind and name of an attachment; `names` are by its id."""
    kind = fields.get("content_type")
    if not isinstance(kind, str):
        return "[attachment]"
    id = re.sub(r"^.*://", "", as_text(fields.get("asset_pointer")))
    image_prompt = as_text(as_object(as_object(fields.get("metadata")).get("dalle")).get("prompt"))
    kind = next((name for name in KINDS if name in kind), kind)
    return common.placeholder(kind, (names or {}).get(id) or image_prompt)


def _reasoning(content: dict[str, Any]) -> list[str]:
    texts = []
    for thought in as_list(content.get("thoughts")):
        fields = (as_object(thought).get(name) for name in ("summary", "content"))
        texts += [text for text in fields if isinstance(text, str) and text.strip()]
    return texts
