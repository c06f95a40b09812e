"""The line above the chat, the name and the greeting of the empty page: small pieces of HTML."""

import asyncio
import html
from collections.abc import AsyncIterator

from chatui.catalogue import human_bytes, human_count
from chatui.chat import Backend, ModelStatus
from chatui.i18n import _, figures, joined, translated
from chatui.personas import Persona
from chatui.ui import speaking

POLL_SECONDS = 0.25

BRAND = '<div class="brand"><span class="brand-mark"></span><span>chatui</span></div>'


def status(model: ModelStatus, speed: str = "") -> str:
    """The model with precision and size, its state, and the speed of the last reply."""
    name = f'<span class="model-name">{html.escape(model.name)}</span>'
    if model.error is not None:
        detail = f'<span class="model-failed">{html.escape(speaking.sentence(model.error))}</span>'
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


def greeting(persona: Persona) -> str:
    """What the empty chat says, in the persona's voice."""
    return (
        f'<div class="greeting"><div class="greeting-emoji">{html.escape(persona.emoji)}</div>'
        f'<h2 class="greeting-words">{html.escape(persona.greeting)}</h2></div>'
    )


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
