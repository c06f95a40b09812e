"""Messages -> Prompt through the model's own chat template, and what that template can and cannot do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatui.chat import Message, Prompt
from chatui.errors import ModelError, PromptError

PROBE = "qzprobe"


@dataclass(frozen=True)
class Template:
    """What the probe found out about a chat template."""

    takes_system: bool
    needs_alternation: bool
    end_ids: frozenset[int]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user of this model should know, in whole sentences."""
        notes = []
        if not self.takes_system:
            notes.append("This model has no system role: the persona is put at the start of the first message.")
        if self.needs_alternation:
            notes.append("This model wants turns to alternate: messages in a row from one side are joined.")
        return tuple(notes)


def probe(tokenizer: PreTrainedTokenizerBase) -> Template:
    """Try the template on small conversations. Raises ModelError where there is none or it fails on the simplest."""
    if not tokenizer.chat_template:
        raise ModelError(
            "This model has no chat template, so it does not know what a conversation looks like.",
            "Choose a model made for chatting; their names often end in -Instruct or -it.",
        )
    user, assistant = Message("user", "Hi " + PROBE), Message("assistant", PROBE)
    system = Message("system", "system " + PROBE)
    try:
        _render(tokenizer, [user])
    except Exception as error:
        raise ModelError(
            f"This model's chat template does not work: {_first_line(error)}.", "Try another model or revision."
        ) from error
    with_system = _try_render(tokenizer, [system, user])
    return Template(
        takes_system=with_system is not None and system.content in with_system,
        needs_alternation=_try_render(tokenizer, [user, user]) is None,
        end_ids=_end_of_turn(tokenizer, [user, assistant]),
    )


def guard(tokenizer: PreTrainedTokenizerBase) -> None:
    """Name every control token, so that one which a person types is encoded as the text it is.

    Left out are added tokens that ordinary text makes too, such as Gemma's runs of newlines.
    """
    tokenizer.chat_control_tokens = [
        token.content
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token_id not in tokenizer._encode_without_added_tokens("\n" + token.content)
    ]


def build(tokenizer: PreTrainedTokenizerBase, template: Template, messages: Sequence[Message], limit: int) -> Prompt:
    """The prompt of at most `limit` tokens for a conversation that ends with a user's message.

    Where all of it is too long, the oldest turns are left out, never the system message nor the last message.
    Raises PromptError where even those two do not fit.
    """
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        raise PromptError("There is no message to answer.", "Type one and send it.")
    system = [message for message in messages[:1] if message.role == "system"]
    turns = list(messages[len(system) :])
    starts = [index for index, message in enumerate(turns) if message.role == "user"]

    def attempt(start: int) -> tuple[int, ...]:
        return _encode(tokenizer, _fit_roles(template, system + turns[start:]))

    if len(ids := attempt(starts[0])) <= limit:
        return Prompt(_text(tokenizer, ids), ids, starts[0])
    low, high = 1, len(starts) - 1
    fitting: tuple[int, tuple[int, ...]] | None = None
    while low <= high:
        middle = (low + high) // 2
        ids = attempt(starts[middle])
        if len(ids) <= limit:
            fitting, high = (starts[middle], ids), middle - 1
        else:
            low = middle + 1
    if fitting is None:
        needed = len(attempt(starts[-1]))
        raise PromptError(
            f"The message and the persona take {needed:,} tokens; this model has room for {limit:,} besides the reply.",
            "Shorten the message or the persona, or allow a shorter reply.",
        )
    return Prompt(_text(tokenizer, fitting[1]), fitting[1], fitting[0])


def _fit_roles(template: Template, messages: list[Message]) -> list[Message]:
    """Fold the system message and join neighbours of one role where the template asks for it."""
    if messages[0].role == "system":
        system, rest = messages[0], messages[1:]
        if not system.content.strip():
            messages = rest
        elif not template.takes_system:
            messages = [replace(rest[0], content=f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
    if not template.needs_alternation:
        return messages
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            joined[-1] = replace(joined[-1], content=f"{joined[-1].content}\n\n{message.content}")
        else:
            joined.append(message)
    return joined


def _encode(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[int, ...]:
    """Token ids; control tokens that a person typed are encoded as the text they are."""
    try:
        encoded: Any = tokenizer.apply_chat_template(
            _as_dicts(messages), add_generation_prompt=True, sanitize_control_tokens=True, return_dict=True
        )
    except Exception as error:
        raise PromptError(
            f"The model's chat template refused this conversation: {_first_line(error)}.", "Start a new chat."
        ) from error
    ids: list[int] = encoded["input_ids"]
    return tuple(ids)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], reply: bool = True) -> str:
    return str(tokenizer.apply_chat_template(_as_dicts(messages), add_generation_prompt=reply, tokenize=False))


def _try_render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str | None:
    """None where the template refuses; a template is a program and may fail in any way."""
    try:
        return _render(tokenizer, messages)
    except Exception:
        return None


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> frozenset[int]:
    """The control token that the template writes right behind a reply, if it writes one."""
    try:
        text = _render(tokenizer, messages, reply=False)
    except Exception:
        return frozenset()
    rest = text.rpartition(PROBE)[2].lstrip()
    ids = tokenizer.encode(rest, add_special_tokens=False) if rest else []
    return frozenset(ids[:1]) & frozenset(tokenizer.added_tokens_decoder)


def _as_dicts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
