"""Messages -> Prompt through the model's own chat template, and what that template can and cannot do."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatui.chat import Message, Prompt, Role, SystemRole, TemplateFacts
from chatui.engine.text import spans, template_arguments, template_limit, thinking, thinking_tags
from chatui.engine.text.thinking_tags import HARMONY, THINK, Tags, opened_by
from chatui.errors import ModelError, PromptError, TooLongError
from chatui.settings import GenerationSettings
from chatui.thinking_controls import NO_CONTROLS, TemplateArguments, ThinkingControls

PROBE = "qzprobe"
OPENING = "[The conversation begins.]"
"""What a user says before the assistant's first message, where the template wants the user to begin."""
TOOL = {
    "type": "function",
    "function": {
        "name": PROBE,
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {"what": {"type": "string", "description": "What to probe."}},
            "required": ["what"],
        },
    },
}


@dataclass(frozen=True)
class Template:
    """What the probe found out about a chat template; `tags` where the model thinks between some.

    `response` is the model's response template, where that tells more of its thoughts than tags do. `inner_ids` end a
    part of a reply, and no reply. `tools` where it tells the model of functions to call, `takes_parts` where it wants a
    message's content as a list of parts and not as a string. `controls` are those of its thinking, and `arguments` what
    it is given besides the messages. `longest_token` is the length of the vocabulary's longest one, in characters.
    """

    takes_system: bool
    needs_alternation: bool
    end_ids: frozenset[int]
    tags: Tags | None
    tools: bool
    takes_later_system: bool = True
    takes_reply_first: bool = True
    takes_parts: bool = False
    response: dict[str, Any] | None = None
    inner_ids: frozenset[int] = frozenset()
    controls: ThinkingControls = NO_CONTROLS
    arguments: TemplateArguments = field(default_factory=dict)
    longest_token: int = sys.maxsize

    def with_settings(self, settings: GenerationSettings) -> "Template":
        """The template with the arguments that these settings ask for."""
        return replace(self, arguments=self.controls.arguments(settings))

    @property
    def thinks(self) -> bool:
        """Whether the model marks what it thinks."""
        return self.tags is not None or self.response is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user of this model should know, in whole sentences."""
        notes = []
        if not self.takes_system:
            notes.append("This model has no system role: the persona is put at the start of the first message.")
        if self.needs_alternation:
            notes.append("This model wants turns to alternate: messages in a row from one side are joined.")
        return tuple(notes)

    def facts(self, text: str) -> TemplateFacts:
        """What is known of the template, which is this text."""
        system: SystemRole = "native" if self.takes_system else "folded"
        return TemplateFacts(
            text,
            system,
            self.needs_alternation,
            self.thinks,
            self.tools,
            parts=self.takes_parts,
            controls=self.controls,
        )


def probe(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Try the template on small conversations.

    Raises ModelError where there is none, it fails on the simplest, or it does not come to an end.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "This model has no chat template, so it does not know what a conversation looks like.",
            "Choose a model made for chatting; their names often end in -Instruct or -it. If you have its template, "
            "give it with --chat-template FILE.",
        )
    with template_limit.enforced():
        return _probed(tokenizer)


def _probed(tokenizer: PreTrainedTokenizerBase) -> Template:
    parts = _takes_parts(tokenizer)
    takes_system = _takes_system(tokenizer, parts)
    found = getattr(tokenizer, "response_template", None)
    response = found if thinking.is_readable(found) else None
    tags = thinking_tags.find_tags(tokenizer.get_chat_template(), tokenizer.get_added_vocab(), response)
    inner = {"<|end|>"} & set(tokenizer.get_added_vocab()) if tags is HARMONY else set()
    inner_ids = frozenset(tokenizer.get_added_vocab()[token] for token in inner)
    return Template(
        takes_system=takes_system,
        needs_alternation=_needs_alternation(tokenizer, parts),
        end_ids=_end_of_turn(tokenizer, parts) - inner_ids,
        tags=tags,
        tools=_tells_of_tools(tokenizer, parts),
        takes_later_system=takes_system and _takes_later_system(tokenizer, parts),
        takes_reply_first=_takes_reply_first(tokenizer, takes_system, parts),
        takes_parts=parts,
        response=response if tags is None else None,
        inner_ids=inner_ids,
        controls=_thinking_controls(tokenizer, parts, tags) if tags or response else NO_CONTROLS,
        longest_token=max(map(len, tokenizer.get_vocab())),
    )


def _thinking_controls(tokenizer: PreTrainedTokenizerBase, parts: bool, tags: Tags | None) -> ThinkingControls:
    def render(**arguments: bool | int | str) -> str | None:
        return _try_render(tokenizer, _numbered(["user"]), parts=parts, arguments=arguments)

    return template_arguments.find(tokenizer.get_chat_template(), render, closes=tags is not None)


def _takes_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template shows more of a conversation whose contents are lists of parts than of one in strings.

    A template that goes through parts finds none in a string, and mostly says nothing of it. Raises ModelError where
    what the user says is shown of neither.
    """
    kept = {parts: _shapes_kept(tokenizer, parts) for parts in (False, True)}
    if "user" in kept[False] or "user" in kept[True]:
        return "user" not in kept[False] or ("user" in kept[True] and len(kept[True]) > len(kept[False]))
    try:
        _render(tokenizer, _numbered(["user"]))
    except Exception as error:
        raise ModelError(
            f"This model's chat template does not work: {_first_line(error)}.", "Try another model or revision."
        ) from error
    raise ModelError(
        "This model's chat template does not work: it leaves out what the user says.",
        "Try another model or revision, or give a template with --chat-template FILE.",
    )


