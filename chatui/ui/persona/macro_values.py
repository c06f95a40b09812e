"""Values of the macros in a persona's texts for the running event, see chatui.macros."""

import contextlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from chatui import cards
from chatui.macros import MacroValues, expand
from chatui.personas import Persona
from chatui.ui.gradio_compat import request_context


def current_macro_values(
    persona: Persona, model: str, seed: int | None = None, chat: str = "", moment: str = ""
) -> MacroValues:
    """The values for this persona and the event's user, now or at an earlier `moment` in ISO 8601."""
    now = datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=request_context.utc_offset_minutes())
    with contextlib.suppress(ValueError):
        now = datetime.fromisoformat(moment) if moment else now
    return MacroValues(request_context.login() or "User", cards.nickname(persona), model, now, seed or 0, chat)


def expanded_greetings(persona: Persona, model: str) -> tuple[str, ...]:
    """The persona's greetings. Random macros are seeded by the day: the shown greeting is the one that is sent."""
    day = current_macro_values(persona, model).local_time.date()
    macro_values = current_macro_values(persona, model, day.toordinal(), day.isoformat())
    return tuple(expand(text, macro_values) for text in cards.greetings(persona))


def greeting_number(text: str | None, greetings: Sequence[str]) -> int:
    """Parse the number of a greeting that a browser sent; 0, the first, if there is no such greeting."""
    number = int(text) if text and re.fullmatch(r"\d{1,3}", text, re.ASCII) else 0
    return number if number < len(greetings) else 0
