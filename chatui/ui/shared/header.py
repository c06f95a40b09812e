"""HTML of the line above the chat, the brand, and the greeting of the empty chat."""

import asyncio
import html
from collections.abc import AsyncIterator

from chatui.backend import Backend
from chatui.chat import ModelStatus
from chatui.i18n import _, translated
from chatui.personas import Persona
from chatui.ui.shared import error_messages, model_facts

POLL_SECONDS = 0.25
MAX_HEADING_LENGTH = 200
"""Longest greeting, in characters, that is rendered as a heading."""
NEWLINE = "\n"

BRAND = '<div class="brand"><span class="brand-mark"></span><span>chatui</span></div>'


def status(model: ModelStatus, speed: str = "") -> str:
    """The model's name, precision, size and state, and the speed of the last reply."""
    name = f'<span class="model-name">{html.escape(model.name)}</span>'
    if model.error is not None:
        detail = f'<span class="model-failed">{html.escape(error_messages.error_line(model.error))}</span>'
    elif model.state == "unloaded":
        detail = f'<span class="model-facts">{html.escape(_("is loaded when it is asked for"))}</span>'
    elif model.info is None:
        detail = f'<span class="model-loading">{html.escape(translated(model.phase) or _("loading"))} …</span>'
    else:
        detail = f'<span class="model-facts">{html.escape(model_facts.facts_line(model.info))}</span>'
    notes = "".join(f'<span class="model-note">{html.escape(translated(text))}</span>' for text in _notes(model))
    speed_html = f'<span class="speed">{html.escape(speed)}</span>'
    models = f'<a class="models-link" href="#models">{html.escape(_("Models"))}</a>'
    return f'<div class="status {model.state}">{name}{models}{detail}{speed_html}{notes}</div>'


def greeting(persona: Persona, number: int = 0, greetings: int = 1) -> str:
    """The persona's greeting in the empty chat: `number` of `greetings`, with links to the previous and the next one.

    The links are like those of the bar below a message, see transcript.
    """
    text = html.escape(persona.greeting)
    short = len(persona.greeting) <= MAX_HEADING_LENGTH and "\n" not in persona.greeting
    body = f"<h2>{text}</h2>" if short else f'<p class="greeting-text">{text.replace(NEWLINE, "<br>")}</p>'
    bar = ""
    if greetings > 1:
        before, after = (
            f'<a class="act named" href="#greeting={(number + step) % greetings}" title="{name}">{sign}</a>'
            for step, sign, name in ((-1, "‹", _("Previous version")), (1, "›", _("Next version")))
        )
        bar = f'<p class="chat-bar">{before} <span>{number + 1}/{greetings}</span> {after}</p>'
    tour = f'<p class="greeting-tour"><a href="#tour">{_("Take the guided tour")}</a></p>'
    emoji = f'<div class="greeting-emoji">{html.escape(persona.emoji)}</div>'
    return f'<div class="greeting">{emoji}{body}{bar}{tour}</div>'


def find_status(backend: Backend, name: str) -> ModelStatus:
    """The status of the model with this name, the default one's if there is none."""
    models = backend.models()
    return next((model for model in models if model.name == name), models[0])


async def status_updates(backend: Backend, name: str = "") -> AsyncIterator[ModelStatus]:
    """Yield a model's status, the default one's for "", now and at each change, until it is ready or has failed."""
    last: ModelStatus | None = None
    while True:
        model = find_status(backend, name)
        if model != last:
            last = model
            yield model
        if model.state != "loading":
            return
        await asyncio.sleep(POLL_SECONDS)


def _notes(model: ModelStatus) -> tuple[str, ...]:
    return model.info.notes if model.info else ()