def _shapes_kept(tokenizer: PreTrainedTokenizerBase, parts: bool) -> set[str]:
    """Of these conversations, those of which the template writes every message, and none as Python writes a list."""
    shapes = ("user", "system user", "user assistant user")
    texts = {shape: _in_order(tokenizer, _numbered(shape.split()), parts) for shape in shapes}
    return {shape for shape, text in texts.items() if text is not None and "{'type'" not in text}


def _takes_system(tokenizer: PreTrainedTokenizerBase, parts: bool) -> bool:
    """Whether a first system message is written, wherever the template puts it, and loses nothing else."""
    for roles in ("system user", "system user assistant user"):
        messages = _numbered(roles.split())
        text = (_try_render(tokenizer, messages, parts=parts) or "").lower()
        without = (_try_render(tokenizer, messages[1:], parts=parts) or "").lower()
        if messages[0].content not in text:
            return False
        if any(message.content in without and message.content not in text for message in messages[1:]):
            return False
    return True


def _needs_alternation(tokenizer: PreTrainedTokenizerBase, parts: bool) -> bool:
    """Whether one of two messages in a row from one side is refused, or left out although it would be written alone."""
    if _try_render(tokenizer, _numbered(["user", "user"]), parts=parts) is None:
        return True
    for role in ("user", "assistant"):
        alone, twice = _numbered(["user", "assistant", "user"]), _numbered(["user", "assistant", role, "user"])
        if _in_order(tokenizer, alone, parts) is not None and _in_order(tokenizer, twice, parts) is None:
            return True
    return False


def _takes_later_system(tokenizer: PreTrainedTokenizerBase, parts: bool) -> bool:
    """Whether a system message may stand anywhere, and is told apart from what the assistant says."""
    shapes = ("user system user", "user assistant system user", "system user assistant system user", "user system")
    for roles in (*shapes, "system system user"):
        messages = _numbered(roles.split())
        text = _in_order(tokenizer, messages, parts)
        said = [
            replace(message, role="assistant") if place and message.role == "system" else message
            for place, message in enumerate(messages)
        ]
        if text is None or text == _try_render(tokenizer, said, parts=parts):
            return False
    return True


