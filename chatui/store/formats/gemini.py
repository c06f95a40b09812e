"""What Google Takeout tells of Gemini: one entry of "My Activity" for each question, with the answer as HTML."""

import html
import re
from datetime import datetime
from typing import Any

from chatui.store import import_limits
from chatui.store.formats import common
from chatui.store.formats.common import Skipped, as_list, as_object, words
from chatui.store.import_limits import Draft, Origin
from chatui.store.records import Tree

ASKED = re.compile(r"^(?:Prompted|Asked|Said)\s+")
BLOCKS = re.compile(r"<br\s*/?>|</(?:p|div|h[1-6]|ul|ol|pre|table|tr)>", re.IGNORECASE)
ITEMS = re.compile(r"<li[^>]*>", re.IGNORECASE)
STRONG = re.compile(r"</?(?:b|strong)>", re.IGNORECASE)
TAGS = re.compile(r"<[a-zA-Z/][^<>]*>")


def matches(value: Any) -> bool:
    """Whether this is one of them."""
    fields = as_object(value)
    products = [fields.get("header"), *as_list(fields.get("products"))]
    return "time" in fields and "title" in fields and any(words(one).startswith(("Gemini", "Bard")) for one in products)


def conversation(value: dict[str, Any], now: datetime, skipped: Skipped) -> Tree:  # noqa: ARG001
    """A question and its answer: which of them belong together is not told."""
    created = common.moment(value.get("time"), now)
    asked = ASKED.sub("", words(value.get("title")))
    files = [
        common.attached({"name": words(as_object(one).get("name")) or words(one)})
        for one in as_list(value.get("attachedFiles"))
    ]
    answers = [_text(words(as_object(one).get("html"))) for one in as_list(value.get("safeHtmlItem"))]
    drafts = [Draft("question", None, "user", [*files, asked], created=created)]
    drafts += [Draft("answer", None, "assistant", [text for text in answers if text])] if any(answers) else []
    drafts = common.chain(drafts)
    return import_limits.tree(Origin(created, source="gemini", id=words(value.get("time"))), drafts, drafts[-1].id)


def _text(markup: str) -> str:
    """The words of the answer, with its paragraphs and lists."""
    text = STRONG.sub("**", ITEMS.sub("\n- ", BLOCKS.sub("\n\n", markup)))
    return re.sub(r"\n{3,}", "\n\n", html.unescape(TAGS.sub("", text))).strip()
