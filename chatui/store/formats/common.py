"""Helpers of all formats: parts of a message as text, times in other notations, and trees of messages."""

import json
import mimetypes
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from chatui.errors import TransferError
from chatui.store import import_limits
from chatui.store.import_limits import Draft, short_repr
from chatui.store.rows import MAX_TITLE_LENGTH
from chatui.text_cleaning import one_line

Skipped = list[str]
"""The reasons for messages that could not be read."""

TEXTS = ("text", "input_text", "output_text", "summary_text", "refusal")
THOUGHTS = ("thinking", "reasoning", "thought", "think")
KINDS = ("image", "audio", "video", "document", "file")
LANGUAGE = re.compile(r"[\w+#.-]{1,20}")
FENCES = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)


def as_object(value: object) -> dict[str, Any]:
    """The value if it is an object, else {}."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The value if it is a list, else []."""
    return value if isinstance(value, list) else []


def as_text(value: object) -> str:
    """The value if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def find_title(value: object) -> str:
    """The probable title of a conversation in any format, or ""."""
    fields = as_object(value)
    inner = [as_object(fields.get(name)) for name in ("conversation", "chat", "conv")]
    titles = (as_text(one.get(name)).strip() for one in (fields, *inner) for name in ("title", "name", "chatTitle"))
    return one_line(next((title for title in titles if title), ""), MAX_TITLE_LENGTH)


def time(value: object) -> datetime | None:
    """A time from ISO 8601, or from seconds, milliseconds, microseconds or nanoseconds since 1970; else None."""
    if isinstance(value, str) and re.fullmatch(r"\d{9,19}(\.\d+)?", value):
        value = float(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        scale = next((by for by in (1.0, 1e3, 1e6, 1e9) if value < 1e11 * by), 1e9)
        value = value / scale
    try:
        return import_limits.parse_time(value, "")
    except TransferError:
        return None


def code_block(text: str, language: str = "") -> str:
    """Text as a fenced code block, with a fence that is longer than any in it."""
    longest = max((len(fence) for fence in FENCES.findall(text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language if LANGUAGE.fullmatch(language) else ''}\n{text.rstrip()}\n{fence}"


def tool_call(name: str, arguments: object) -> str:
    """A tool call as Markdown."""
    line = f"[tool call: {name or 'unnamed'}]"
    text, language = arguments if isinstance(arguments, str) else "", ""
    if isinstance(arguments, dict | list) and arguments:
        text, language = json.dumps(arguments, ensure_ascii=False, indent=1), "json"
    return f"{line}\n\n{code_block(text, language)}" if text.strip() else line


def tool_result(text: str, name: str = "") -> str:
    """A tool result as Markdown."""
    line = f"[tool result: {name}]" if name else "[tool result]"
    return f"{line}\n\n{code_block(text)}" if text.strip() else line


def placeholder(kind: str, name: str = "") -> str:
    """The text that replaces an image, audio or file."""
    return f"[{kind}: {' '.join(name.split())[:200]}]" if name.strip() else f"[{kind}]"


def attachment(fields: Mapping[str, Any]) -> str:
    """The placeholder of an attached file, with its text if the export has it."""
    inner = as_object(fields.get("file"))
    meta = as_object(inner.get("meta"))
    names = (
        one.get(key) for one in (fields, inner, meta) for key in ("name", "file_name", "fileName", "filename", "title")
    )
    name = next((as_text(one) for one in names if as_text(one).strip()), "")
    kind = " ".join(as_text(fields.get(key)) for key in ("type", "mime", "mime_type", "file_type", "file_kind"))
    kind = next((one for one in KINDS[:3] if one in f"{kind} {mimetypes.guess_type(name)[0]}"), "file")
    text = next((as_text(fields.get(key)) for key in ("extracted_content", "content") if as_text(fields.get(key))), "")
    if text.strip() and kind == "file":
        return f"{placeholder('file', name)}\n\n{code_block(text)}"
    return placeholder(kind, name)


@dataclass
class Parts:
    """The content of a message as paragraphs, and its reasoning."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)

    def add(self, part: object) -> None:
        """Add one part of the content, in the notation of OpenAI, Anthropic and compatible programs."""
        if isinstance(part, str):
            self.content.append(part)
            return
        fields = as_object(part)
        kind = as_text(fields.get("type"))
        if kind in THOUGHTS:
            self.reasoning += [
                text for name in ("thinking", "text", "content", "think") if (text := as_text(fields.get(name)))
            ][:1]
            for inner in as_list(fields.get("summary")):
                self.reasoning.append(as_text(as_object(inner).get("text")))
        elif kind in ("tool_use", "function_call", "tool_call", "server_tool_use"):
            arguments = fields.get("input", fields.get("arguments"))
            self.content.append(tool_call(as_text(fields.get("name")), arguments))
        elif kind in ("tool_result", "function_call_output"):
            content = fields.get("content", fields.get("output"))
            self.content.append(tool_result("\n".join(parse_content(content).content), as_text(fields.get("name"))))
        elif isinstance(value := as_object(fields.get("text")).get("value", fields.get("text")), str) and (
            kind in TEXTS or not kind
        ):
            self.content.append(value)
        elif kind in ("token_budget", "step-start", "debugInfoBlock", "status"):
            return
        elif fields:
            short = kind.removesuffix("_url").removeprefix("input_")
            kind = next((one for one in KINDS if one in short), short or "attachment")
            inner = as_object(fields.get("file"))
            name = as_text(fields.get("name") or fields.get("filename") or inner.get("filename"))
            self.content.append(placeholder(kind, name))


