"""Between the Chatbot's message dicts and Messages, and what a reply looks like while it grows."""

import html
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatui.chat import Finish, Message, ReplyDelta
from chatui.errors import ChatError
from chatui.ui import written

Shown = dict[str, Any]
"""One message as gr.Chatbot takes it."""

ASIDE = "aside"
"""The metadata id of notes and cards; an id without a title is kept by the browser and not shown."""


def user(text: str) -> Shown:
    """A user's message."""
    return {"role": "user", "content": _text(text)}


def note(text: str) -> Shown:
    """A quiet line about the reply: what was left out, that it was stopped."""
    return _aside(f'<p class="chat-note">{_plain(text)}</p>')


def card(error: ChatError) -> Shown:
    """A failure: its cause and what to do about it."""
    return _aside(
        f'<div class="chat-card"><strong>{_plain(error.message)}</strong><span>{_plain(error.remedy)}</span></div>'
    )


def to_messages(history: Iterable[Shown]) -> list[Message]:
    """The conversation in what the browser sent back: no thoughts, notes or cards, neighbours of a reply joined."""
    messages: list[Message] = []
    for shown in history:
        role = shown.get("role")
        metadata = shown.get("metadata") or {}
        if role not in ("user", "assistant") or metadata.get("title") or metadata.get("id") == ASIDE:
            continue
        text = text_of(shown)
        if not text:
            continue
        if messages and role == "assistant" == messages[-1].role:
            text = messages.pop().content + text
        messages.append(Message(role, text))
    return messages


def text_of(shown: Shown) -> str:
    """The text parts of a message as they were written."""
    content = shown.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return written.unescape("".join(text for text in texts if isinstance(text, str)))


def stopped(history: Iterable[Shown]) -> list[Shown]:
    """The history with what was written so far kept and marked; what was only waited for is gone."""
    kept: list[Shown] = []
    for shown in history:
        pending = (shown.get("metadata") or {}).get("status") == "pending"
        if pending and text_of(shown):
            kept.append({**shown, "metadata": {"title": "Thought, until it was stopped", "status": "done"}})
        elif not pending:
            kept.append(shown)
    return [*kept, note("Stopped.")]


def split_last_turn(history: Sequence[Shown]) -> tuple[list[Shown], str]:
    """The history before the last user's message, and that message's text ("" where there is none)."""
    for index in range(len(history) - 1, -1, -1):
        if history[index].get("role") == "user":
            return list(history[:index]), text_of(history[index])
    return list(history), ""


@dataclass
class GrowingReply:
    """A reply as it comes in, its times in seconds on the page's clock."""

    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    dropped: int = 0
    prompt_tokens: int | None = None
    finish: Finish | None = None
    started: float = field(default_factory=time.perf_counter)
    first_text_at: float | None = None
    thought_at: float | None = None

    def add(self, deltas: Iterable[ReplyDelta]) -> None:
        """Take in the deltas that have come."""
        for delta in deltas:
            if delta.prompt is not None:
                self.prompt_tokens, self.dropped = len(delta.prompt.token_ids), delta.prompt.dropped
            if (delta.text or delta.reasoning) and self.first_text_at is None:
                self.first_text_at = time.perf_counter()
            if delta.text and self.reasoning and self.thought_at is None:
                self.thought_at = time.perf_counter()
            self.text += delta.text
            self.reasoning += delta.reasoning
            self.tokens += delta.tokens
            self.finish = delta.finish or self.finish

    def shown(self, waiting_for: str) -> list[Shown]:
        """The messages to show; `waiting_for` says what goes on before the first text."""
        shown: list[Shown] = []
        if self.dropped:
            plural = "s were" if self.dropped > 1 else " was"
            shown.append(note(f"The {self.dropped} oldest message{plural} left out: the conversation is too long."))
        if self.reasoning:
            shown.append(self._thought())
        if self.text:
            shown.append({"role": "assistant", "content": _text(self.text)})
        elif not self.reasoning and self.finish is None:
            shown.append(_titled("", {"title": waiting_for, "status": "pending"}))
        elif not self.reasoning:
            shown.append(note("The model ended its reply without writing anything."))
        if self.finish is not None and self.finish.reason == "length":
            shown.append(note("The reply reached the longest length allowed."))
        return shown

    def speed(self) -> str:
        """Tokens, tokens/s and time to the first text, so far or in the end."""
        if self.first_text_at is None:
            return ""
        first = self.first_text_at - self.started
        if self.finish is not None:
            rate = self.finish.tokens_per_second
        else:
            rate = (self.tokens - 1) / max(time.perf_counter() - self.first_text_at, 1e-3)
        speed = f"{rate:.1f} tokens/s · " if self.tokens > 1 else ""
        return f"{self.tokens} token{'s' if self.tokens != 1 else ''} · {speed}first after {first:.2f} s"

    def _thought(self) -> Shown:
        if self.thought_at is None and self.finish is None:
            return _titled(self.reasoning, {"title": "Thinking …", "status": "pending"})
        seconds = (self.thought_at or time.perf_counter()) - (self.first_text_at or self.started)
        return _titled(self.reasoning, {"title": f"Thought for {seconds:.1f} s", "status": "done"})


def _titled(text: str, metadata: dict[str, Any]) -> Shown:
    return {"role": "assistant", "content": _text(text), "metadata": metadata}


def _text(text: str) -> Shown:
    """Text as a part of its own: a bare string would lose its tabs, indents and edge newlines (inspect.cleandoc)."""
    return {"type": "text", "text": written.escape(text)}


def _plain(text: str) -> str:
    """Text inside markup, where neither Markdown nor LaTeX may find anything to set."""
    escaped = html.escape(text).replace("\n", "<br>")
    return escaped.replace("$", "$<span></span>").replace("\\", "\\<span></span>")


def _aside(markup: str) -> Shown:
    """Our own words beside the conversation. gr.HTML would need `unsafe-eval`; Markdown shows markup as well."""
    return {"role": "assistant", "content": {"type": "text", "text": markup}, "metadata": {"id": ASIDE}}
