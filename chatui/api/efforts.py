"""How much a model is to think, in the words of OpenAI, vLLM, Ollama, OpenRouter, DeepSeek and Qwen's clients."""

from collections.abc import Mapping
from typing import Any, Literal

from chatui.api.responses import ApiError, Fields
from chatui.chat import ModelInfo

Wish = Literal["", "off", "on", "level"]
"""Nothing, no thinking, thinking, or more or less of it than the model does by itself."""

FIELDS = frozenset({"chat_template_kwargs", "enable_thinking", "reasoning", "reasoning_effort", "think", "thinking"})

EFFORTS: Mapping[str, Wish] = {
    **dict.fromkeys(("auto", "default", "medium"), ""),
    **dict.fromkeys(("minimal", "low", "high", "xhigh", "max"), "level"),
    "none": "off",
}
TYPES: Mapping[str, Wish] = {"auto": "", "adaptive": "", "enabled": "on", "disabled": "off"}
"""Of `thinking`, as DeepSeek and Anthropic have it."""
INNER: Mapping[str, Mapping[str, str]] = {
    "reasoning": {"effort": "effort", "enabled": "switch", "exclude": "unset", "max_tokens": "unset"},
    "thinking": {"type": "type"},
    "chat_template_kwargs": {"enable_thinking": "switch", "thinking": "switch", "reasoning_effort": "effort"},
}
OUTER = {"enable_thinking": "switch", "reasoning_effort": "effort", "think": "any"}


def check(fields: Fields, model: ModelInfo | None) -> None:
    """Refuse what this model's thinking cannot do. One that does not think has none to leave out or to measure out.

    Raises ApiError.
    """
    thinks = model is None or model.template is None or model.template.thinks
    for name, value in fields.items():
        for wish in _wishes(name, value):
            if wish == "on" and not thinks:
                raise _refusal(name, "this model does not think before it answers")
            if wish == "off" and thinks:
                raise _refusal(name, "this model's thinking cannot be switched off")
            if wish == "level" and thinks:
                raise _refusal(name, "this model's thinking has no levels")


def _wishes(name: str, value: object) -> list[Wish]:
    """What a field asks for. Raises ApiError."""
    if name in OUTER:
        return [_wish(name, OUTER[name], value)]
    if not isinstance(value, dict):
        raise ApiError(400, f"{name}: must be an object.", name, "invalid_value")
    given = {key: one for key, one in value.items() if one is not None}
    if unknown := next((key for key in given if key not in INNER[name]), None):
        raise _refusal(name, f"{unknown[:60]} is not supported")
    return [_wish(name, INNER[name][key], one) for key, one in given.items()]


def _wish(name: str, kind: str, value: Any) -> Wish:
    if isinstance(value, bool) and (kind in ("switch", "any") or (kind == "unset" and not value)):
        return "" if kind == "unset" else "on" if value else "off"
    known: Mapping[str, Wish] = {"effort": EFFORTS, "any": EFFORTS, "type": TYPES}.get(kind, {})
    if isinstance(value, str) and value in known:
        return known[value]
    one_of = f" must be one of {', '.join(known)}" if known else " is not supported as it is"
    raise ApiError(400, f"{name}:{one_of}.", name, "invalid_value")


def _refusal(name: str, reason: str) -> ApiError:
    return ApiError(400, f"{name}: {reason}, leave it out.", name, "unsupported_parameter")
