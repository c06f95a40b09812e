"""Rows of figures, each of which opens to its formula, as HTML. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from chatui.chat import ModelAnatomy, ModelInfo
from chatui.estimates import Figure
from chatui.i18n import N_, _, localize_numbers, translated
from chatui.ui.markdown.markdown_escape import plain

UNKNOWN_ANATOMY = N_("What this model is made of was not kept.")


@dataclass(frozen=True)
class FormulaRow:
    """A figure: its name, its value for people, and its formula, all in English."""

    name: str
    value: str
    formula: str


def figure_row(figure: Figure, name: str) -> FormulaRow:
    """A row of an estimate."""
    return FormulaRow(name, figure.text, figure.formula)


def formula_list(rows: Iterable[FormulaRow]) -> str:
    """The rows in the current language; each opens to its formula."""
    items = [
        f"<details><summary><span>{_localized(row.name)}</span><b>{_localized(row.value)}</b></summary>"
        f"<p>{_localized(row.formula)}</p></details>"
        for row in rows
    ]
    return f'<div class="figures">{"".join(items)}</div>'


def titled_list(title: str, rows: Iterable[FormulaRow]) -> str:
    """The rows under a title."""
    return f"\n\n#### {title}\n\n{formula_list(rows)}"


def folded(rows: str) -> str:
    """Rows that a click on "All numbers and their formulas" opens."""
    return f'<details class="numbers"><summary>{_("All numbers and their formulas")}</summary>{rows}</details>'


def nearest_precision(model: ModelInfo, anatomy: ModelAnatomy) -> str:
    """The precision whose bytes read per step are nearest to those of the loaded model."""
    return min(anatomy.read, key=lambda name: abs(anatomy.read[name] - model.read_bytes))


def _localized(text: str) -> str:
    """The translation of an English text, or the text with localized numbers if it has none, as Markdown."""
    translation = translated(text)
    return plain(translation if translation != text else localize_numbers(text))
