"""What the macros of a persona's texts stand for in the running event, see chatui.macros."""

import contextlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from chatui import cards
from chatui.macros import Scene, expand
from chatui.personas import Persona
from chatui.ui.gradio_compat import request_context


def macro_scene(persona: Persona, model: str, seed: int | None = None, chat: str = "", moment: str = "") -> Scene:
    """The persona and whoever listens, now or at an earlier `moment` in ISO 8601."""
    now = datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=request_context.utc_offset_minutes())
    with contextlib.suppress(ValueError):
        now = datetime.fromisoformat(moment) if moment else now
    return Scene(request_context.login() or "User", cards.nickname(persona), model, now, seed or 0, chat)


def greetings(persona: Persona, model: str) -> tuple[str, ...]:
    """What the persona may begin a conversation with. All day the same is drawn: what is shown is what is said."""
    day = macro_scene(persona, model).moment.date()
    told = macro_scene(persona, model, day.toordinal(), day.isoformat())
    return tuple(expand(text, told) for text in cards.greetings(persona))


def number(written: str | None, greetings: Sequence[str]) -> int:
    """Which greeting a browser asks for; the first where that is none of them."""
    found = int(written) if written and re.fullmatch(r"\d{1,3}", written, re.ASCII) else 0
    return found if found < len(greetings) else 0