def _takes_reply_first(tokenizer: PreTrainedTokenizerBase, takes_system: bool, parts: bool) -> bool:
    shapes = ["assistant user", "assistant user assistant user"]
    shapes += ["system assistant user"] if takes_system else []
    return all(_in_order(tokenizer, _numbered(roles.split()), parts) is not None for roles in shapes)


def _numbered(roles: Sequence[str]) -> list[Message]:
    """Messages of these roles, no two of which say the same."""
    adapter: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
    return [Message(adapter[role], f"{PROBE} {place}.") for place, role in enumerate(roles)]


def _in_order(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], parts: bool) -> str | None:
    """What the template writes of the messages, if it writes all of them in their order."""
    text = _try_render(tokenizer, messages, parts=parts)
    places = [text.lower().find(message.content) for message in messages] if text is not None else [-1]
    return text if -1 not in places and places == sorted(places) else None


def guard(tokenizer: PreTrainedTokenizerBase) -> None:
    """Name every control token, so that one which a person types is encoded as the text it is.

    Left out are added tokens that ordinary text makes too, such as Gemma's runs of newlines.
    """
    tokenizer.chat_control_tokens = [
        token.content
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token_id not in tokenizer._encode_without_added_tokens("\n" + token.content)
    ]


def begun(template: Template, messages: Sequence[Message]) -> Message | None:
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
    reply = begun(template, messages)
    messages = _asked(messages)
    system = [message for message in messages[:1] if message.role == "system"]
    turns = list(messages[len(system) :])
    starts = _starts(turns)

    def draft(start: int) -> _Draft | None:
        """The conversation from this turn on, None where it is too long."""
        asked = system + turns[start:]
        if _least_tokens(template, asked, reply) > limit:
            return None
        drafted = _draft(tokenizer, template, asked, reply, known)
        return drafted if drafted.tokens <= limit else None

    def tokens(start: int) -> str:
        asked = system + turns[start:]
        least = _least_tokens(template, asked, reply)
        return f"{least:,}+" if least > limit else f"{_draft(tokenizer, template, asked, reply, known).tokens:,}"

    if (all_of_it := draft(0)) is not None:
        return _finished(tokenizer, template, all_of_it, 0)
    if whole:
        raise TooLongError(
            f"The conversation takes {tokens(0)} tokens; this model has room for {limit:,}.",
            "Send fewer or shorter messages.",
        )
    low, high = 1, len(starts) - 1
    fitting: tuple[_Draft, int] | None = None
    while low <= high:
        middle = (low + high) // 2
        shorter = draft(starts[middle])
        if shorter is not None:
            fitting, high = (shorter, starts[middle]), middle - 1
        else:
            low = middle + 1
    if fitting is None:
        needed = tokens(starts[-1])
        parts, rest = (
            (" and the persona", "") if reply is None else (", the persona and the reply so far", "rest of the ")
        )
        raise TooLongError(
            f"The message{parts} take {needed} tokens; this model has room for {limit:,} besides the {rest}reply.",
            "Shorten the message or the persona, or allow a shorter reply.",
        )
    return _finished(tokenizer, template, *fitting)


def _least_tokens(template: Template, messages: Sequence[Message], reply: Message | None) -> int:
    """Tokens that the messages take at least, since none stands for more characters than its own name has.

    So what is far too long is refused before it is encoded, which takes a second for each MB of text.
    """
    characters = sum(len(message.content) for message in [*messages, *([reply] if reply else [])])
    return characters // template.longest_token


def encode_messages(
    tokenizer: PreTrainedTokenizerBase, template: Template, messages: Sequence[Message]
) -> Sequence[int]:
    """The token ids of a conversation as the chat template writes it without a reply to come. Raises PromptError."""
    try:
        marked = _marked(tokenizer, _fit_roles(template, list(messages)))
        text = _render(tokenizer, marked, False, template.takes_parts, template.arguments)
        return spans.encode(tokenizer, text, None).ids
    except Exception as error:
        raise _refused(error) from error


