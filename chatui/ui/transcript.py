"""A conversation's path -> what gr.Chatbot shows, with the bars and notes around it, and a reply while it grows."""

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from chatui.errors import ChatError
from chatui.runner import Growing
from chatui.store.records import StoredMessage
from chatui.ui import written

Shown = dict[str, Any]
"""One message as gr.Chatbot takes it."""

CALM_SECONDS = 0.2
"""What is over sooner is not named: a line that changes as soon as it is there only flickers."""

ENDED = {
    "stopped": "Stopped.",
    "interrupted": "Interrupted: the server ended before this reply did.",
}
LENGTH = "The reply reached the longest length allowed."
NOTHING = "The model ended its reply without writing anything."


@dataclass
class View:
    """What the chat shows; for each thing the id of its message, and what the user thought of it."""

    shown: list[Shown] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    ratings: list[str | None] = field(default_factory=list)

    def add(self, message: StoredMessage, shown: Sequence[Shown]) -> None:
        """Show these for this message."""
        rating = message.rating.capitalize() if message.rating else None
        for thing in shown:
            self.shown.append(thing)
            self.ids.append(message.id)
            if thing["role"] == "assistant":
                self.ratings.append(rating)


def view(path: Sequence[StoredMessage], then: StoredMessage | None = None) -> View:
    """All that is shown of a path from the root of a message tree, up to a reply that is `then` still written."""
    made = View()
    for number, message in enumerate(path):
        if message.role == "assistant":
            made.add(message, reply(message))
            continue
        made.add(message, [{"role": "user", "content": _text(message.content)}])
        # What Gradio reports of a group of replies names its first thing: so this belongs to the reply.
        follower = path[number + 1] if number + 1 < len(path) else then or message
        made.add(follower, [_bar(message)])
    return made


def reply(message: StoredMessage, growing: Growing | None = None, waiting_for: str = "") -> list[Shown]:
    """What is shown of a reply, `growing` while it is written here; `waiting_for` says what goes on before the text."""
    shown: list[Shown] = []
    if growing is not None and growing.dropped:
        plural = "s were" if growing.dropped > 1 else " was"
        shown.append(note(f"The {growing.dropped} oldest message{plural} left out: the conversation is too long."))
    if message.reasoning:
        shown.append(_thought(message, growing))
    if message.content:
        shown.append({"role": "assistant", "content": _text(message.content)})
    elif message.state == "running" and not message.reasoning:
        shown.append(_titled("", {"title": waiting_for or "Waiting for its turn …", "status": "pending"}))
    if message.state == "running":
        return shown
    ending = _ending(message)
    if ending is not None:
        shown.append(ending)
    shown.append(_bar(message))
    return shown


def card(error: ChatError) -> Shown:
    """A failure: its cause and what to do about it."""
    return _card(error.message, error.remedy)


def note(text: str) -> Shown:
    """A quiet line about the reply: what was left out, that it was stopped."""
    return _aside(f'<p class="chat-note">{plain(text)}</p>')


def phase(growing: Growing) -> str:
    """What goes on before the first text, once the model is there."""
    if time.perf_counter() - growing.started < CALM_SECONDS:
        return "Waiting for its turn …"
    if growing.prompt is not None:
        read = "" if growing.read is None else f"{growing.read:,} of "
        return f"Reading {read}{len(growing.prompt.token_ids):,} tokens …"
    place = "" if growing.place is None else ": next in line" if growing.place == 1 else f": place {growing.place:,}"
    return f"Waiting for its turn{place} …"


def speed(growing: Growing) -> str:
    """Tokens, tokens/s and time to the first text, so far or in the end; then also what was not read again."""
    if growing.first_text_at is None:
        return ""
    first = growing.first_text_at - growing.started
    if growing.finish is not None:
        rate = growing.finish.tokens_per_second
    else:
        rate = (growing.tokens - 1) / max(time.perf_counter() - growing.first_text_at, 1e-3)
    measured = f"{rate:.1f} tokens/s · " if growing.tokens > 1 else ""
    known = ""
    if growing.finish is not None and growing.finish.cached_tokens:
        known = f"{growing.finish.prompt_tokens:,} tokens in, {growing.finish.cached_tokens:,} remembered · "
    return f"{known}{growing.tokens} token{'s' if growing.tokens != 1 else ''} · {measured}first after {first:.2f} s"


