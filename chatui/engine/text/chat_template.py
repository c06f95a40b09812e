"""Renders a model's chat template, and finds out by trying what it can and cannot do."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatui.chat import Message, Role, SystemRole, TemplateFacts
from chatui.engine.text import response_template, template_arguments, template_limit
from chatui.errors import ModelError
from chatui.generation_settings import GenerationSettings
from chatui.reply_text import thinking_tags
from chatui.reply_text.thinking_tags import HARMONY, Tags
from chatui.thinking_controls import NO_CONTROLS, TemplateArguments, ThinkingControls

PROBE = "qzprobe"
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
NO_ARGUMENTS: TemplateArguments = {}


@dataclass(frozen=True)
class Template:
    """What probe() found out about a chat template; `tags` where the model thinks between some.

    `response` is the model's response template, where that tells more of its thoughts than tags do. `inner_ids` end a
    part of a reply, and no reply. `tools` where it tells the model of functions to call, `takes_parts` where it wants a
    message's content as a list of parts and not as a string. `controls` are those of its thinking, and `arguments` what
    it is given besides the messages. `max_token_length` is in characters.
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
    max_token_length: int = sys.maxsize

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
    response = found if response_template.is_readable(found) else None
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
        max_token_length=max(map(len, tokenizer.get_vocab())),
    )


def _thinking_controls(tokenizer: PreTrainedTokenizerBase, parts: bool, tags: Tags | None) -> ThinkingControls:
    def render(**arguments: bool | int | str) -> str | None:
        return try_render(tokenizer, _numbered(["user"]), parts=parts, arguments=arguments)

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
        render(tokenizer, _numbered(["user"]))
    except Exception as error:
        raise ModelError(
            f"This model's chat template does not work: {first_line(error)}.", "Try another model or revision."
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
        text = (try_render(tokenizer, messages, parts=parts) or "").lower()
        without = (try_render(tokenizer, messages[1:], parts=parts) or "").lower()
        if messages[0].content not in text:
            return False
        if any(message.content in without and message.content not in text for message in messages[1:]):
            return False
    return True


def _needs_alternation(tokenizer: PreTrainedTokenizerBase, parts: bool) -> bool:
    """Whether one of two messages in a row from one side is refused, or left out although it would be written alone."""
    if try_render(tokenizer, _numbered(["user", "user"]), parts=parts) is None:
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
        as_replies = [
            replace(message, role="assistant") if index and message.role == "system" else message
            for index, message in enumerate(messages)
        ]
        if text is None or text == try_render(tokenizer, as_replies, parts=parts):
            return False
    return True


def _takes_reply_first(tokenizer: PreTrainedTokenizerBase, takes_system: bool, parts: bool) -> bool:
    shapes = ["assistant user", "assistant user assistant user"]
    shapes += ["system assistant user"] if takes_system else []
    return all(_in_order(tokenizer, _numbered(roles.split()), parts) is not None for roles in shapes)


def _tells_of_tools(tokenizer: PreTrainedTokenizerBase, parts: bool) -> bool:
    """Whether the template writes the name of a function that it is given."""
    hello = as_dicts([Message("user", "Hi")], parts)
    try:
        with_tool = tokenizer.apply_chat_template(hello, tools=[TOOL], tokenize=False)
    except Exception:
        return False
    return PROBE in str(with_tool)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, parts: bool) -> frozenset[int]:
    """The control token that the template writes right behind a reply, if it writes one."""
    messages = [Message("user", "Hi " + PROBE), Message("assistant", PROBE)]
    rest = (try_render(tokenizer, messages, False, parts) or "").rpartition(PROBE)[2].lstrip()
    ids = tokenizer.encode(rest, add_special_tokens=False) if rest else []
    return frozenset(ids[:1]) & frozenset(tokenizer.added_tokens_decoder)


def _numbered(roles: Sequence[str]) -> list[Message]:
    """Messages of these roles, no two of which say the same."""
    adapter: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
    return [Message(adapter[role], f"{PROBE} {index}.") for index, role in enumerate(roles)]


def _in_order(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], parts: bool) -> str | None:
    """What the template writes of the messages, if it writes all of them in their order."""
    text = try_render(tokenizer, messages, parts=parts)
    starts = [text.lower().find(message.content) for message in messages] if text is not None else [-1]
    return text if -1 not in starts and starts == sorted(starts) else None


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    reply: bool = True,
    parts: bool = False,
    arguments: TemplateArguments = NO_ARGUMENTS,
) -> str:
    """What the template writes of the messages, and of the begin of a `reply`. Raises whatever it raises."""
    text: Any = tokenizer.apply_chat_template(
        as_dicts(messages, parts), add_generation_prompt=reply, tokenize=False, **arguments
    )
    return str(text)


def try_render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    reply: bool = True,
    parts: bool = False,
    arguments: TemplateArguments = NO_ARGUMENTS,
) -> str | None:
    """None where the template refuses; a template is a program and may fail in any way."""
    try:
        return render(tokenizer, messages, reply, parts, arguments)
    except Exception:
        return None


def as_dicts(messages: Sequence[Message], parts: bool) -> list[dict[str, Any]]:
    """The messages as templates take them, their contents as strings or as lists of one part."""
    return [
        {"role": message.role, "content": [{"type": "text", "text": message.content}] if parts else message.content}
        for message in messages
    ]


def first_line(error: Exception) -> str:
    """The first line of what the error says, without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
