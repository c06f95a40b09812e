"""Messages -> Prompt through the model's own chat template."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from transformers import PreTrainedTokenizerBase

from chatui.chat import Message, Prompt
from chatui.engine.text import spans
from chatui.engine.text.chat_template import PROBE, Template, as_dicts, first_line, render, try_render
from chatui.engine.text.message_roles import fit_roles, role_notes
from chatui.errors import PromptError, TooLongError
from chatui.reply_text.thinking_tags import THINK, opened_by


def set_control_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Name every control token to the tokenizer, so that one which a person types is encoded as the text it is.

    Left out are added tokens that ordinary text makes too, such as Gemma's runs of newlines.
    """
    tokenizer.chat_control_tokens = [
        token.content
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token_id not in tokenizer._encode_without_added_tokens("\n" + token.content)
    ]


def reply_prefix(template: Template, messages: Sequence[Message]) -> Message | None:
    """What there is of the reply already: the last message, if it is the assistant's and says something.

    What it thought counts only where the model thinks between tags.
    """
    if not messages or messages[-1].role != "assistant":
        return None
    reply = messages[-1] if template.tags else replace(messages[-1], reasoning="")
    return reply if reply.content or reply.reasoning else None


def build(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    messages: Sequence[Message],
    limit: int,
    whole: bool = False,
    known: spans.SectionCache | None = None,
) -> Prompt:
    """The prompt of at most `limit` tokens for a conversation that asks for a reply, or behind that begins one.

    Where all of it is too long, the oldest turns are left out, never the first system message nor the user's last
    message nor a reply to continue. What is `known` is not encoded again. Raises PromptError, TooLongError where even
    those do not fit, or where the `whole` conversation must.
    """
    reply = reply_prefix(template, messages)
    messages = _asked(messages)
    system = [message for message in messages[:1] if message.role == "system"]
    turns = list(messages[len(system) :])
    drafts = _Drafts(tokenizer, template, system, turns, reply, limit, known)
    if (complete := drafts.fitting(0)) is not None:
        return _finished(tokenizer, template, complete, 0)
    if whole:
        tokens = drafts.count(0)
        raise TooLongError(
            f"The conversation takes {tokens} tokens; this model has room for {limit:,}.",
            "Send fewer or shorter messages.",
        )
    starts = _starts(turns)
    if (longest := drafts.longest(starts)) is not None:
        return _finished(tokenizer, template, *longest)
    parts, rest = (" and the persona", "") if reply is None else (", the persona and the reply so far", "rest of the ")
    needed = drafts.count(starts[-1])
    raise TooLongError(
        f"The message{parts} take {needed} tokens; this model has room for {limit:,} besides the {rest}reply.",
        "Shorten the message or the persona, or allow a shorter reply.",
    )


def encode_messages(
    tokenizer: PreTrainedTokenizerBase, template: Template, messages: Sequence[Message]
) -> Sequence[int]:
    """The token ids of a conversation as the chat template writes it without a reply to come. Raises PromptError."""
    try:
        marked = _marked(tokenizer, fit_roles(template, list(messages)))
        text = render(tokenizer, marked, False, template.takes_parts, template.arguments)
        return spans.encode(tokenizer, text, None).ids
    except Exception as error:
        raise _refused(error) from error


def _refused(error: Exception) -> PromptError:
    return PromptError(
        f"The model's chat template refused this conversation: {first_line(error)}.", "Start a new chat."
    )


def _starts(turns: Sequence[Message]) -> list[int]:
    """Where a conversation may begin: anew, or with a user's message and the system messages right before it."""
    starts = [0]
    before = 0
    for index, message in enumerate(turns):
        if message.role != "system":
            if message.role == "user" and before:
                starts.append(before)
            before = index + 1
    return starts


@dataclass(frozen=True)
class _Draft:
    """A conversation as the template wrote it, control tokens that a person typed marked in `text`, and its tokens."""

    messages: list[Message]
    reply: Message | None
    text: str
    encoded: spans.Encoded
    template_seconds: float
    tokenize_seconds: float

    @property
    def tokens(self) -> int:
        return len(self.encoded.ids)


