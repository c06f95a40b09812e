"""Reads how much the model shall think from the fields of OpenAI, vLLM, Ollama, OpenRouter, DeepSeek and Qwen."""

from collections.abc import Iterator
from typing import Any

from chatui.api.accepted_fields import normalize
from chatui.api.responses import ApiError, Fields
from chatui.chat import ModelInfo
from chatui.server_facts import ServerFacts
from chatui.setting_values import shorten
from chatui.thinking_controls import LEVELS, NO_CONTROLS, ThinkingControls, all_choices

FIELDS = frozenset(
    {
        *("chat_template_kwargs", "enable_thinking", "reasoning", "reasoning_effort", "think", "thinking"),
        *("reasoning_budget", "thinking_budget", "thinking_token_budget"),
    }
)
"""Fields of requests that are about thinking."""

Choice = str
"""A value of the setting `thinking`, or the name of a level that no model here knows."""

EFFORTS: dict[str, Choice] = {
    **{name: name for name in (*LEVELS, "xhigh", "max")},
    **{"auto": "auto", "default": "auto", "none": "off"},
}
"""Values of `reasoning_effort` at OpenAI and OpenRouter."""
TYPES: dict[str, Choice] = {"auto": "auto", "adaptive": "auto", "enabled": "on", "disabled": "off"}
"""Values of `thinking.type` at DeepSeek and Anthropic."""
SWITCHES = {True: "on", False: "off"}
BUDGETS = ("reasoning_budget", "thinking_budget", "thinking_token_budget")


def read(fields: Fields, model: ModelInfo | None) -> Fields:
    """The settings `thinking` and `thinking_budget` that these fields ask for.

    Raises ApiError if they contradict each other, or ask for what this model's thinking cannot do. A model that does
    not think takes "off", levels and budgets, which change nothing. Another server is asked for all that it takes. Of a
    `model` that was never loaded nothing is known: the fields are read again when it is.
    """
    template = None if model is None else model.template
    controls = NO_CONTROLS if template is None else template.controls
    asked = [(name, *pair) for name, value in fields.items() for pair in _asked(name, value, controls)]
    settings: Fields = {}
    if template is None:
        return settings
    for name, setting, value in asked:
        passed_on = model is not None and model.server is not None and _takes(model.server, setting, value)
        done = value if passed_on else _done(name, setting, value, template.thinks, controls)
        if done is not None and settings.setdefault(setting, done) != done:
            raise ApiError(400, f"{name}: contradicts another field about thinking.", name, "invalid_value")
    return settings


def _takes(server: ServerFacts, setting: str, value: Any) -> bool:
    """Whether another server is asked to do this: it knows best what its model can do."""
    return setting not in server.unsupported and (setting != "thinking" or value in all_choices())


def _done(name: str, setting: str, value: Any, thinks: bool, controls: ThinkingControls) -> Any:
    """The value of the setting for what was asked; None if the model's default does it. Raises ApiError."""
    if setting == "thinking":
        choice = _choice(name, value, thinks, controls)
        return None if choice == "auto" else choice
    if thinks and not (controls.closes or controls.budget):
        raise _refusal(name, "this model's thinking cannot be limited")
    return value


def _choice(name: str, choice: Choice, thinks: bool, controls: ThinkingControls) -> str:
    """The value of the setting `thinking` for this choice. Raises ApiError if the model does not have it."""
    if choice in controls.choices:
        return choice
    if choice == "on" and not thinks:
        raise _refusal(name, "this model does not think before it answers")
    if choice == "off" and thinks:
        raise _refusal(name, "this model's thinking cannot be switched off")
    if choice not in ("on", "off", "medium") and thinks:
        levels = ", ".join(level for level in controls.choices if level in LEVELS)
        raise _refusal(name, f"this model's levels of thinking are {levels}" if levels else NO_LEVELS)
    return "auto"


NO_LEVELS = "this model's thinking has no levels"


def _asked(name: str, value: Any, controls: ThinkingControls) -> Iterator[tuple[str, Any]]:
    """Pairs of a setting and what a field asks of it. Raises ApiError for values of another type or meaning."""
    if name in BUDGETS:
        yield "thinking_budget", _budget(name, value)
    elif name == "reasoning_effort":
        yield "thinking", _one_of(name, value, EFFORTS)
    elif name == "enable_thinking":
        yield "thinking", _switch(name, value)
    elif name == "think" or (name == "thinking" and isinstance(value, str)):
        known = EFFORTS if name == "think" else {str(choice): str(choice) for choice in all_choices()}
        yield "thinking", SWITCHES[value] if isinstance(value, bool) else _one_of(name, value, known)
    else:
        yield from _in_object(name, value, controls)


def _in_object(name: str, value: Any, controls: ThinkingControls) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ApiError(400, f"{name}: must be an object.", name, "invalid_value")
    for key, one in value.items():
        where = f"{name}.{key[:60]}"
        if one is None or (name, key, one) == ("reasoning", "exclude", False):
            continue
        if (name, key) in (("reasoning", "max_tokens"), ("thinking", "budget_tokens")):
            yield "thinking_budget", _budget(name, one)
        elif (name, key) == ("reasoning", "effort"):
            yield "thinking", _one_of(name, one, EFFORTS)
        elif (name, key) == ("thinking", "type"):
            yield "thinking", _one_of(name, one, TYPES)
        elif (name, key) == ("reasoning", "enabled"):
            yield "thinking", _switch(name, one)
        elif name == "chat_template_kwargs":
            yield _template_argument(key, one, controls)
        else:
            raise _refusal(name, f"{where} is not supported")


def _template_argument(key: str, value: Any, controls: ThinkingControls) -> tuple[str, Any]:
    """The setting that is an argument of the chat template. Only those of its thinking may be given."""
    name = "chat_template_kwargs"
    if key in (controls.switch, "enable_thinking", "thinking"):
        return "thinking", _switch(name, value)
    if key == "reasoning_effort":
        return "thinking", _one_of(name, value, EFFORTS)
    if key == "thinking_budget":
        return "thinking_budget", _budget(name, value)
    known = [argument for argument in (controls.switch, controls.effort, controls.budget) if argument]
    taken = f"this model's template takes {', '.join(known)}" if known else "this model's template takes none"
    raise _refusal(name, f"{shorten(key)} is not supported, {taken}")


def _switch(name: str, value: Any) -> Choice:
    if not isinstance(value, bool):
        raise ApiError(400, f"{name}: must be true or false.", name, "invalid_value")
    return SWITCHES[value]


def _budget(name: str, value: Any) -> int:
    """A number of tokens in the range of the setting."""
    tokens = normalize("thinking_budget", value)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        raise ApiError(400, f"{name}: must be a number of tokens, or -1 for no limit.", name, "invalid_value")
    return tokens


def _one_of(name: str, value: Any, known: dict[str, Choice]) -> Choice:
    if not isinstance(value, str) or value not in known:
        raise ApiError(400, f"{name}: must be one of {', '.join(known)}.", name, "invalid_value")
    return known[value]


def _refusal(name: str, reason: str) -> ApiError:
    return ApiError(400, f"{name}: {reason}, leave it out.", name, "unsupported_parameter")
