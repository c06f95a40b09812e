"""HTML of a model in the list of the Models view: what it is, and whether it fits here. Pure."""

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from chatui.estimates import Figure, human_speed
from chatui.i18n import _, format_number, join_isolated, localize_numbers, translated
from chatui.model_spec import human_bytes, human_count
from chatui.models import names
from chatui.models.facts import ModelFacts
from chatui.models.fit import Device, Fit, Verdict, fits
from chatui.models.overview import OverviewRow
from chatui.ui.inspector.formula_rows import FormulaRow, figure_row, formula_list
from chatui.ui.markdown.markdown_escape import plain
from chatui.ui.shared import error_messages

VERDICT_CLASSES: dict[Verdict, str] = {"fits": "fits", "tight": "tight", "too large": "too-large"}
"""Classes in models.css."""


def text(value: str) -> str:
    """A text of any origin in one line, escaped for Markdown and HTML."""
    return plain(" ".join(value.split()))


def number(value: str) -> str:
    """A short English text of numbers and units in the current language, escaped."""
    return text(localize_numbers(value))


def size(count: float) -> str:
    """A number of bytes for people."""
    return number(human_bytes(count))


def verdict_text(verdict: Verdict) -> str:
    """The verdict in the current language."""
    return {"fits": _("fits"), "tight": _("tight"), "too large": _("too large")}[verdict]


def action_link(box: str, action: str, name: str, label: str, kind: str = "") -> str:
    """A link that sends `action=name` to the hidden textbox `models-BOX`."""
    href = f"#models-{box}={quote(f'{action}={name}', safe='')}"
    return f'<a class="act {kind}" href="{href}">{text(label)}</a>'


def memory_bar(fit: Fit) -> str:
    """A bar of what the model takes, on the scale of the device's memory, with the verdict in words."""
    total = max(fit.device.total or fit.device.free, fit.total.value)
    parts = [(fit.weights, "weights"), (fit.kv, "kv"), (fit.activations, "activations")]
    spans = "".join(
        f'<span class="part {kind}" style="width:{100 * part.value / total:.2f}%"></span>'
        for part, kind in parts
        if part.value > 0
    )
    mark = f'<span class="mark" style="inset-inline-start:{min(100.0, 100 * fit.device.free / total):.2f}%"></span>'
    said = _(
        "{verdict}: {needed} of {free} free, in {precision}",
        verdict=verdict_text(fit.verdict),
        needed=localize_numbers(fit.total.text),
        free=localize_numbers(human_bytes(fit.device.free)),
        precision=fit.precision,
    )
    kind = VERDICT_CLASSES[fit.verdict]
    return f'<div class="track {kind}">{spans}{mark}</div><p class="under {kind}">{text(said)}</p>'


def facts_line(row: OverviewRow) -> str:
    """The short facts of a model in one line."""
    facts = row.facts
    if facts is None:
        return text(row.problem)
    count = human_count(facts.parameters) if facts.parameters else ""
    parts = [_("{count} parameters", count=localize_numbers(count))] if count else []
    if facts.active and facts.active != facts.parameters:
        parts.append(_("{count} active", count=localize_numbers(human_count(facts.active))))
    if row.best and row.best.speed:
        parts.append(_("up to {speed} tokens/s", speed=localize_numbers(human_speed(row.best.speed.value))))
    if facts.layout.context_length:
        parts.append(_("context {count}", count=format_number(facts.layout.context_length)))
    if facts.card.license:
        parts.append(facts.card.license)
    return text(join_isolated(parts))


def state_text(row: OverviewRow) -> str:
    """The state of a served model, escaped; "" for one that is not served."""
    status = row.status
    if status is None:
        return ""
    if status.error is not None:
        return f'<p class="model-failed">{text(error_messages.error_line(status.error))}</p>'
    if status.state == "loading":
        return f'<p class="model-loading">{text(translated(status.phase) or _("loading"))} …</p>'
    return ""


def explained(facts: ModelFacts, devices: Sequence[Device], context: int) -> str:
    """What opens below a model: its name taken apart, its sizes by precision, its facts, and the formulas."""
    sentences = "".join(
        f"<li>{text(translated(sentence))}</li>"
        for sentence in names.explain(facts.parsed, facts.parameters, facts.active)
    )
    tables = "".join(precision_table(device, fits(facts, device, context)) for device in devices)
    return f'<ul class="name-parts">{sentences}</ul>{tables}'


def precision_table(device: Device, rows: Sequence[Fit]) -> str:
    """The model in each precision on a device; "" if its size is not known."""
    if not rows:
        return ""
    head = "".join(f"<th>{text(name)}</th>" for name in (_("Precision"), _("Memory"), _("At most"), _("Here")))
    body = "".join(
        f"<tr><td>{text(fit.precision)}</td><td>{number(fit.total.text)}</td>"
        f"<td>{number(fit.speed.text) if fit.speed else '–'}</td>"
        f'<td class="{VERDICT_CLASSES[fit.verdict]}">{text(verdict_text(fit.verdict))}</td></tr>'
        for fit in rows
    )
    return f"<h4>{text(device.name)}</h4><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def formulas(fit: Fit) -> str:
    """The figures of a way to run a model; each opens to its formula."""
    figures: Iterable[Figure] = (fit.weights, fit.kv, fit.activations, fit.total, *([fit.speed] if fit.speed else []))
    rows: list[FormulaRow] = [figure_row(figure, figure.name) for figure in figures]
    return formula_list(rows)
