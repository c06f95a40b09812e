"""What the formats share: parts of a message as text, times as they are written elsewhere, and chains of messages."""

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
from chatui.store.import_limits import Draft, shown
from chatui.store.rows import MAX_TITLE_LENGTH
from chatui.text_cleaning import one_line

Skipped = list[str]
"""For each message that could not be read, why."""

TEXTS = ("text", "input_text", "output_text", "summary_text", "refusal")
THOUGHTS = ("thinking", "reasoning", "thought", "think")
KINDS = ("image", "audio", "video", "document", "file")
LANGUAGE = re.compile(r"[\w+#.-]{1,20}")
FENCES = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)


def as_object(value: object) -> dict[str, Any]:
    """The value, or {} where it is no object."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The value, or [] where it is no list."""
    return value if isinstance(value, list) else []


def words(value: object) -> str:
    """The value, or "" where it is no text."""
    return value if isinstance(value, str) else ""


def title_of(value: object) -> str:
    """What a conversation seems to be called, "" where nothing tells."""
    fields = as_object(value)
    inner = [as_object(fields.get(name)) for name in ("conversation", "chat", "conv")]
    found = (words(one.get(name)).strip() for one in (fields, *inner) for name in ("title", "name", "chatTitle"))
    return one_line(next((title for title in found if title), ""), MAX_TITLE_LENGTH)


