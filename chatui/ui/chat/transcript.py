"""Renders a conversation's path as messages of gr.Chatbot, with bars and notes, and a reply while it is generated."""

import html
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from chatui.errors import ChatError
from chatui.i18n import N_, _, format_number, join_isolated, ngettext, translated
from chatui.running_reply import ReplyProgress
from chatui.server_facts import ServerFacts
from chatui.store.records import Path, StoredMessage
from chatui.store.rows import displayed_size
from chatui.ui.chat import reply_timing
from chatui.ui.markdown import markdown_escape
from chatui.ui.markdown.markdown_escape import plain
from chatui.ui.shared import continuing, error_messages
from chatui.ui.shared.tab_state import MESSAGE_PAGE_SIZE

ChatbotMessage = dict[str, Any]
"""One message as gr.Chatbot takes it."""

Servers = Mapping[str, ServerFacts]
"""The servers of remote models, by the names of these."""
NO_SERVERS: Servers = {}

PHASE_DELAY_SECONDS = 0.2
"""Phases that end sooner are not shown, so that the line does not flicker."""

CHARACTERS_PER_PAGE = 300_000
"""Characters for every MESSAGE_PAGE_SIZE messages that the chat shows: what a browser lays out within a second."""

ENDING_NOTES = {
    "stopped": N_("Stopped."),
    "interrupted": N_("Interrupted: the server ended before this reply did."),
}
LENGTH_NOTE = N_("The reply reached the longest length allowed.")
EMPTY_REPLY_NOTE = N_("The model ended its reply without writing anything.")


@dataclass
class ChatbotContent:
    """The messages that gr.Chatbot shows, the id of the stored message for each, and the ratings of the assistant's.

    With `names_models` the bar below each reply names the model that wrote it; `servers` are those of remote models.
    """

    messages: list[ChatbotMessage] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    ratings: list[str | None] = field(default_factory=list)
    names_models: bool = False
    servers: Servers = field(default_factory=dict)

    def add(self, message: StoredMessage, rendered: Sequence[ChatbotMessage]) -> None:
        """Append the rendered messages of this stored message."""
        rating = message.rating.capitalize() if message.rating else None
        for chatbot_message in rendered:
            self.messages.append(chatbot_message)
            self.ids.append(message.id)
            if chatbot_message["role"] == "assistant":
                self.ratings.append(rating)

    def with_message(self, message: StoredMessage, rendered: Sequence[ChatbotMessage]) -> "ChatbotContent":
        """A copy with this stored message appended."""
        copy = ChatbotContent([*self.messages], [*self.ids], [*self.ratings], self.names_models, self.servers)
        copy.add(message, rendered)
        return copy