def parse_content(content: object) -> Parts:
    """The parts of a message's content, which is a text, a part or a list of parts."""
    parts = Parts()
    for part in content if isinstance(content, list) else [content] if content is not None else []:
        parts.add(part)
    return parts


def chain(drafts: Iterable[Draft]) -> list[Draft]:
    """Make each message the child of the one before."""
    chained: list[Draft] = []
    for draft in drafts:
        draft.parent = chained[-1].id if chained else None
        chained.append(draft)
    return chained


def parents_first(parents: Mapping[str, str | None], rank: Mapping[str, int], skipped: Skipped) -> Iterator[str]:
    """All ids, each after its parent, and siblings by their rank. Missing parents and cycles make new roots."""
    children: dict[str | None, list[str]] = {}
    for id, parent in parents.items():
        known = parent is None or parent in parents
        if not known:
            skipped.append(f"message {short_repr(id)} stands apart: its parent {short_repr(parent)} is not there")
        children.setdefault(parent if known else None, []).append(id)
    reached: set[str] = set()
    waiting: list[str] = []
    roots = iter([*sorted(children.get(None, []), key=lambda id: rank.get(id, len(rank))), *parents])
    while True:
        root = next((id for id in roots if id not in reached), None)
        if root is None:
            return
        if parents[root] in parents:
            skipped.append(f"message {short_repr(root)} stands apart: its parents lead round in a circle")
        waiting.append(root)
        while waiting:
            id = waiting.pop()
            if id in reached:
                continue
            reached.add(id)
            yield id
            waiting += sorted(children.get(id, []), key=lambda child: rank.get(child, len(rank)), reverse=True)


def build_tree(
    drafts: Mapping[str, tuple[str | None, Draft | None]], skipped: Skipped
) -> tuple[list[Draft], dict[str, str | None]]:
    """The messages with their parents set, parents first. `drafts` has the parent and message of each node by its id.

    The children of a node without a message move to its parent. Also returns for each node the id of the nearest
    message, which is its own or that of an ancestor, or None.
    """
    parents = {id: parent for id, (parent, _) in drafts.items()}
    rank = {id: index for index, id in enumerate(drafts)}
    messages: list[Draft] = []
    nearest: dict[str, str | None] = {}
    for id in parents_first(parents, rank, skipped):
        parent, draft = drafts[id]
        nearest_parent = nearest.get(parent) if parent is not None else None
        if draft is not None:
            draft.parent = nearest_parent
            messages.append(draft)
        nearest[id] = nearest_parent if draft is None else id
    return messages, nearest


def join_replies(drafts: Sequence[Draft]) -> tuple[list[Draft], dict[str, str]]:
    """Join each reply that is the only child of another reply to that one.

    Returns the remaining messages, and the ids of the joined ones with the id of the reply that they are now part of.
    """
    children = Counter(draft.parent for draft in drafts)
    by_id = {draft.id: draft for draft in drafts}
    joined_into: dict[str, str] = {}
    remaining = []
    for draft in drafts:
        is_only_child = children[draft.parent] == 1
        if draft.parent is not None:
            draft.parent = joined_into.get(draft.parent, draft.parent)
            parent = by_id[draft.parent]
            if is_only_child and draft.role == parent.role == "assistant":
                parent.content += draft.content
                parent.reasoning += draft.reasoning
                joined_into[draft.id] = parent.id
                continue
        remaining.append(draft)
    return remaining, joined_into


def first_time(*values: object) -> datetime:
    """The first value that is a time, else the present."""
    times = (value if isinstance(value, datetime) else time(value) for value in values)
    return next((value for value in times if value is not None), datetime.now(UTC))
