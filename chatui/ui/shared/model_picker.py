"""The dropdown in the settings that chooses the model for the next reply."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from chatui.chat import ModelStatus
from chatui.i18n import N_, _, join_isolated
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
    return {
        "choices": [(_label(model), model.name) for model in models],
        "visible": len(models) > 1,
        "filterable": len(models) >= MIN_FILTERABLE,
    }


def _label(model: ModelStatus) -> str:
    """The name of a model; of a remote one also what runs it, or that it has failed."""
    server = model.info.server if model.info is not None else None
    more = _("failed") if model.remote and model.error is not None else server.software if server is not None else ""
    return join_isolated((model.name, more)) if more else model.name
