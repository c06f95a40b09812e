"""Makes the body of /v1/chat/completions from a request, as a server of this dialect takes it. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chatui.chat import ChatRequest, Message
from chatui.errors import PromptError
from chatui.generation_settings import GenerationSettings
from chatui.i18n import N_
from chatui.remote.dialects import Dialect
from chatui.server_facts import NO_CONTINUED_THOUGHT, NO_CONTINUING
from chatui.thinking_controls import LEVELS, ThinkingControls

NEUTRAL = {"top_p": 1.0}
"""Values of settings that mean "off", of others 0."""
OPENING = "[The conversation begins.]"
"""What a user says before the assistant's first message, where the chat template wants the user to begin."""


@dataclass(frozen=True)
class Adjustments:
    """What a server was found to need. `left_out` are fields that it refused.

    With `folded_roles` it takes no system messages but as parts of users' ones, and users and assistants must take
    turns. `dropped` messages, the oldest, were left out to fit its context.
    """

    left_out: frozenset[str] = frozenset()
    folded_roles: bool = False
    dropped: int = 0

    def without(self, field: str) -> "Adjustments":
        """The same without one field more."""
        return replace(self, left_out=self.left_out | {field})


def build_body(request: ChatRequest, model: str, dialect: Dialect, adjustments: Adjustments) -> dict[str, Any]:
    """The body for the `model` as the server calls it. Raises PromptError if it cannot do what is asked for."""
    messages = sent_messages(request, dialect, adjustments)
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "stream": True,
        **_settings(request.settings, dialect),
        **dialect.always,
    }
    if dialect.usage_option:
        body["stream_options"] = {"include_usage": True}
    if request.trace and dialect.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": min(request.alternatives, dialect.top_logprobs)}
    if request.ignore_eos:
        body["ignore_eos"] = True
    if is_continued(request) and dialect.continues == "flag":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return {name: value for name, value in body.items() if name not in adjustments.left_out}


def is_continued(request: ChatRequest) -> bool:
    """Whether the reply goes on with the last message."""
    return bool(request.messages) and request.messages[-1].role == "assistant"


def sent_messages(request: ChatRequest, dialect: Dialect, adjustments: Adjustments) -> list[Message]:
    """The messages that are sent: none is empty, and the oldest are left out where that is needed."""
    if is_continued(request):
        if not dialect.continues:
            raise PromptError(NO_CONTINUING, N_("Use Retry, or choose another model."))
        if not request.messages[-1].content:
            raise PromptError(NO_CONTINUED_THOUGHT, N_("Use Retry, or choose another model."))
    messages = [message for message in request.messages if message.role != "system" or message.content.strip()]
    messages = without_oldest(messages, adjustments.dropped)
    return folded(messages) if adjustments.folded_roles else messages


def without_oldest(messages: Sequence[Message], count: int) -> list[Message]:
    """The messages without the `count` oldest, but with the first system message and the last message of the user."""
    head = [message for message in messages[:1] if message.role == "system"]
    turns = list(messages[len(head) :])
    return head + turns[min(count, droppable(messages)) :]


def droppable(messages: Sequence[Message]) -> int:
    """How many of the oldest messages can be left out."""
    turns = messages[1:] if messages[:1] and messages[0].role == "system" else messages
    return max((index for index, message in enumerate(turns) if message.role == "user"), default=0)


def folded(messages: Sequence[Message]) -> list[Message]:
    """The messages with system messages as parts of users' ones, and neighbours of one role joined."""
    result: list[Message] = []
    for message in messages:
        role = "user" if message.role == "system" else message.role
        if not result and role == "assistant":
            result.append(Message("user", OPENING))
        if result and result[-1].role == role:
            result[-1] = replace(result[-1], content=f"{result[-1].content}\n\n{message.content}")
        else:
            result.append(replace(message, role=role))
    return result


def unsupported_settings(dialect: Dialect, left_out: Collection[str]) -> dict[str, str]:
    """The generation settings that such a server does not take, each with the reason."""
    reasons = {}
    for name in GenerationSettings.model_fields:
        taken = dialect.thinking if name == "thinking" else dialect.settings.get(name, "")
        if not taken:
            reasons[name] = N_(f"{dialect.title} does not take it.")
        elif taken in left_out:
            reasons[name] = N_("The server has refused it.")
    return reasons


def controls(dialect: Dialect, template: str, thinks: bool) -> ThinkingControls:
    """How the thinking of a model can be controlled. A `template` that is not told may know the usual argument."""
    switch = "enable_thinking" if dialect.thinking in ("template", "both") else ""
    if template and switch not in template:
        switch = ""
    effort = dialect.thinking == "effort" and thinks
    levels = ("none", *(level for level in LEVELS if level != "minimal")) if effort else ()
    return ThinkingControls(switch, "reasoning_effort" if effort else "", levels)


def _settings(settings: GenerationSettings, dialect: Dialect) -> dict[str, Any]:
    """The fields of the generation settings that the server takes."""
    fields: dict[str, Any] = {}
    for name, field in dialect.settings.items():
        value = getattr(settings, name)
        if name == "stop":
            value = list(value[: dialect.max_stop])
        if value in (None, [], ()) or (name in ("max_new_tokens", "thinking_budget") and value == 0):
            continue
        value = dialect.off.get(name, value) if value == NEUTRAL.get(name, 0) else value
        if value is not None:
            fields[field] = value
    return {**fields, **_thinking(settings, dialect)}


def _thinking(settings: GenerationSettings, dialect: Dialect) -> Mapping[str, Any]:
    choice = settings.thinking
    if choice == "auto" or not dialect.thinking:
        return {}
    if choice in LEVELS or dialect.thinking == "effort":
        if dialect.thinking == "template":
            return {"chat_template_kwargs": {"reasoning_effort": choice}}
        return {"reasoning_effort": {"off": "none", "on": "medium"}.get(choice, choice)}
    return {"chat_template_kwargs": {"enable_thinking": choice == "on"}}