def _draft(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    messages: list[Message],
    reply: Message | None,
    known: spans.SectionCache | None,
) -> _Draft:
    """Written and encoded; control tokens that a person typed are encoded as the text they are."""
    try:
        started = perf_counter()
        text = _conversation_text(tokenizer, template, messages, reply)
        rendered = perf_counter()
        encoded = spans.encode(tokenizer, text, known)
    except Exception as error:
        raise _refused(error) from error
    return _Draft(messages, reply, text, encoded, rendered - started, perf_counter() - rendered)


@dataclass(frozen=True)
class _Drafts:
    """A conversation from any of its turns on, with the first system message and the reply to continue."""

    tokenizer: PreTrainedTokenizerBase
    template: Template
    system: list[Message]
    turns: list[Message]
    reply: Message | None
    limit: int
    known: spans.SectionCache | None

    def fitting(self, start: int) -> _Draft | None:
        """The conversation from this turn on, None where it takes more than `limit` tokens."""
        messages = self.system + self.turns[start:]
        if _least_tokens(self.template, messages, self.reply) > self.limit:
            return None
        draft = _draft(self.tokenizer, self.template, messages, self.reply, self.known)
        return draft if draft.tokens <= self.limit else None

    def longest(self, starts: Sequence[int]) -> tuple[_Draft, int] | None:
        """The longest conversation that fits, and which of `starts` it begins at; the first of those is too long."""
        low, high = 1, len(starts) - 1
        longest: tuple[_Draft, int] | None = None
        while low <= high:
            middle = (low + high) // 2
            shorter = self.fitting(starts[middle])
            if shorter is not None:
                longest, high = (shorter, starts[middle]), middle - 1
            else:
                low = middle + 1
        return longest

    def count(self, start: int) -> str:
        """The tokens of the conversation from this turn on; far more than fit are not counted to the end."""
        messages = self.system + self.turns[start:]
        least = _least_tokens(self.template, messages, self.reply)
        if least > self.limit:
            return f"{least:,}+"
        return f"{_draft(self.tokenizer, self.template, messages, self.reply, self.known).tokens:,}"


def _least_tokens(template: Template, messages: Sequence[Message], reply: Message | None) -> int:
    """Tokens that the messages take at least, since none stands for more characters than its own name has.

    So what is far too long is refused before it is encoded, which takes a second for each MB of text.
    """
    characters = sum(len(message.content) for message in [*messages, *([reply] if reply else [])])
    return characters // template.max_token_length


def _finished(tokenizer: PreTrainedTokenizerBase, template: Template, draft: _Draft, dropped: int) -> Prompt:
    """The prompt, with where each token of it came from."""
    text = spans.shown(draft.text)
    ends = spans.ends(tokenizer, draft.text, draft.encoded)
    found = spans.regions(
        text, draft.messages, lambda tagged: _conversation_text(tokenizer, template, tagged, draft.reply)
    )
    fitted = fit_roles(template, draft.messages)
    closed = try_render(tokenizer, _marked(tokenizer, fitted), False, template.takes_parts, template.arguments) or ""
    found.append(spans.begins(text, spans.shown(closed), found))
    given = [replace(message, reasoning="") for message in fitted]
    return Prompt(
        text=text,
        token_ids=tuple(draft.encoded.ids),
        dropped=dropped,
        spans=spans.attribute(text, ends, found),
        ends=ends,
        messages=(*given, *([draft.reply] if draft.reply else [])),
        template_seconds=draft.template_seconds,
        tokenize_seconds=draft.tokenize_seconds,
        notes=(*role_notes(template, draft.messages), *_left_out(tokenizer, template, text, fitted)),
        arguments=template.arguments,
    )


def _left_out(
    tokenizer: PreTrainedTokenizerBase, template: Template, text: str, fitted: Sequence[Message]
) -> tuple[str, ...]:
    """What of the messages the template kept to itself. Raises PromptError where that is the question to be answered.

    Some templates change what they write: a mark behind a message that is not in the text to the letter tells.
    """
    lost = _not_in(text, fitted)
    if lost:
        marked = [
            replace(message, content=f"{message.content} {PROBE}{index}.") if index in lost else message
            for index, message in enumerate(fitted)
        ]
        text = try_render(tokenizer, marked, parts=template.takes_parts, arguments=template.arguments) or ""
        text = text.lower()
        lost = [index for index in lost if f"{PROBE}{index}." not in text]
    asked = max(index for index, message in enumerate(fitted) if message.role == "user")
    if asked in lost:
        raise PromptError(
            "The model's chat template leaves out your message, or a part of it.",
            "Ask in fewer words or in a new chat, choose another model, or give a template with --chat-template FILE.",
        )
    if not lost:
        return ()
    which = "one earlier message" if len(lost) == 1 else f"{len(lost)} earlier messages"
    return (f"This model's chat template leaves out {which} of this conversation, or a part: it does not know them.",)


