"""Updates of the message box: its text and its Send and Stop buttons."""

from typing import Any

import gradio as gr

from chatui.i18n import _


def ready(clear: bool = False) -> Any:
    """The box while no reply is generated: with Send."""
    return gr.update(value="", **_send_button()) if clear else gr.update(**_send_button())


def ready_with(text: str) -> Any:
    """The box with Send and with this text in it."""
    return gr.update(value=text, **_send_button())


def busy(clear: bool = False) -> Any:
    """The box while a reply is generated: with Stop. What is being typed stays unless it was just sent."""
    buttons: dict[str, Any] = {"submit_btn": False, "stop_btn": _("Stop")}
    return gr.update(value="", **buttons) if clear else gr.update(**buttons)


def _send_button() -> dict[str, Any]:
    return {"submit_btn": _("Send"), "stop_btn": False, "interactive": True}
