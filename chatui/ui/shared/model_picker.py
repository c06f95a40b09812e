"""The dropdown in the settings that chooses the model for the next reply."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from chatui.chat import ModelStatus
from chatui.i18n import N_
from chatui.ui.gradio_compat.unchecked_inputs import UncheckedDropdown

MIN_FILTERABLE = 9
"""Number of models from which the list can be filtered by typing."""


def build(models: Sequence[ModelStatus]) -> gr.Dropdown:
    """The dropdown, rendered in the current context. It is hidden while there is only one model."""
    return UncheckedDropdown(label=N_("Model"), elem_id="model", value=models[0].name, **_choices(models))


def update(models: Sequence[ModelStatus], chosen: str | None = None) -> Any:
    """The update that offers these models, and chooses one of them if it is named."""
    value: dict[str, Any] = {} if chosen is None else {"value": chosen}
    return gr.update(**_choices(models), **value)


def _choices(models: Sequence[ModelStatus]) -> dict[str, Any]:
    names = [model.name for model in models]
    return {
        "choices": [(name, name) for name in names],
        "visible": len(names) > 1,
        "filterable": len(names) >= MIN_FILTERABLE,
    }
