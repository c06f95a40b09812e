"""The time that a reply took, as the bar below it shows it. Pure."""

import html

from chatui.chat import Finish
from chatui.i18n import _, format_number, join_isolated, ngettext


def timing(finish: Finish) -> str:
    """The duration of a reply and its tokens/s, with the durations of its phases as a tooltip."""
    parts = [_duration(finish.queue_seconds + finish.prefill_seconds + finish.decode_seconds)]
    if finish.completion_tokens > 1 and finish.decode_seconds > 0:
        speed = finish.tokens_per_second
        parts.append(_("{speed} tokens/s", speed=format_number(speed, 1 if speed < 10 else 0)))
    tooltip = ngettext(
        "Queue {waiting}, prefill {reading}, decode {writing}: {count} token.",
        "Queue {waiting}, prefill {reading}, decode {writing}: {count} tokens.",
        finish.completion_tokens,
        waiting=_duration(finish.queue_seconds),
        reading=_duration(finish.prefill_seconds),
        writing=_duration(finish.decode_seconds),
    )
    return f'<span class="took" title="{html.escape(tooltip)}">{join_isolated(parts)}</span>'


def _duration(seconds: float) -> str:
    """A readable duration: tenths of a second below 10 s, minutes from 100 s on."""
    if seconds >= 100:
        minutes, remainder = divmod(round(seconds), 60)
        return _("{minutes} min {seconds} s", minutes=minutes, seconds=remainder)
    return _("{seconds} s", seconds=format_number(seconds, 1 if seconds < 10 else 0))
