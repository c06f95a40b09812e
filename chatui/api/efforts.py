"""Reads the reasoning effort from the request fields of OpenAI, vLLM, Ollama, OpenRouter, DeepSeek and Qwen."""

from collections.abc import Mapping
from typing import Any, Literal

from chatui.api.responses import ApiError, Fields
from chatui.chat import ModelInfo

EffortRequest = Literal["", "off", "on", "level"]
"""No request, no thinking, thinking, or a level of thinking other than the model's default."""

FIELDS = frozenset({"chat_template_kwargs", "enable_thinking", "reasoning", "reasoning_effort", "think", "thinking"})

EFFORT_VALUES: Mapping[str, EffortRequest] = {
    **dict.fromkeys(("auto", "default", "medium"), ""),
    **dict.fromkeys(("minimal", "low", "high", "xhigh", "max"), "level"),
    "none": "off",
}
THINKING_TYPES: Mapping[str, EffortRequest] = {"auto": "", "adaptive": "", "enabled": "on", "disabled": "off"}
"""Values of `thinking.type` at DeepSeek and Anthropic."""
OBJECT_FIELDS: Mapping[str, Mapping[str, str]] = {
    "reasoning": {"effort": "effort", "enabled": "switch", "exclude": "unset", "max_tokens": "unset"},
    "thinking": {"type": "type"},
    "chat_template_kwargs": {"enable_thinking": "switch", "thinking": "switch", "reasoning_effort": "effort"},
}
SCALAR_FIELDS = {"enable_thinking": "switch", "reasoning_effort": "effort", "think": "any"}


def check(fields: Fields, model: ModelInfo | None) -> None:
    """Raises ApiError if the fields ask for what this model's thinking cannot do.

    A model that does not think accepts "off" and levels, because they change nothing.
    """
    thinks = model is None or model.template is None or model.template.thinks
    for name, value in fields.items():
        for request in _requests(name, value):
            if request == "on" and not thinks:
                raise _refusal(name, "this model does not think before it answers")
            if request == "off" and thinks:
                raise _refusal(name, "this model's thinking cannot be switched off")
            if request == "level" and thinks:
                raise _refusal(name, "this model's thinking has no levels")


def _requests(name: str, value: object) -> list[EffortRequest]:
    """The requests in a field. Raises ApiError."""
    if name in SCALAR_FIELDS:
        return [_request(name, SCALAR_FIELDS[name], value)]
    if not isinstance(value, dict):
        raise ApiError(400, f"{name}: must be an object.", name, "invalid_value")
    present = {key: one for key, one in value.items() if one is not None}
    if unknown := next((key for key in present if key not in OBJECT_FIELDS[name]), None):
        raise _refusal(name, f"{unknown[:60]} is not supported")
    return [_request(name, OBJECT_FIELDS[name][key], one) for key, one in present.items()]


def _request(name: str, kind: str, value: Any) -> EffortRequest:
    if isinstance(value, bool) and (kind in ("switch", "any") or (kind == "unset" and not value)):
        return "" if kind == "unset" else "on" if value else "off"
    known: Mapping[str, EffortRequest] = {"effort": EFFORT_VALUES, "any": EFFORT_VALUES, "type": THINKING_TYPES}.get(
        kind, {}
    )
    if isinstance(value, str) and value in known:
        return known[value]
    one_of = f" must be one of {', '.join(known)}" if known else " is not supported as it is"
    raise ApiError(400, f"{name}:{one_of}.", name, "invalid_value")


def _refusal(name: str, reason: str) -> ApiError:
    return ApiError(400, f"{name}: {reason}, leave it out.", name, "unsupported_parameter")
