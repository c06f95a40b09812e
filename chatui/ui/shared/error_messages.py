"""Errors as the page shows them: message and remedy in the visitor's language."""

import html

import gradio as gr

from chatui.errors import ChatError, SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.i18n import N_, translated

OUT_OF_RANGE = (
    N_("Input should be less than or equal to {limit} (got {value})"),
    N_("Input should be greater than or equal to {limit} (got {value})"),
    N_("Input should be less than {limit} (got {value})"),
    N_("Input should be greater than {limit} (got {value})"),
    N_("Input should be a valid integer (got {value})"),
    N_("Input should be a valid number (got {value})"),
    N_("Input should be a finite number (got {value})"),
    N_("String should have at most {limit} characters (got {value})"),
    N_("Tuple should have at most {limit} items after validation, not {count} (got {value})"),
)
"""Pydantic's messages about an invalid setting, for the translations."""


def localized(error: ChatError) -> tuple[str, str]:
    """An error's message and remedy in the current language."""
    if not isinstance(error, SettingsError):
        return translated(error.message), translated(error.remedy)
    field = GenerationSettings.model_fields.get(error.field)
    name = field.title if field is not None and field.title else error.field
    return f"{translated(name)}: {translated(str(error.args[1]))}", translated(error.remedy)


def error_line(error: ChatError) -> str:
    """An error's message and remedy in one line."""
    return " ".join(localized(error)).strip()


def warn(error: ChatError) -> None:
    """Show an error as a toast of the page, from within an event."""
    gr.Warning(html.escape(error_line(error)))
