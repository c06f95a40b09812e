"""Pictures of numbers as HTML: a stacked bar, bars side by side, a context that fills. Pure.

Every part is told by its place, its pattern or its words too, so that no colour must be known. The colours are told
apart by colour-blind people: Okabe and Ito, https://jfly.uni-koeln.de/color/.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from chatui.i18n import isolated, joined

UNBROKEN = "\u00a0"
"""A space at which no line ends: a number stays with its unit."""


@dataclass(frozen=True)
class BarPart:
    """A part of a bar: its name, its size, the size for people, and its class in inspector.css."""

    name: str
    size: float
    text: str
    kind: str


@dataclass(frozen=True)
class LabelledBar:
    """A bar of its own with a name, its length and that for people; `strong` where it is the one to look at."""

    name: str
    size: float
    text: str
    strong: bool = False


@dataclass(frozen=True)
class ContextTurn:
    """What one turn's prompt and reply take of the context, in tokens; `remembered` of the prompt were not read."""

    remembered: int
    prompt: int
    reply: int

    @property
    def tokens(self) -> int:
        """All that is in the context at its end."""
        return self.prompt + self.reply


def stacked(title: str, bars: Sequence[tuple[str, Sequence[BarPart]]], whole: float) -> str:
    """Bars of parts, one below the other, on a scale that ends at `whole`, and one legend for all of them."""
    lanes = "".join(_lane(name, parts, whole) for name, parts in bars)
    legend: dict[str, BarPart] = {}
    for _name, parts in bars:
        for part in parts:
            legend.setdefault(part.kind, part)
    keys = "".join(
        f'<li><span class="key {part.kind}"></span>{html.escape(part.name)}</li>' for part in legend.values()
    )
    return _figure(title, f'{lanes}<ul class="legend">{keys}</ul>')


def _lane(name: str, parts: Sequence[BarPart], whole: float) -> str:
    shown = "".join(
        f'<span class="part {part.kind}" style="width:{_share(part.size, whole)}"'
        f' title="{html.escape(f"{part.name}: {part.text}")}"></span>'
        for part in parts
        if part.size > 0
    )
    texts = html.escape(joined((f"{part.name} {isolated(part.text.replace(' ', UNBROKEN))}" for part in parts), " + "))
    return (
        f'<div class="lane"><span class="name">{html.escape(name)}</span><span class="track">{shown}</span></div>'
        + (f'<div class="under">{texts}</div>')
    )


def bars(title: str, rows: Sequence[LabelledBar], mark: tuple[str, float] | None = None) -> str:
    """Bars from one line on, the longest over the whole width; `mark` is a line across all of them, with its name."""
    whole = max([row.size for row in rows] + ([mark[1]] if mark else []), default=0.0)
    line = f'<span class="mark" style="inset-inline-start:{_share(mark[1], whole)}"></span>' if mark else ""
    lanes = "".join(
        f'<div class="lane"><span class="name">{html.escape(row.name)}</span><span class="track">'
        f'<span class="part {"strong" if row.strong else "plain"}" style="width:{_share(row.size, whole)}"></span>'
        f'{line}</span><span class="size">{html.escape(row.text)}</span></div>'
        for row in rows
    )
    key = f'<ul class="legend"><li><span class="key mark"></span>{html.escape(mark[0])}</li></ul>' if mark else ""
    return _figure(title, lanes + key)


def filling(title: str, turns: Sequence[ContextTurn], edge: int, names: tuple[str, str, str], limit: str) -> str:
    """A column for each turn, as high as what is taken of the context at its end; the upper edge is `edge` tokens.

    `names` are those of what was remembered, read anew and written; `limit` says what the upper edge is.
    """
    kinds = ("remembered", "anew", "written")
    columns = "".join(
        '<span class="column">'
        + "".join(
            f'<span class="part {kind}" style="height:{_share(size, edge)}"></span>'
            for kind, size in zip(kinds, (one.remembered, one.prompt - one.remembered, one.reply), strict=True)
            if size > 0
        )
        + "</span>"
        for one in turns
    )
    keys = "".join(
        f'<li><span class="key {kind}"></span>{html.escape(name)}</li>' for kind, name in zip(kinds, names, strict=True)
    )
    told = ", ".join(f"{one.tokens}" for one in turns)
    return _figure(
        title,
        f'<div class="limit">{html.escape(limit)}</div><div class="columns">{columns}</div>'
        f'<p class="unseen">{told}</p>'
        f'<ul class="legend">{keys}</ul>',
    )


def _share(size: float, whole: float) -> str:
    return f"{min(100.0, 100 * size / whole) if whole > 0 else 0:.2f}%"


def _figure(title: str, inner: str) -> str:
    """A picture below its title. Gradio's sanitizer leaves no aria attributes: all that it says is text."""
    return f'<div class="chart"><h4>{html.escape(title)}</h4>{inner}</div>'
