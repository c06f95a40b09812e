"""Histories as text-generation-webui keeps them: pairs of what was asked and answered."""

import html
from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object
from chatui.store.import_limits import Draft, Origin
from chatui.store.records import Tree

BEGINS = "<|BEGIN-VISIBLE-CHAT|>"
"""Stands where the user has said nothing yet: the assistant greets."""


def matches(value: Any) -> bool:
    """Whether this is one of them."""
    fields = as_object(value)
    pairs = _pairs(fields)
    known = ("internal" in fields and "visible" in fields) or "data_visible" in fields
    return known and all(isinstance(pair, list) for pair in pairs)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:
    """A history."""
    pairs = _pairs(value)
    import_limits.check_count(2 * len(pairs))
    times = as_object(value.get("metadata"))
    drafts = []
    for number, pair in enumerate(pairs):
        if len(pair) < 2 or not all(isinstance(said, str) for said in pair[:2]):
            skipped.append(f"pair {number + 1} is not two texts")
            continue
        for role, said in zip(("user", "assistant"), pair[:2], strict=True):
            if said.strip() and said != BEGINS:
                when = as_object(times.get(f"{role}_{number}")).get("timestamp")
                made = Draft(f"{number}.{role}", None, "user", [html.unescape(said)], created=common.time(when))
                made.role = "assistant" if role == "assistant" else "user"
                drafts.append(made)
    drafts = common.chain(drafts)
    origin = Origin(now, source="text-generation-webui")
    return import_limits.tree(origin, drafts, drafts[-1].id if drafts else None)


def _pairs(fields: dict[str, Any]) -> list[Any]:
    return as_list(fields.get("internal")) or as_list(fields.get("data"))