def time(value: object) -> datetime | None:
    """A time from ISO 8601, or from seconds, milliseconds, micro- or nanoseconds since 1970; None for all else."""
    if isinstance(value, str) and re.fullmatch(r"\d{9,19}(\.\d+)?", value):
        value = float(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        scale = next((by for by in (1.0, 1e3, 1e6, 1e9) if value < 1e11 * by), 1e9)
        value = value / scale
    try:
        return import_limits.time(value, "")
    except TransferError:
        return None


def fenced(text: str, language: str = "") -> str:
    """Text as a code block that nothing in it ends."""
    longest = max((len(found) for found in FENCES.findall(text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language if LANGUAGE.fullmatch(language) else ''}\n{text.rstrip()}\n{fence}"


def called(name: str, arguments: object) -> str:
    """A call of a tool, for readers."""
    line = f"[tool call: {name or 'unnamed'}]"
    text, language = arguments if isinstance(arguments, str) else "", ""
    if isinstance(arguments, dict | list) and arguments:
        text, language = json.dumps(arguments, ensure_ascii=False, indent=1), "json"
    return f"{line}\n\n{fenced(text, language)}" if text.strip() else line


def returned(text: str, name: str = "") -> str:
    """What a tool gave back, for readers."""
    line = f"[tool result: {name}]" if name else "[tool result]"
    return f"{line}\n\n{fenced(text)}" if text.strip() else line


def named(kind: str, name: str = "") -> str:
    """What stands for a picture, a sound or a file."""
    return f"[{kind}: {' '.join(name.split())[:200]}]" if name.strip() else f"[{kind}]"


def attached(fields: Mapping[str, Any]) -> str:
    """A file beside a message: its text where that is there, else its name."""
    inner = as_object(fields.get("file"))
    meta = as_object(inner.get("meta"))
    found = (
        one.get(key) for one in (fields, inner, meta) for key in ("name", "file_name", "fileName", "filename", "title")
    )
    name = next((words(one) for one in found if words(one).strip()), "")
    kind = " ".join(words(fields.get(key)) for key in ("type", "mime", "mime_type", "file_type", "file_kind"))
    kind = next((one for one in KINDS[:3] if one in f"{kind} {mimetypes.guess_type(name)[0]}"), "file")
    text = next((words(fields.get(key)) for key in ("extracted_content", "content") if words(fields.get(key))), "")
    return f"{named('file', name)}\n\n{fenced(text)}" if text.strip() and kind == "file" else named(kind, name)


@dataclass
class Parts:
    """What a message says: its paragraphs, and what was thought before."""

    said: list[str] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)

    def add(self, part: object) -> None:
        """Take in one part of its content, as OpenAI, Anthropic and those who follow them write it."""
        if isinstance(part, str):
            self.said.append(part)
            return
        fields = as_object(part)
        kind = words(fields.get("type"))
        if kind in THOUGHTS:
            self.thought += [
                text for name in ("thinking", "text", "content", "think") if (text := words(fields.get(name)))
            ][:1]
            for inner in as_list(fields.get("summary")):
                self.thought.append(words(as_object(inner).get("text")))
        elif kind in ("tool_use", "function_call", "tool_call", "server_tool_use"):
            arguments = fields.get("input", fields.get("arguments"))
            self.said.append(called(words(fields.get("name")), arguments))
        elif kind in ("tool_result", "function_call_output"):
            content = fields.get("content", fields.get("output"))
            self.said.append(returned("\n".join(parts(content).said), words(fields.get("name"))))
        elif isinstance(said := as_object(fields.get("text")).get("value", fields.get("text")), str) and (
            kind in TEXTS or not kind
        ):
            self.said.append(said)
        elif kind in ("token_budget", "step-start", "debugInfoBlock", "status"):
            return
        elif fields:
            short = kind.removesuffix("_url").removeprefix("input_")
            kind = next((one for one in KINDS if one in short), short or "attachment")
            inner = as_object(fields.get("file"))
            self.said.append(named(kind, words(fields.get("name") or fields.get("filename") or inner.get("filename"))))


def parts(content: object) -> Parts:
    """What a message's content says, be it a text, a part or a list of parts."""
    made = Parts()
    for part in content if isinstance(content, list) else [content] if content is not None else []:
        made.add(part)
    return made


def chain(drafts: Iterable[Draft]) -> list[Draft]:
    """Messages one after the other, each below the one before."""
    made: list[Draft] = []
    for draft in drafts:
        draft.parent = made[-1].id if made else None
        made.append(draft)
    return made


def parents_first(parents: Mapping[str, str | None], rank: Mapping[str, int], skipped: Skipped) -> Iterator[str]:
    """All ids, each after its parent, versions by their rank. Who has no parent there, or a circle, begins anew."""
    below: dict[str | None, list[str]] = {}
    for id, parent in parents.items():
        known = parent is None or parent in parents
        if not known:
            skipped.append(f"message {shown(id)} stands apart: its parent {shown(parent)} is not there")
        below.setdefault(parent if known else None, []).append(id)
    reached: set[str] = set()
    waiting: list[str] = []
    roots = iter([*sorted(below.get(None, []), key=lambda id: rank.get(id, len(rank))), *parents])
    while True:
        root = next((id for id in roots if id not in reached), None)
        if root is None:
            return
        if parents[root] in parents:
            skipped.append(f"message {shown(root)} stands apart: its parents lead round in a circle")
        waiting.append(root)
        while waiting:
            id = waiting.pop()
            if id in reached:
                continue
            reached.add(id)
            yield id
            waiting += sorted(below.get(id, []), key=lambda child: rank.get(child, len(rank)), reverse=True)


def tree_of(
    drafts: Mapping[str, tuple[str | None, Draft | None]], skipped: Skipped
) -> tuple[list[Draft], dict[str, str | None]]:
    """Messages with their parents, parents first; those of None hand their children on to their parent.

    With them comes for every id the nearest message, itself or above it.
    """
    parents = {id: parent for id, (parent, _) in drafts.items()}
    rank = {id: place for place, id in enumerate(drafts)}
    made: list[Draft] = []
    places: dict[str, str | None] = {}
    for id in parents_first(parents, rank, skipped):
        parent, draft = drafts[id]
        place = places.get(parent) if parent is not None else None
        if draft is not None:
            draft.parent = place
            made.append(draft)
        places[id] = place if draft is None else id
    return made, places


def joined(drafts: Sequence[Draft]) -> tuple[list[Draft], dict[str, str]]:
    """Replies whose only answer is another reply become one with it; and which id became which."""
    answers = Counter(draft.parent for draft in drafts)
    by_id = {draft.id: draft for draft in drafts}
    became: dict[str, str] = {}
    left = []
    for draft in drafts:
        only = answers[draft.parent] == 1
        if draft.parent is not None:
            draft.parent = became.get(draft.parent, draft.parent)
            before = by_id[draft.parent]
            if only and draft.role == before.role == "assistant":
                before.content += draft.content
                before.reasoning += draft.reasoning
                became[draft.id] = before.id
                continue
        left.append(draft)
    return left, became


def moment(*values: object) -> datetime:
    """The first of these that is a time."""
    found = (value if isinstance(value, datetime) else time(value) for value in values)
    return next((value for value in found if value is not None), datetime.now(UTC))
