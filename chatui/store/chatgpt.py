"""Conversations as ChatGPT exports them, with all of their branches. Knows neither files nor our own format.

What is skipped (system, tool and hidden messages) hands its children on to its parent; a reply in several pieces
becomes one; what is no text is named in brackets.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from chatui.chat import Role
from chatui.store import checks
from chatui.store.checks import Draft, Origin, refusal, shown
from chatui.store.records import Tree

ROLES: dict[object, Role] = {"user": "user", "assistant": "assistant"}
# Custom instructions, sent as if the user had said them, and "Thought for 7 seconds".
NOT_SAID = ("user_editable_context", "model_editable_context", "reasoning_recap")
KINDS = ("image", "audio", "video")


def conversation(value: Mapping[str, Any], now: datetime) -> Tree:
    """A conversation from its `mapping`; `now` is its time where it has none. Raises TransferError."""
    mapping = value["mapping"]
    if not isinstance(mapping, dict):
        raise refusal("its mapping is not an object.")
    checks.check_count(len(mapping))
    created, updated = (checks.time(value.get(name), f"its {name}") for name in ("create_time", "update_time"))
    title = value.get("title")
    origin = Origin(
        created=created or updated or now,
        title="" if title is None else checks.text(title, "its title"),
        updated=updated,
        archived=value.get("is_archived") is True,
    )
    kept, places = _kept(mapping)
    drafts, joined = _joined(kept)
    current = value.get("current_node")
    if current is not None and (not isinstance(current, str) or current not in mapping):
        raise refusal(f"its current_node {shown(current)} is not there.")
    place = None if current is None else places[current]
    if place is None and drafts:
        place = drafts[-1].id
    return checks.tree(origin, drafts, joined.get(place, place) if place is not None else None)


def _kept(mapping: dict[str, Any]) -> tuple[list[Draft], dict[str, str | None]]:
    """The messages to keep, parents first; and for every node the nearest one kept, itself or above it."""
    drafts = []
    places: dict[str, str | None] = {}
    for id in _parents_first(mapping):
        parent = mapping[id].get("parent")
        place = None if parent is None else places[parent]
        draft = _draft(id, place, mapping[id].get("message"))
        if draft is not None:
            drafts.append(draft)
        places[id] = place if draft is None else id
    return drafts, places


def _joined(drafts: list[Draft]) -> tuple[list[Draft], dict[str, str]]:
    """Replies whose only answer is another reply become one with it; and which id became which."""
    answers = Counter(draft.parent for draft in drafts)
    by_id = {draft.id: draft for draft in drafts}
    joined: dict[str, str] = {}
    left = []
    for draft in drafts:
        only = answers[draft.parent] == 1
        if draft.parent is not None:
            draft.parent = joined.get(draft.parent, draft.parent)
            before = by_id[draft.parent]
            if only and draft.role == before.role == "assistant":
                before.content += draft.content
                before.reasoning += draft.reasoning
                joined[draft.id] = before.id
                continue
        left.append(draft)
    return left, joined


def _parents_first(mapping: dict[str, Any]) -> Iterator[str]:
    """All ids, each after its parent, versions in their order. Raises TransferError for parents that cannot be."""
    below: defaultdict[str | None, list[str]] = defaultdict(list)
    for id, node in mapping.items():
        if not isinstance(node, dict):
            raise refusal(f"message {shown(id)}: it is not an object.")
        parent = node.get("parent")
        if parent is not None and (not isinstance(parent, str) or parent not in mapping):
            raise refusal(f"message {shown(id)}: its parent {shown(parent)} is not there.")
        below[parent].append(id)
    reached = set()
    waiting = below[None][::-1]
    while waiting:
        id = waiting.pop()
        reached.add(id)
        yield id
        children = mapping[id].get("children")
        listed = children if isinstance(children, list) else []
        ranks = {child: rank for rank, child in enumerate(listed) if isinstance(child, str)}
        waiting += sorted(below[id], key=lambda child: ranks.get(child, len(ranks)), reverse=True)
    circling = next((id for id in mapping if id not in reached), None)
    if circling is not None:
        raise refusal(f"message {shown(circling)}: its parents lead round in a circle.")


def _draft(id: str, parent: str | None, message: object) -> Draft | None:
    """What a node says, or None where it says nothing that its reader saw."""
    if message is None:
        return None
    if not isinstance(message, dict):
        raise refusal(f"message {shown(id)}: it is not an object.")
    author, metadata, content = (_object(message.get(name)) for name in ("author", "metadata", "content"))
    role = ROLES.get(author.get("role")) if isinstance(author.get("role"), str) else None
    hidden = metadata.get("is_visually_hidden_from_conversation") is True
    if role is None or hidden or content.get("content_type") in NOT_SAID:
        return None
    recipient = message.get("recipient")
    if role == "assistant" and isinstance(recipient, str) and recipient != "all":
        said, thought = [f"[tool call: {recipient}]"], []
    else:
        said, thought = _said(content), _thoughts(content)
    if not said and not thought:
        return None
    created = checks.time(message.get("create_time"), f"message {shown(id)}: its create_time")
    return Draft(id, parent, role, said, thought, created)


def _said(content: dict[str, Any]) -> list[str]:
    if content.get("content_type") == "thoughts":
        return []
    parts = content.get("parts")
    if isinstance(parts, list):
        return [said for part in parts if (said := _part(part)).strip()]
    written = content.get("text")
    if isinstance(written, str):
        return [written] if written.strip() else []
    return [_name(content)] if content else []


def _part(part: object) -> str:
    """A part's text, as that of what was spoken, or in brackets what it is."""
    if isinstance(part, str):
        return part
    fields = _object(part)
    spoken = fields.get("text")
    return spoken if isinstance(spoken, str) else _name(fields)


def _name(fields: dict[str, Any]) -> str:
    kind = fields.get("content_type")
    if not isinstance(kind, str):
        return "[attachment]"
    return f"[{next((name for name in KINDS if name in kind), kind)}]"


def _thoughts(content: dict[str, Any]) -> list[str]:
    thoughts = content.get("thoughts")
    lines = []
    for thought in thoughts if isinstance(thoughts, list) else []:
        pieces = (_object(thought).get(name) for name in ("summary", "content"))
        lines += [piece for piece in pieces if isinstance(piece, str) and piece.strip()]
    return lines


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
