"""Reads Gemini's activity from Google Takeout: one entry for each question, with the answer as HTML."""

import html
import re
from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, as_text
from chatui.store.import_limits import Draft, Origin
from chatui.store.records import Tree

QUESTION_PREFIX = re.compile(r"^(?:Prompted|Asked|Said)\s+")
BLOCKS = re.compile(r"<br\s*/?>|</(?:p|div|h[1-6]|ul|ol|pre|table|tr)>", re.IGNORECASE)
ITEMS = re.compile(r"<li[^>]*>", re.IGNORECASE)
STRONG = re.compile(r"</?(?:b|strong)>", re.IGNORECASE)
TAGS = re.compile(r"<[a-zA-Z/][^<>]*>")


def matches(value: Any) -> bool:
    """Whether this is an activity of Gemini."""
    fields = as_object(value)
    products = [fields.get("header"), *as_list(fields.get("products"))]
    is_gemini = any(as_text(one).startswith(("Gemini", "Bard")) for one in products)
    return "time" in fields and "title" in fields and is_gemini


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:  # noqa: ARG001
    """Read a question and its answer as a conversation: the export does not say which questions belong together."""
    created = common.first_time(value.get("time"), now)
    question = QUESTION_PREFIX.sub("", as_text(value.get("title")))
    files = [
        common.attachment({"name": as_text(as_object(one).get("name")) or as_text(one)})
        for one in as_list(value.get("attachedFiles"))
    ]
    answers = [_text(as_text(as_object(one).get("html"))) for one in as_list(value.get("safeHtmlItem"))]
    drafts = [Draft("question", None, "user", [*files, question], created=created)]
    drafts += [Draft("answer", None, "assistant", [text for text in answers if text])] if any(answers) else []
    drafts = common.chain(drafts)
    return import_limits.make_tree(
        Origin(created, source="gemini", id=as_text(value.get("time"))), drafts, drafts[-1].id
    )


def _text(markup: str) -> str:
    """The HTML of an answer as text with paragraphs and lists."""
    text = STRONG.sub("**", ITEMS.sub("\n- ", BLOCKS.sub("\n\n", markup)))
    return re.sub(r"\n{3,}", "\n\n", html.unescape(TAGS.sub("", text))).strip()
