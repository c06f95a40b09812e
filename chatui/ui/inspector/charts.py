"""Charts as HTML: stacked bars, bars with a reference line, and the tokens in the context after each turn. Pure.

Parts also differ by position, pattern or text, so that colour is never the only difference. Colour-blind people can
distinguish the colours: Okabe and Ito, https://jfly.uni-koeln.de/color/.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from chatui.i18n import isolate, join_isolated

NO_BREAK_SPACE = "\u00a0"
"""Keeps a number in the same line as its unit."""


@dataclass(frozen=True)
class BarPart:
    """A part of a bar: its name, its size, the size as text, and its class in inspector.css."""

    name: str
    size: float
    text: str
    kind: str


@dataclass(frozen=True)
class LabelledBar:
    """A bar with its name, its size and the size as text; `strong` highlights it."""

    name: str
    size: float
    text: str
    strong: bool = False


@dataclass(frozen=True)
class ContextTurn:
    """Tokens of one turn in the context: prompt and reply. `cached` tokens of the prompt were not computed again."""

    cached: int
    prompt: int
    reply: int

    @property
    def tokens(self) -> int:
        """Tokens in the context at the end of the turn."""
        return self.prompt + self.reply


def stacked(title: str, bars: Sequence[tuple[str, Sequence[BarPart]]], total: float) -> str:
    """Stacked bars, one below the other, on a scale from 0 to `total`, with one legend."""
    lanes = "".join(_lane(name, parts, total) for name, parts in bars)
    legend: dict[str, BarPart] = {}
    for _name, parts in bars:
        for part in parts:
            legend.setdefault(part.kind, part)
    keys = "".join(
        f'<li><span class="key {part.kind}"></span>{html.escape(part.name)}</li>' for part in legend.values()
    )
    return _figure(title, f'{lanes}<ul class="legend">{keys}</ul>')


def _lane(name: str, parts: Sequence[BarPart], total: float) -> str:
    segments = "".join(
        f'<span class="part {part.kind}" style="width:{_share(part.size, total)}"'
        f' title="{html.escape(f"{part.name}: {part.text}")}"></span>'
        for part in parts
        if part.size > 0
    )
    texts = html.escape(
        join_isolated((f"{part.name} {isolate(part.text.replace(' ', NO_BREAK_SPACE))}" for part in parts), " + ")
    )
    return (
        f'<div class="lane"><span class="name">{html.escape(name)}</span><span class="track">{segments}</span></div>'
        + (f'<div class="under">{texts}</div>')
    )


def bars(title: str, rows: Sequence[LabelledBar], mark: tuple[str, float] | None = None) -> str:
    """Bars that start at one line; the longest has the full width. `mark` is a named reference line across all bars."""
    total = max([row.size for row in rows] + ([mark[1]] if mark else []), default=0.0)
    line = f'<span class="mark" style="inset-inline-start:{_share(mark[1], total)}"></span>' if mark else ""
    lanes = "".join(
        f'<div class="lane"><span class="name">{html.escape(row.name)}</span><span class="track">'
        f'<span class="part {"strong" if row.strong else "plain"}" style="width:{_share(row.size, total)}"></span>'
        f'{line}</span><span class="size">{html.escape(row.text)}</span></div>'
        for row in rows
    )
    key = f'<ul class="legend"><li><span class="key mark"></span>{html.escape(mark[0])}</li></ul>' if mark else ""
    return _figure(title, lanes + key)


def context_columns(
    title: str, turns: Sequence[ContextTurn], max_tokens: int, names: tuple[str, str, str], limit: str
) -> str:
    """A column for each turn with the tokens in the context at its end; the full height is `max_tokens`.

    `names` are the names of cached, computed and generated tokens; `limit` describes the full height.
    """
    kinds = ("cached", "computed", "generated")
    columns = "".join(
        '<span class="column">'
        + "".join(
            f'<span class="part {kind}" style="height:{_share(size, max_tokens)}"></span>'
            for kind, size in zip(kinds, (turn.cached, turn.prompt - turn.cached, turn.reply), strict=True)
            if size > 0
        )
        + "</span>"
        for turn in turns
    )
    keys = "".join(
        f'<li><span class="key {kind}"></span>{html.escape(name)}</li>' for kind, name in zip(kinds, names, strict=True)
    )
    counts = ", ".join(f"{turn.tokens}" for turn in turns)
    return _figure(
        title,
        f'<div class="limit">{html.escape(limit)}</div><div class="columns">{columns}</div>'
        f'<p class="unseen">{counts}</p>'
        f'<ul class="legend">{keys}</ul>',
    )


def _share(size: float, total: float) -> str:
    return f"{min(100.0, 100 * size / total) if total > 0 else 0:.2f}%"


def _figure(title: str, inner: str) -> str:
    """A chart below its title. It has no ARIA attributes, because Gradio's sanitizer removes them."""
    return f'<div class="chart"><h4>{html.escape(title)}</h4>{inner}</div>'