def _not_in(text: str, messages: Sequence[Message]) -> list[int]:
    """The indices of the messages that the text does not have to the letter, one behind the other."""
    indices, behind = [], 0
    for index, message in enumerate(messages):
        content = message.content.strip()
        if message.role == "system":
            found = text.find(content)
        else:
            found = text.find(content, behind)
            behind = max(behind, found + len(content))
        if found < 0:
            indices.append(index)
    return indices


def _asked(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages without the start of the reply. Raises PromptError where they do not ask for one."""
    if messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    asked = [message for message in messages if message.role == "user"]
    if not asked or not asked[-1].content.strip():
        raise PromptError("There is no message to answer.", "Type one and send it.")
    return messages


def _conversation_text(
    tokenizer: PreTrainedTokenizerBase, template: Template, messages: list[Message], reply: Message | None
) -> str:
    """The conversation as text; control tokens that a person typed are marked."""
    if reply is not None:
        return _up_to(tokenizer, template, messages, reply)
    return _before_reply(tokenizer, template, _marked(tokenizer, fit_roles(template, messages)))


def _before_reply(tokenizer: PreTrainedTokenizerBase, template: Template, marked: Sequence[Message]) -> str:
    """What the template writes up to the reply, with its arguments."""
    return render(tokenizer, marked, parts=template.takes_parts, arguments=template.arguments)


def _up_to(tokenizer: PreTrainedTokenizerBase, template: Template, messages: list[Message], reply: Message) -> str:
    """The conversation as text up to where the reply ends; control tokens that a person typed are marked.

    Templates trim a reply, drop its thoughts or close them: only what comes before it is left to them.
    """
    (marked,) = _marked(tokenizer, [reply])
    if not reply.reasoning:
        return _before_content(tokenizer, template, messages) + marked.content
    before = _before_reply(tokenizer, template, _marked(tokenizer, fit_roles(template, messages)))
    opened, tags = opened_by(before, template.tags), template.tags or THINK
    thought = before + ("" if opened else tags.opened) + marked.reasoning
    return thought + (opened or tags).closed + marked.content if reply.content else thought


def _before_content(tokenizer: PreTrainedTokenizerBase, template: Template, messages: list[Message]) -> str:
    """The text before the content of a reply without thoughts, by the template if it places a final message."""
    fitted = fit_roles(template, [*messages, Message("assistant", PROBE)])
    try:
        placed = str(
            tokenizer.apply_chat_template(
                as_dicts(_marked(tokenizer, fitted), template.takes_parts),
                continue_final_message=True,
                tokenize=False,
                **template.arguments,
            )
        )
    except Exception:
        placed = ""
    asked = _marked(tokenizer, fit_roles(template, messages))
    before = _before_reply(tokenizer, template, asked)
    if not placed.endswith(PROBE):
        opened = opened_by(before, template.tags)
        return before + opened.closed if opened else before
    placed = placed.removesuffix(PROBE)
    if not _loses_persona(asked, before, placed):
        return placed
    start, question, _ = before.rpartition(asked[-1].content.strip())
    return start + question + placed.rpartition(question)[2] if question else before


def _loses_persona(asked: Sequence[Message], before: str, placed: str) -> bool:
    """Whether the persona is gone once a reply is there, as where the template writes it into the last question."""
    persona = asked[0].content.strip() if asked[0].role == "system" else ""
    return bool(persona) and placed.count(persona) < before.count(persona)


def _marked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Message]:
    """The messages, the control tokens in them wrapped as `sanitize_control_tokens` expects and does itself."""
    texts = [[message.content, message.reasoning] for message in messages]
    marked, *_ = tokenizer._mark_chat_inputs(
        tokenizer.get_chat_template(), texts, None, None, {}, tokenize=True, assistant_mask=False
    )
    return [
        replace(message, content=content, reasoning=reasoning)
        for message, (content, reasoning) in zip(messages, marked, strict=True)
    ]
