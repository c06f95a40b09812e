"""A conversation's path -> what gr.Chatbot shows, with the bars and notes around it, and a reply while it grows."""

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from chatui.chat import Finish
from chatui.errors import ChatError
from chatui.i18n import N_, _, joined, ngettext, number, translated
from chatui.runner import ReplyProgress
from chatui.store.records import Path, StoredMessage
from chatui.store.rows import shown_size
from chatui.ui.chat import markdown_escape
from chatui.ui.chat.tab_state import MESSAGES_SHOWN
from chatui.ui.page import page_language

Shown = dict[str, Any]
"""One message as gr.Chatbot takes it."""

PHASE_DELAY_SECONDS = 0.2
"""What is over sooner is not named: a line that changes as soon as it is there only flickers."""

CHARACTERS_SHOWN = 300_000
"""Characters for every MESSAGES_SHOWN messages that the chat shows: what a browser can still set in a second."""

ENDED = {
    "stopped": N_("Stopped."),
    "interrupted": N_("Interrupted: the server ended before this reply did."),
}
LENGTH = N_("The reply reached the longest length allowed.")
EMPTY_REPLY = N_("The model ended its reply without writing anything.")


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

    def and_then(self, message: StoredMessage, shown: Sequence[Shown]) -> "View":
        """The same with this message at its end."""
        longer = View([*self.shown], [*self.ids], [*self.ratings])
        longer.add(message, shown)
        return longer


