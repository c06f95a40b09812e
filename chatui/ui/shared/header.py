"""The line above the chat, the name and the greeting of the empty page: small pieces of HTML."""

import asyncio
import html
from collections.abc import AsyncIterator

from chatui.chat import Backend, ModelStatus
from chatui.i18n import _, figures, joined, translated
from chatui.model_spec import human_bytes, human_count
from chatui.personas import Persona
from chatui.ui.shared import error_messages

POLL_SECONDS = 0.25
MAX_HEADING_LENGTH = 200
"""Characters of a greeting that is set as a heading."""
NEWLINE = "\n"

BRAND = '<div class="brand"><span class="brand-mark"></span><span>chatui</span></div>'


def status(model: ModelStatus, speed: str = "") -> str:
    """The model with precision and size, its state, and the speed of the last reply."""
    name = f'<span class="model-name">{html.escape(model.name)}</span>'
    if model.error is not None:
        detail = f'<span class="model-failed">{html.escape(error_messages.one_line(model.error))}</span>'
    elif model.info is None:
        detail = f'<span class="model-loading">{html.escape(translated(model.phase) or _("loading"))} …</span>'
    else:
        info = model.info
        count, size = figures(human_count(info.parameters)), figures(human_bytes(info.weight_bytes))
        size = _("{count} parameters · {size}", count=count, size=size)
        facts = joined((info.precision, size, info.device))
        detail = f'<span class="model-facts">{html.escape(facts)}</span>'
    notes = "".join(f'<span class="model-note">{html.escape(translated(text))}</span>' for text in _notes(model))
    measured = f'<span class="speed">{html.escape(speed)}</span>'
    return f'<div class="status {model.state}">{name}{detail}{measured}{notes}</div>'


def greeting(persona: Persona, number: int = 0, greetings: int = 1) -> str:
    """What the empty chat says, in the persona's voice: of so many greetings this one, with what leads to the others.

    The links are those of the bar below a message, see transcript.
    """
    said = html.escape(persona.greeting)
    short = len(persona.greeting) <= MAX_HEADING_LENGTH and "\n" not in persona.greeting
    shown = f"<h2>{said}</h2>" if short else f'<p class="greeting-text">{said.replace(NEWLINE, "<br>")}</p>'
    bar = ""
    if greetings > 1:
        before, after = (
            f'<a class="act named" href="#greeting={(number + step) % greetings}" title="{name}">{sign}</a>'
            for step, sign, name in ((-1, "‹", _("Previous version")), (1, "›", _("Next version")))
        )
        bar = f'<p class="chat-bar">{before} <span>{number + 1}/{greetings}</span> {after}</p>'
    return f'<div class="greeting"><div class="greeting-emoji">{html.escape(persona.emoji)}</div>{shown}{bar}</div>'


async def changes(backend: Backend) -> AsyncIterator[ModelStatus]:
    """The first model's status now and at each change, until it is ready or has failed."""
    seen: ModelStatus | None = None
    while True:
        model = backend.models()[0]
        if model != seen:
            seen = model
            yield model
        if model.state != "loading":
            return
        await asyncio.sleep(POLL_SECONDS)


def _notes(model: ModelStatus) -> tuple[str, ...]:
    return model.info.notes if model.info else ()
