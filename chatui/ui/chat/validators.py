"""Gradio validators of the events that ask for a reply: one gr.validate() for each input."""

from typing import Any

import gradio as gr

from chatui.i18n import _
from chatui.ui.chat import api_endpoint
from chatui.ui.persona import setting_controls


def check_message(message: str, *inputs: Any) -> list[Any]:
    """Validate the message and the settings; a problem of a setting is shown at the message box too.

    A closed sidebar hides what is shown at the setting itself.
    """
    problem = ""
    if not message or not message.strip():
        problem = _("Type a message first.")
    elif len(message) > api_endpoint.MAX_MESSAGE_LENGTH:
        problem = _(
            "The message has {count} characters; at most {limit} can be sent.",
            count=len(message),
            limit=api_endpoint.MAX_MESSAGE_LENGTH,
        )
    settings = check_settings(*inputs)
    problem = problem or next((result["message"] for result in settings if not result["is_valid"]), "")
    return [gr.validate(not problem, problem), *settings]


def check_settings(*inputs: Any) -> list[Any]:
    """Validate the settings, which are the last inputs; all other inputs are valid."""
    settings = inputs[-len(setting_controls.NAMES) :]
    others = [gr.validate(True, "") for _ in inputs[: -len(setting_controls.NAMES)]]
    return [*others, *(gr.validate(not problem, problem) for problem in setting_controls.problems(settings))]