def most(messages: int) -> tuple[int, int]:
    """Where a chat shows so many messages: how many, and how many characters together."""
    return messages, CHARACTERS_SHOWN * -(-messages // MESSAGES_SHOWN)


def end(path: Path, most: int, room: int) -> Path:
    """As OwnerStore.visible_path(), of a path that has been read."""
    count = 0
    for message in reversed(path.messages[-most:]):
        room -= shown_size(message)
        if count and room < 0:
            break
        count += 1
    left_out = len(path.messages) - count
    return Path(path.messages[left_out:], path.earlier + left_out)


def view(path: Sequence[StoredMessage], then: StoredMessage | None = None, earlier: int = 0) -> View:
    """All that is shown of the end of a path, up to a reply that is `then` still written; `earlier` are left out."""
    made = View()
    if earlier and (first := next(iter(path), then)) is not None:
        made.add(first, [_earlier(earlier)])
    for at, message in enumerate(path):
        if message.role == "assistant":
            made.add(message, reply(message))
            continue
        made.add(message, [{"role": "user", "content": _text(message.content)}])
        # What Gradio reports of a group of replies names its first thing: so this belongs to the reply.
        follower = path[at + 1] if at + 1 < len(path) else then or message
        made.add(follower, [_bar(message)])
    return made


def reply(
    message: StoredMessage,
    growing: ReplyProgress | None = None,
    waiting_for: str = "",
    unkept: ChatError | None = None,
) -> list[Shown]:
    """What is shown of a reply, `growing` while it is written here; `waiting_for` says what goes on before the text.

    `unkept` says why the store does not take it.
    """
    shown: list[Shown] = []
    if growing is not None and growing.dropped:
        shown.append(
            note(
                ngettext(
                    "The {count} oldest message was left out: the conversation is too long.",
                    "The {count} oldest messages were left out: the conversation is too long.",
                    growing.dropped,
                )
            )
        )
    if message.reasoning:
        shown.append(_thought(message, growing))
    if message.content:
        shown.append({"role": "assistant", "content": _text(message.content)})
    elif message.state == "running" and not message.reasoning:
        shown.append(_titled("", {"title": waiting_for or _("In the queue …"), "status": "pending"}))
    if unkept is not None:
        shown.append(note(_("Not saved yet: {cause} It will be saved as soon as that is over.", cause=_cause(unkept))))
    if message.state == "running":
        return shown
    ending = _ending(message)
    if ending is not None:
        shown.append(ending)
    shown.append(_bar(message))
    return shown


def card(error: ChatError) -> Shown:
    """A failure: its cause and what to do about it."""
    return _card(*page_language.error_in_language(error))


def note(text: str) -> Shown:
    """A quiet line about the reply: what was left out, that it was stopped."""
    return _aside(f'<p class="chat-note">{plain(text)}</p>')


def phase(growing: ReplyProgress) -> str:
    """What goes on before the first text, once the model is there."""
    if time.perf_counter() - growing.started < PHASE_DELAY_SECONDS:
        return _("In the queue …")
    if growing.prompt is not None:
        count = len(growing.prompt.token_ids)
        if growing.read is None:
            return ngettext("Reading {count} token …", "Reading {count} tokens …", count)
        return _("Reading {read} of {count} tokens …", read=growing.read, count=count)
    if growing.place is None:
        return _("In the queue …")
    if growing.place == 1:
        return _("In the queue: next …")
    return _("In the queue: position {place} …", place=growing.place)


def speed(growing: ReplyProgress) -> str:
    """Tokens, tokens/s and time to the first text, so far or in the end; then also what was not read again."""
    if growing.first_text_at is None:
        return ""
    first = growing.first_text_at - growing.started
    if growing.finish is not None:
        rate = growing.finish.tokens_per_second
    else:
        rate = (growing.tokens - 1) / max(time.perf_counter() - growing.first_text_at, 1e-3)
    parts: list[str] = []
    if growing.finish is not None and growing.finish.cached_tokens:
        known = {"count": growing.finish.prompt_tokens, "known": growing.finish.cached_tokens}
        parts.append(_("{count} tokens in, {known} cached", **known))
    parts.append(ngettext("{count} token", "{count} tokens", growing.tokens))
    if growing.tokens > 1:
        parts.append(_("{speed} tokens/s", speed=number(rate, 1)))
    parts.append(_("first after {seconds} s", seconds=number(first, 2)))
    return joined(parts)


def text_of(content: Any) -> str:
    """The text of an edited message as it was written."""
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return markdown_escape.unescape("".join(text for text in texts if isinstance(text, str)))


def plain(text: str) -> str:
    """Text inside markup, where neither Markdown nor LaTeX may find anything to set."""
    escaped = html.escape(text).replace("\n", "<br>")
    return escaped.replace("$", "$<span></span>").replace("\\", "\\<span></span>")


def can_go_on(message: StoredMessage) -> bool:
    """Whether Continue makes sense: the reply was cut, by its length, by Stop or by the end of the server."""
    cut = message.state in ("stopped", "interrupted") or _by_length(message)
    return cut and bool(message.content or message.reasoning)


def _cause(error: ChatError) -> str:
    return page_language.error_in_language(error)[0]


def _by_length(message: StoredMessage) -> bool:
    return message.finish is not None and message.finish.reason == "length"


def _ending(message: StoredMessage) -> Shown | None:
    """What is said below a reply that did not simply end."""
    if message.state == "failed":
        cause, remedy = message.error.partition("\n")[::2]
        return _card(translated(cause), translated(remedy))
    if message.state in ENDED:
        return note(" ".join(map(translated, message.error.split("\n"))) if message.error else _(ENDED[message.state]))
    if _by_length(message):
        return note(_(LENGTH))
    return None if message.content or message.reasoning else note(_(EMPTY_REPLY))


def _bar(message: StoredMessage) -> Shown:
    """The versions of a message, with what can be done from here; links that chatui.js sends as actions."""
    versions = message.versions or (message.id,)
    at = versions.index(message.id) if message.id in versions else 0
    parts: list[str] = []
    if len(versions) > 1:
        parts += [
            _turn_to(versions[at - 1] if at else "", "‹", _("Previous version")),
            f"<span>{at + 1}/{len(versions)}</span>",
            _turn_to(versions[at + 1] if at + 1 < len(versions) else "", "›", _("Next version")),
        ]
    if can_go_on(message):
        parts.append(f'<a class="act go-on" href="#continue={quote(message.id)}">{_("Continue")}</a>')
    if message.role == "assistant" and message.author is not None:
        parts.append(f'<a class="act inspect" href="#inspect={quote(message.id)}">{_("Inspect")}</a>')
    parts.append(f'<a class="act branch" href="#branch={quote(message.id)}">{_("Branch")}</a>')
    if message.rating:
        label = (
            _("Note: {note}", note=f'<span class="noted">{plain(message.note)}</span>')
            if message.note
            else _("Add a note")
        )
        parts.append(f"<span>{_('Liked') if message.rating == 'like' else _('Disliked')}</span>")
        parts.append(f'<a class="act annotate" href="#note={quote(message.id)}">{label}</a>')
    if message.finish is not None:
        parts.append(_took(message.finish))
    side = "question" if message.role == "user" else "answer"
    return _aside(f'<p class="chat-bar {side}">{" ".join(parts)}</p>')


def _took(finish: Finish) -> str:
    """How long a reply took, and how fast it was written."""
    parts = [_duration(finish.queue_seconds + finish.prefill_seconds + finish.decode_seconds)]
    if finish.completion_tokens > 1 and finish.decode_seconds > 0:
        speed = finish.tokens_per_second
        parts.append(_("{speed} tokens/s", speed=number(speed, 1 if speed < 10 else 0)))
    told = ngettext(
        "Queue {waiting}, prefill {reading}, decode {writing}: {count} token.",
        "Queue {waiting}, prefill {reading}, decode {writing}: {count} tokens.",
        finish.completion_tokens,
        waiting=_duration(finish.queue_seconds),
        reading=_duration(finish.prefill_seconds),
        writing=_duration(finish.decode_seconds),
    )
    return f'<span class="took" title="{html.escape(told)}">{joined(parts)}</span>'


def _duration(seconds: float) -> str:
    """A time for people: tenths of a second below ten, minutes above one hundred."""
    if seconds >= 100:
        minutes, rest = divmod(round(seconds), 60)
        return _("{minutes} min {seconds} s", minutes=minutes, seconds=rest)
    return _("{seconds} s", seconds=number(seconds, 1 if seconds < 10 else 0))


def _earlier(messages: int) -> Shown:
    label = ngettext("Show the {count} earlier message", "Show more of the {count} earlier messages", messages)
    return _aside(f'<p class="chat-bar earlier"><a class="act" href="#earlier">{plain(label)}</a></p>')


def _turn_to(version: str, label: str, name: str) -> str:
    if not version:
        return f'<span class="off">{label}</span>'
    return f'<a class="act named" href="#version={quote(version)}" title="{name}">{label}</a>'


def _thought(message: StoredMessage, growing: ReplyProgress | None) -> Shown:
    thinking = message.state == "running" and not message.content
    if thinking:
        return _titled(message.reasoning, {"title": _("Thinking …"), "status": "pending"})
    title = _("Thought") if message.content else _("Thought, until it was cut off")
    if growing is not None and growing.thought_at is not None:
        seconds = growing.thought_at - (growing.first_text_at or growing.started)
        title = _("Thought for {seconds} s", seconds=number(seconds, 1))
    return _titled(message.reasoning, {"title": title, "status": "done"})


def _titled(text: str, metadata: dict[str, Any]) -> Shown:
    return {"role": "assistant", "content": _text(text), "metadata": metadata}


def _text(text: str) -> Shown:
    """Text as a part of its own: a bare string would lose its tabs, indents and edge newlines (inspect.cleandoc)."""
    return {"type": "text", "text": markdown_escape.escape(text)}


def _card(cause: str, remedy: str) -> Shown:
    return _aside(f'<div class="chat-card"><strong>{plain(cause)}</strong><span>{plain(remedy)}</span></div>')


def _aside(markup: str) -> Shown:
    """Our own words beside the conversation. gr.HTML would need `unsafe-eval`; Markdown shows markup as well."""
    return {"role": "assistant", "content": {"type": "text", "text": markup}}