def _refused(error: Exception) -> PromptError:
    return PromptError(
        f"The model's chat template refused this conversation: {_first_line(error)}.", "Start a new chat."
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
        began = perf_counter()
        text = _written(tokenizer, template, messages, reply)
        written = perf_counter()
        encoded = spans.encode(tokenizer, text, known)
    except Exception as error:
        raise _refused(error) from error
    return _Draft(messages, reply, text, encoded, written - began, perf_counter() - written)


def _finished(tokenizer: PreTrainedTokenizerBase, template: Template, draft: _Draft, dropped: int) -> Prompt:
    """The prompt, with where each token of it came from."""
    text = spans.shown(draft.text)
    ends = spans.ends(tokenizer, draft.text, draft.encoded)
    found = spans.regions(text, draft.messages, lambda tagged: _written(tokenizer, template, tagged, draft.reply))
    fitted = _fit_roles(template, draft.messages)
    closed = _try_render(tokenizer, _marked(tokenizer, fitted), False, template.takes_parts, template.arguments) or ""
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
        notes=(*_notes(template, draft.messages), *_left_out(tokenizer, template, text, fitted)),
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
            replace(message, content=f"{message.content} {PROBE}{place}.") if place in lost else message
            for place, message in enumerate(fitted)
        ]
        written = _try_render(tokenizer, marked, parts=template.takes_parts, arguments=template.arguments) or ""
        written = written.lower()
        lost = [place for place in lost if f"{PROBE}{place}." not in written]
    asked = max(place for place, message in enumerate(fitted) if message.role == "user")
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
    """The places of the messages that the text does not have to the letter, one behind the other."""
    places, behind = [], 0
    for place, message in enumerate(messages):
        content = message.content.strip()
        if message.role == "system":
            found = text.find(content)
        else:
            found = text.find(content, behind)
            behind = max(behind, found + len(content))
        if found < 0:
            places.append(place)
    return places


def _notes(template: Template, messages: Sequence[Message]) -> tuple[str, ...]:
    """What of these messages the template does not take as they are, and what was done instead."""
    said = [message for message in messages if message.role != "system" or message.content.strip()]
    notes = []
    if not template.takes_later_system and any(message.role == "system" for message in said[1:]):
        notes.append(
            "This model takes no system message inside a conversation: it was put into the user's messages, where it "
            "stood."
        )
    first = next((message for message in said if message.role != "system"), None)
    if first and first.role == "assistant" and _opened(template, said):
        notes.append(
            f"This model wants the user to speak first: “{OPENING}” was put before the assistant's first message."
        )
    return tuple(notes)


