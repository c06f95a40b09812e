"""Reads histories of text-generation-webui: pairs of a question and an answer."""

import html
from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object
from chatui.store.import_limits import Draft, Origin
from chatui.store.records import Tree

NO_QUESTION = "<|BEGIN-VISIBLE-CHAT|>"
"""The question of a pair whose answer is the assistant's greeting."""


def matches(value: Any) -> bool:
    """Whether this is a history of text-generation-webui."""
    fields = as_object(value)
    pairs = _pairs(fields)
    known = ("internal" in fields and "visible" in fields) or "data_visible" in fields
    return known and all(isinstance(pair, list) for pair in pairs)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """Read a history."""
    pairs = _pairs(value)
    import_limits.check_count(2 * len(pairs))
    times = as_object(value.get("metadata"))
    drafts = []
    for number, pair in enumerate(pairs):
        if len(pair) < 2 or not all(isinstance(text, str) for text in pair[:2]):
            skipped.append(f"pair {number + 1} is not two texts")
            continue
        for role, text in zip(("user", "assistant"), pair[:2], strict=True):
            if text.strip() and text != NO_QUESTION:
                time = as_object(times.get(f"{role}_{number}")).get("timestamp")
                draft = Draft(f"{number}.{role}", None, "user", [html.unescape(text)], created=common.time(time))
                draft.role = "assistant" if role == "assistant" else "user"
                drafts.append(draft)
    drafts = common.chain(drafts)
    origin = Origin(now, source="text-generation-webui")
    return import_limits.make_tree(origin, drafts, drafts[-1].id if drafts else None)


def _pairs(fields: dict[str, Any]) -> list[Any]:
    return as_list(fields.get("internal")) or as_list(fields.get("data"))
