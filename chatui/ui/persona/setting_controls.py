"""Builds a slider or box for each field of GenerationSettings, with its range and label, and parses their values."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import annotated_types
import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from chatui import i18n
from chatui.chat import ModelInfo
from chatui.errors import SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.i18n import N_, _
from chatui.thinking_controls import NO_CONTROLS, ThinkingControls
from chatui.ui.gradio_compat.unchecked_inputs import UncheckedDropdown, UncheckedNumber, UncheckedSlider
from chatui.ui.shared import error_messages

NAMES: tuple[str, ...] = tuple(GenerationSettings.model_fields)
LENGTH_SETTINGS = ("thinking", "thinking_budget", "max_new_tokens", "stop")
"""Settings of the parts of a reply and where they end; all others are about sampling."""
THINKING_LABELS = {
    "auto": N_("The model's default"),
    "off": N_("Off"),
    "on": N_("On"),
    "minimal": N_("Minimal"),
    "low": N_("Low"),
    "medium": N_("Medium"),
    "high": N_("High"),
}
GROUPS = (
    (N_("Sampling"), tuple(name for name in NAMES if name not in LENGTH_SETTINGS)),
    (N_("Length and stop"), LENGTH_SETTINGS),
)


def build() -> list[Component]:
    """One component per setting, in the settings' order, rendered in an accordion per group."""
    components: dict[str, Component] = {}
    for title, names in GROUPS:
        with gr.Accordion(title, open=True):  # chatui.js closes it: Gradio does not render the content of closed ones
            components |= {name: _component(name, GenerationSettings.model_fields[name]) for name in names}
    return [components[name] for name in NAMES]


def build_api() -> list[Component]:
    """Hidden inputs for the API endpoint: None means the model's own default."""
    kinds: Mapping[str, type[Component]] = {"stop": gr.JSON, "thinking": gr.Textbox}
    return [kinds.get(name, UncheckedNumber)(value=None, visible=False, label=name) for name in NAMES]


def values_of(settings: GenerationSettings) -> list[Any]:
    """The components' values for these settings."""
    return ["\n".join(settings.stop) if name == "stop" else getattr(settings, name) for name in NAMES]


def for_model(updates: Sequence[Any], info: ModelInfo | None, current: Sequence[Any] = ()) -> list[Any]:
    """The components' values or updates, which also show which of the settings this model has.

    Those of thinking are visible where its controls have them. Those that its server does not take are greyed out, with
    the reason. A choice among the `current` values that the controls do not have becomes "auto".
    """
    controls, unsupported = controls_of(info), unsupported_settings(info)
    shown = {name: _with_reason(name, value, unsupported) for name, value in zip(NAMES, updates, strict=True)}
    for name, visible in (("thinking", len(controls.choices) > 1), ("thinking_budget", has_budget(info))):
        shown[name] |= gr.update(visible=visible)
    choices = [(_(THINKING_LABELS[choice]), choice) for choice in controls.choices]
    shown["thinking"] |= {"choices": choices}
    chosen = shown["thinking"].get("value", dict(zip(NAMES, current, strict=False)).get("thinking", "auto"))
    if chosen not in controls.choices:
        shown["thinking"] |= {"value": "auto"}
    return [shown[name] for name in NAMES]


def _with_reason(name: str, value: Any, unsupported: Mapping[str, str]) -> dict[str, Any]:
    """The update of a component, which is active unless the server does not take its setting."""
    reason, description = unsupported.get(name, ""), GenerationSettings.model_fields[name].description or ""
    update: dict[str, Any] = dict(value) if isinstance(value, dict) else {"value": value}
    return {**update, **gr.update(interactive=not reason, info=i18n.translated(reason or description))}


def unsupported_settings(info: ModelInfo | None) -> Mapping[str, str]:
    """The settings that a model's server does not take, each with the reason."""
    return info.server.unsupported if info is not None and info.server is not None else {}


def has_budget(info: ModelInfo | None) -> bool:
    """Whether a thinking budget has an effect."""
    if info is not None and info.server is not None:
        return "thinking_budget" not in info.server.unsupported
    controls = controls_of(info)
    return controls.closes or bool(controls.budget)


def controls_of(info: ModelInfo | None) -> ThinkingControls:
    """The controls of a model's thinking; none while they are not known."""
    return info.template.controls if info is not None and info.template is not None else NO_CONTROLS


def read(values: Sequence[Any]) -> GenerationSettings:
    """Parse the components' values. Raises SettingsError with the name of the field."""
    fields = dict(zip(NAMES, values, strict=True))
    fields["stop"] = tuple(line for line in (fields["stop"] or "").split("\n") if line)
    return GenerationSettings.from_values(fields)


def read_api(values: Mapping[str, Any], defaults: GenerationSettings) -> GenerationSettings:
    """The settings of an API call, with the model's defaults for None. Raises SettingsError."""
    set_values = {name: value for name, value in values.items() if value is not None}
    return GenerationSettings.from_values({**defaults.model_dump(), **set_values})


def problems(values: Sequence[Any]) -> list[str]:
    """The error message for each component's value, or "" if the value is valid."""
    messages = [""] * len(NAMES)
    try:
        read(values)
    except SettingsError as error:
        if error.field in NAMES:
            messages[NAMES.index(error.field)] = error_messages.localized(error)[0]
    return messages


def _component(name: str, field: FieldInfo) -> Component:
    common: dict[str, Any] = {
        "label": field.title,
        "info": field.description,
        "elem_id": f"setting-{name}",
        "interactive": True,
    }
    step = _step(field)
    if step is not None:
        low, high = _bounds(field, step)
        shown = name != "thinking_budget"
        return UncheckedSlider(minimum=low, maximum=high, step=step, value=field.default, visible=shown, **common)
    if name == "thinking":
        return UncheckedDropdown([field.default], value=field.default, filterable=False, visible=False, **common)
    if name == "stop":
        return gr.Textbox(value="", lines=1, max_lines=4, placeholder=N_("One on each line"), **common)
    return UncheckedNumber(value=field.default, precision=0, placeholder=N_("Random"), **common)


def _step(field: FieldInfo) -> float | None:
    """The slider's step; None if the field has no slider."""
    extra = field.json_schema_extra
    return cast(float, extra["step"]) if isinstance(extra, dict) and "step" in extra else None


def _bounds(field: FieldInfo, step: float) -> tuple[float, float]:
    """Lowest and highest value; an open lower bound starts one step above it."""
    low, high = 0.0, 1.0
    for rule in field.metadata:
        if isinstance(rule, annotated_types.Ge):
            low = rule.ge  # type: ignore[assignment]
        elif isinstance(rule, annotated_types.Gt):
            low = rule.gt + step  # type: ignore[operator]
        elif isinstance(rule, annotated_types.Le):
            high = rule.le  # type: ignore[assignment]
    return low, high