def _asked(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages without the start of the reply. Raises PromptError where they do not ask for one."""
    if messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    asked = [message for message in messages if message.role == "user"]
    if not asked or not asked[-1].content.strip():
        raise PromptError("There is no message to answer.", "Type one and send it.")
    return messages


def _fit_roles(template: Template, messages: list[Message]) -> list[Message]:
    """Fold what the template refuses into users' messages, and join neighbours of one role where it asks for that."""
    said = [message for message in messages if message.role != "system" or message.content.strip()]
    if _opened(template, said):
        place = next(index for index, message in enumerate(said) if message.role != "system")
        said.insert(place, Message("user", OPENING))
    fitted: list[Message] = []
    loose = False
    for place, message in enumerate(said):
        folded = message.role == "system" and not (template.takes_later_system if place else template.takes_system)
        if folded:
            message = replace(message, role="user")
        joins = bool(fitted) and fitted[-1].role == message.role
        if joins and (template.needs_alternation or loose or (folded and message.role == "user")):
            fitted[-1] = replace(fitted[-1], content=f"{fitted[-1].content}\n\n{message.content}")
            loose = False
        else:
            fitted.append(message)
            loose = folded
    return fitted


def _opened(template: Template, said: Sequence[Message]) -> bool:
    """Whether an assistant's first message needs one of the user's before it; a folded system message is one."""
    first = next((index for index, message in enumerate(said) if message.role != "system"), 0)
    begins = bool(said) and said[first].role == "assistant"
    folded = (first > 1 and not template.takes_later_system) or (first == 1 and not template.takes_system)
    return begins and not template.takes_reply_first and not folded


def _written(
    tokenizer: PreTrainedTokenizerBase, template: Template, messages: list[Message], reply: Message | None
) -> str:
    """The conversation as text; control tokens that a person typed are marked."""
    if reply is not None:
        return _up_to(tokenizer, template, messages, reply)
    return _before_reply(tokenizer, template, _marked(tokenizer, _fit_roles(template, messages)))


def _before_reply(tokenizer: PreTrainedTokenizerBase, template: Template, marked: Sequence[Message]) -> str:
    """What the template writes up to the reply, with its arguments."""
    return _render(tokenizer, marked, parts=template.takes_parts, arguments=template.arguments)


def _up_to(tokenizer: PreTrainedTokenizerBase, template: Template, messages: list[Message], reply: Message) -> str:
    """The conversation as text up to where the reply ends; control tokens that a person typed are marked.

    Templates trim a reply, drop its thoughts or close them: only what comes before it is left to them.
    """
    (marked,) = _marked(tokenizer, [reply])
    if not reply.reasoning:
        return _before_content(tokenizer, template, messages) + marked.content
    before = _before_reply(tokenizer, template, _marked(tokenizer, _fit_roles(template, messages)))
    opened, tags = opened_by(before, template.tags), template.tags or THINK
    thought = before + ("" if opened else tags.opened) + marked.reasoning
    return thought + (opened or tags).closed + marked.content if reply.content else thought


def _before_content(tokenizer: PreTrainedTokenizerBase, template: Template, messages: list[Message]) -> str:
    """The text before the content of a reply without thoughts, by the template if it places a final message."""
    fitted = _fit_roles(template, [*messages, Message("assistant", PROBE)])
    try:
        placed = str(
            tokenizer.apply_chat_template(
                _as_dicts(_marked(tokenizer, fitted), template.takes_parts),
                continue_final_message=True,
                tokenize=False,
                **template.arguments,
            )
        )
    except Exception:
        placed = ""
    asked = _marked(tokenizer, _fit_roles(template, messages))
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


NO_ARGUMENTS: TemplateArguments = {}


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    reply: bool = True,
    parts: bool = False,
    arguments: TemplateArguments = NO_ARGUMENTS,
) -> str:
    written: Any = tokenizer.apply_chat_template(
        _as_dicts(messages, parts), add_generation_prompt=reply, tokenize=False, **arguments
    )
    return str(written)


def _try_render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    reply: bool = True,
    parts: bool = False,
    arguments: TemplateArguments = NO_ARGUMENTS,
) -> str | None:
    """None where the template refuses; a template is a program and may fail in any way."""
    try:
        return _render(tokenizer, messages, reply, parts, arguments)
    except Exception:
        return None


def _tells_of_tools(tokenizer: PreTrainedTokenizerBase, parts: bool) -> bool:
    """Whether the template writes the name of a function that it is given."""
    hello = _as_dicts([Message("user", "Hi")], parts)
    try:
        with_tool = tokenizer.apply_chat_template(hello, tools=[TOOL], tokenize=False)
    except Exception:
        return False
    return PROBE in str(with_tool)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, parts: bool) -> frozenset[int]:
    """The control token that the template writes right behind a reply, if it writes one."""
    messages = [Message("user", "Hi " + PROBE), Message("assistant", PROBE)]
    rest = (_try_render(tokenizer, messages, False, parts) or "").rpartition(PROBE)[2].lstrip()
    ids = tokenizer.encode(rest, add_special_tokens=False) if rest else []
    return frozenset(ids[:1]) & frozenset(tokenizer.added_tokens_decoder)


def _as_dicts(messages: Sequence[Message], parts: bool) -> list[dict[str, Any]]:
    """The messages as templates take them, their contents as strings or as lists of one part."""
    return [
        {"role": message.role, "content": [{"type": "text", "text": message.content}] if parts else message.content}
        for message in messages
    ]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