def page_limits(messages: int) -> tuple[int, int]:
    """How many messages and characters a chat shows at most, where up to so many messages were asked for."""
    return messages, CHARACTERS_PER_PAGE * -(-messages // MESSAGE_PAGE_SIZE)


def last_messages(path: Path, max_messages: int, max_characters: int) -> Path:
    """The end of a path within these limits, at least one message: OwnerStore.visible_path() for a path in memory."""
    count = 0
    for message in reversed(path.messages[-max_messages:]):
        max_characters -= displayed_size(message)
        if count and max_characters < 0:
            break
        count += 1
    omitted = len(path.messages) - count
    return Path(path.messages[omitted:], path.earlier + omitted)


def render_path(
    path: Sequence[StoredMessage],
    running: StoredMessage | None = None,
    earlier: int = 0,
    served: Collection[str] = (),
    servers: Servers = NO_SERVERS,
) -> ChatbotContent:
    """Render the end of a path. A `running` reply that follows it is not rendered; `earlier` messages are left out.

    Replies name their model if several models are `served`, or if another one than that has written any of them.
    `servers` are those of remote models.
    """
    writers = {message.author.model for message in (*path, *([running] if running else ())) if message.author}
    content = ChatbotContent(names_models=len(writers.union(served)) > 1, servers=servers)
    if earlier and (first := next(iter(path), running)) is not None:
        content.add(first, [_earlier_link(earlier)])
    for at, message in enumerate(path):
        if message.role == "assistant":
            content.add(message, render_reply(message, names_model=content.names_models, servers=servers))
            continue
        content.add(message, [{"role": "user", "content": _text(message.content)}])
        # Gradio reports a group of replies by the index of its first one: so this bar has the id of the reply.
        follower = path[at + 1] if at + 1 < len(path) else running or message
        content.add(follower, [_bar(message)])
    return content


def render_reply(
    message: StoredMessage,
    progress: ReplyProgress | None = None,
    phase: str = "",
    save_error: ChatError | None = None,
    can_answer_now: bool = False,
    names_model: bool = False,
    servers: Servers = NO_SERVERS,
) -> list[ChatbotMessage]:
    """Render a reply: its reasoning, text, notes and bar.

    `progress` is given if the reply runs on this server, `phase` tells what happens before its first text, and
    `save_error` why it cannot be saved. `can_answer_now`: its model's thought can be ended early. With `names_model`
    its bar names the model that wrote it. `servers` are those of remote models.
    """
    rendered: list[ChatbotMessage] = []
    if message.dropped:
        rendered.append(_dropped_note(message.dropped))
    if message.reasoning:
        rendered.append(_reasoning(message, progress))
    if message.content:
        rendered.append({"role": "assistant", "content": _text(message.content)})
    elif message.state == "running" and message.reasoning and progress is not None and can_answer_now:
        rendered.append(_answer_now_link(message))
    elif message.state == "running" and not message.reasoning:
        rendered.append(_collapsible("", {"title": phase or _("In the queue …"), "status": "pending"}))
    if save_error is not None:
        rendered.append(
            note(_("Not saved yet: {cause} It will be saved as soon as that is over.", cause=_cause(save_error)))
        )
    if message.state == "running":
        return rendered
    ending = _ending(message)
    if ending is not None:
        rendered.append(ending)
    rendered.append(_bar(message, names_model, servers))
    return rendered


def _dropped_note(count: int) -> ChatbotMessage:
    return note(
        ngettext(
            "The {count} oldest message was left out: the conversation is too long.",
            "The {count} oldest messages were left out: the conversation is too long.",
            count,
        )
    )


def error_card(error: ChatError) -> ChatbotMessage:
    """An error: its cause and its remedy."""
    return _card(*error_messages.localized(error))


def note(text: str) -> ChatbotMessage:
    """A small line about a reply, for example that it was stopped."""
    return _markup(f'<p class="chat-note">{plain(text)}</p>')


def phase(progress: ReplyProgress) -> str:
    """The phase of a running reply before its first text, once the model is loaded."""
    if time.perf_counter() - progress.started_at < PHASE_DELAY_SECONDS:
        return _("In the queue …")
    if progress.prompt is not None:
        count = len(progress.prompt.token_ids)
        if not count:
            read = progress.prefilled_tokens
            return ngettext("{count} token read …", "{count} tokens read …", read) if read else _("Reading …")
        if progress.prefilled_tokens is None:
            return ngettext("Reading {count} token …", "Reading {count} tokens …", count)
        return _("Reading {read} of {count} tokens …", read=progress.prefilled_tokens, count=count)
    if progress.queue_position is None:
        return _("In the queue …")
    if progress.queue_position == 1:
        return _("In the queue: next …")
    return _("In the queue: position {position} …", position=progress.queue_position)


def speed(progress: ReplyProgress) -> str:
    """Tokens, tokens/s and time to the first text so far; for an ended reply also the cached tokens of the prompt."""
    if progress.first_text_at is None:
        return ""
    first = progress.first_text_at - progress.started_at
    if progress.finish is not None:
        rate = progress.finish.tokens_per_second
    else:
        rate = (progress.tokens - 1) / max(time.perf_counter() - progress.first_text_at, 1e-3)
    parts: list[str] = []
    if progress.finish is not None and progress.finish.cached_tokens and progress.finish.prompt_tokens:
        counts = {"count": progress.finish.prompt_tokens, "known": progress.finish.cached_tokens}
        parts.append(_("{count} tokens in, {known} cached", **counts))
    parts.append(ngettext("{count} token", "{count} tokens", progress.tokens))
    if progress.tokens > 1:
        parts.append(_("{speed} tokens/s", speed=format_number(rate, 1)))
    parts.append(_("first after {seconds} s", seconds=format_number(first, 2)))
    return join_isolated(parts)


def edited_text(content: Any) -> str:
    """The text of a message that gr.Chatbot reports as edited, without the marks of markdown_escape."""
    parts = content if isinstance(content, list) else [content]
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return markdown_escape.unescape("".join(text for text in texts if isinstance(text, str)))


def _cause(error: ChatError) -> str:
    return error_messages.localized(error)[0]


def _ending(message: StoredMessage) -> ChatbotMessage | None:
    """The note or card below a reply that was cut, failed, or is empty."""
    if message.state == "failed":
        cause, remedy = message.error.partition("\n")[::2]
        return _card(translated(cause), translated(remedy))
    if message.state in ENDING_NOTES:
        return note(
            " ".join(map(translated, message.error.split("\n"))) if message.error else _(ENDING_NOTES[message.state])
        )
    if continuing.hit_length_limit(message):
        return note(_(LENGTH_NOTE))
    return None if message.content or message.reasoning else note(_(EMPTY_REPLY_NOTE))


def _bar(message: StoredMessage, names_model: bool = False, servers: Servers = NO_SERVERS) -> ChatbotMessage:
    """The bar below a message: its versions and links, which chatui.js sends as actions."""
    versions = message.versions or (message.id,)
    at = versions.index(message.id) if message.id in versions else 0
    parts: list[str] = []
    if len(versions) > 1:
        parts += [
            _version_link(versions[at - 1] if at else "", "‹", _("Previous version")),
            f"<span>{at + 1}/{len(versions)}</span>",
            _version_link(versions[at + 1] if at + 1 < len(versions) else "", "›", _("Next version")),
        ]
    if continuing.was_cut(message):
        parts.append(_continue_link(message, servers))
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
    if message.author is not None and names_model:
        parts.append(_model_name(message.author.model))
    if message.finish is not None:
        parts.append(reply_timing.timing(message.finish))
    side = "question" if message.role == "user" else "answer"
    return _markup(f'<p class="chat-bar {side}">{" ".join(parts)}</p>')


def _continue_link(message: StoredMessage, servers: Servers) -> str:
    """The link that continues a reply; why there is none if the server of its model cannot do that."""
    server = servers.get(message.author.model) if message.author is not None else None
    reason = continuing.problem(server, message.content, message.reasoning)
    if reason:
        return f'<span class="off" title="{html.escape(translated(reason))}">{_("Continue")}</span>'
    return f'<a class="act go-on" href="#continue={quote(message.id)}">{_("Continue")}</a>'


def _model_name(model: str) -> str:
    """The model that wrote a reply, without the account of its repository, which is in the tooltip."""
    return f'<span class="writer" title="{html.escape(model)}">{plain(model.rpartition("/")[2])}</span>'


def _earlier_link(messages: int) -> ChatbotMessage:
    label = ngettext("Show the {count} earlier message", "Show more of the {count} earlier messages", messages)
    return _markup(f'<p class="chat-bar earlier"><a class="act" href="#earlier">{plain(label)}</a></p>')


def _version_link(version: str, label: str, name: str) -> str:
    if not version:
        return f'<span class="off">{label}</span>'
    return f'<a class="act named" href="#version={quote(version)}" title="{name}">{label}</a>'


def _reasoning(message: StoredMessage, progress: ReplyProgress | None) -> ChatbotMessage:
    thinking = message.state == "running" and not message.content
    if thinking:
        return _collapsible(message.reasoning, {"title": _("Thinking …"), "status": "pending"})
    title = _("Thought") if message.content else _("Thought, until it was cut off")
    if message.finish is not None and message.content and message.finish.reasoning_tokens:
        title = _thought_title(message.finish.reasoning_seconds, message.finish.reasoning_tokens)
    elif progress is not None and progress.reasoning_ended_at is not None:
        seconds = progress.reasoning_ended_at - (progress.first_text_at or progress.started_at)
        title = _thought_title(seconds, progress.reasoning_tokens)
    return _collapsible(message.reasoning, {"title": title, "status": "done"})


def _thought_title(seconds: float, tokens: int) -> str:
    shown = format_number(seconds, 1)
    return ngettext(
        "Thought for {seconds} s, {count} token", "Thought for {seconds} s, {count} tokens", tokens, seconds=shown
    )


def _answer_now_link(message: StoredMessage) -> ChatbotMessage:
    link = f'<a class="act go-on" href="#answer-now={quote(message.id)}">{_("Answer now")}</a>'
    return _markup(f'<p class="chat-bar answer">{link}</p>')


def _collapsible(text: str, metadata: dict[str, Any]) -> ChatbotMessage:
    return {"role": "assistant", "content": _text(text), "metadata": metadata}


def _text(text: str) -> ChatbotMessage:
    """Text as a content part: Gradio passes bare strings through inspect.cleandoc, which removes tabs and indents."""
    return {"type": "text", "text": markdown_escape.escape(text)}


def _card(cause: str, remedy: str) -> ChatbotMessage:
    return _markup(f'<div class="chat-card"><strong>{plain(cause)}</strong><span>{plain(remedy)}</span></div>')


def _markup(markup: str) -> ChatbotMessage:
    """A message of ours beside the conversation. gr.HTML would need `unsafe-eval`; Markdown renders markup too."""
    return {"role": "assistant", "content": {"type": "text", "text": markup}}