def text_of(content: Any) -> str:
    """The text of an edited message as it was written."""
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return written.unescape("".join(text for text in texts if isinstance(text, str)))


def plain(text: str) -> str:
    """Text inside markup, where neither Markdown nor LaTeX may find anything to set."""
    escaped = html.escape(text).replace("\n", "<br>")
    return escaped.replace("$", "$<span></span>").replace("\\", "\\<span></span>")


def can_go_on(message: StoredMessage) -> bool:
    """Whether Continue makes sense: the reply was cut, by its length, by Stop or by the end of the server."""
    cut = message.state in ("stopped", "interrupted") or _by_length(message)
    return cut and bool(message.content or message.reasoning)


def _by_length(message: StoredMessage) -> bool:
    return message.finish is not None and message.finish.reason == "length"


def _ending(message: StoredMessage) -> Shown | None:
    """What is said below a reply that did not simply end."""
    if message.state == "failed":
        cause, _, remedy = message.error.partition("\n")
        return _card(cause, remedy)
    if message.state in ENDED:
        return note(ENDED[message.state])
    if _by_length(message):
        return note(LENGTH)
    return None if message.content or message.reasoning else note(NOTHING)


def _bar(message: StoredMessage) -> Shown:
    """The versions of a message, with what can be done from here; links that chatui.js sends as actions."""
    versions = message.versions or (message.id,)
    at = versions.index(message.id) if message.id in versions else 0
    parts: list[str] = []
    if len(versions) > 1:
        parts += [
            _turn_to(versions[at - 1] if at else "", "‹", "Previous version"),
            f"<span>{at + 1}/{len(versions)}</span>",
            _turn_to(versions[at + 1] if at + 1 < len(versions) else "", "›", "Next version"),
        ]
    if can_go_on(message):
        parts.append(f'<a class="act go-on" href="#continue={quote(message.id)}">Continue</a>')
    if message.role == "assistant" and message.author is not None:
        parts.append(f'<a class="act inspect" href="#inspect={quote(message.id)}">Inspect</a>')
    parts.append(f'<a class="act branch" href="#branch={quote(message.id)}">Branch</a>')
    if message.rating:
        label = f"Note: {plain(message.note)}" if message.note else "Add a note"
        parts.append(f"<span>{message.rating.capitalize()}d</span>")
        parts.append(f'<a class="act annotate" href="#note={quote(message.id)}">{label}</a>')
    side = "question" if message.role == "user" else "answer"
    return _aside(f'<p class="chat-bar {side}">{" ".join(parts)}</p>')


def _turn_to(version: str, label: str, name: str) -> str:
    if not version:
        return f'<span class="off">{label}</span>'
    return f'<a class="act named" href="#version={quote(version)}" title="{name}">{label}</a>'


def _thought(message: StoredMessage, growing: Growing | None) -> Shown:
    thinking = message.state == "running" and not message.content
    if thinking:
        return _titled(message.reasoning, {"title": "Thinking …", "status": "pending"})
    title = "Thought, until it was cut off" if not message.content else "Thought"
    if growing is not None and growing.thought_at is not None:
        seconds = growing.thought_at - (growing.first_text_at or growing.started)
        title = f"Thought for {seconds:.1f} s"
    return _titled(message.reasoning, {"title": title, "status": "done"})


def _titled(text: str, metadata: dict[str, Any]) -> Shown:
    return {"role": "assistant", "content": _text(text), "metadata": metadata}


def _text(text: str) -> Shown:
    """Text as a part of its own: a bare string would lose its tabs, indents and edge newlines (inspect.cleandoc)."""
    return {"type": "text", "text": written.escape(text)}


def _card(cause: str, remedy: str) -> Shown:
    return _aside(f'<div class="chat-card"><strong>{plain(cause)}</strong><span>{plain(remedy)}</span></div>')


def _aside(markup: str) -> Shown:
    """Our own words beside the conversation. gr.HTML would need `unsafe-eval`; Markdown shows markup as well."""
    return {"role": "assistant", "content": {"type": "text", "text": markup}}
