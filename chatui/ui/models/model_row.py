"""HTML of a model in the Models view: what it is, whether it fits here, and what can be done with it. Pure."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from chatui.chat import ModelStatus
from chatui.estimates import human_speed
from chatui.i18n import N_, _, format_number, isolate, join_isolated, localize_numbers, translated
from chatui.model_spec import display_name
from chatui.models import names
from chatui.models.facts import ModelFacts
from chatui.models.fit import Device, Fit, Verdict, fits
from chatui.models.model_card import Evaluation
from chatui.models.names import ParsedName
from chatui.models.overview import Overview, OverviewRow
from chatui.ui.inspector.formula_rows import figure_row, formula_list
from chatui.ui.markdown.markdown_escape import plain
from chatui.ui.shared import error_messages, model_facts
from chatui.units import human_bytes, human_count

MAX_LANGUAGES, MAX_EVALUATIONS = 8, 12
VERDICT_CLASSES: dict[Verdict, str] = {"fits": "fits", "tight": "tight", "too large": "too-large"}
"""Classes in models.css."""
FIGURE_NAMES = (
    *(N_("Weights"), N_("Keys and values of the conversation"), N_("Activations, peak")),
    *(N_("Memory in all"), N_("Speed at most")),
)


def text(value: str) -> str:
    """A text of any origin in one line, escaped for Markdown and HTML."""
    return plain(" ".join(value.split()))


def number(value: str) -> str:
    """A short English text of numbers and units in the current language, escaped."""
    return text(localize_numbers(value))


def size(count: float) -> str:
    """A number of bytes for people."""
    return number(human_bytes(count))


def title(row: OverviewRow) -> str:
    """The short name of a model: that on the Hub, or that of its file or folder."""
    if row.status is not None:
        return row.status.name
    return display_name(Path(row.name)) if Path(row.name).is_absolute() else row.name


def verdict_text(verdict: Verdict) -> str:
    """The verdict in the current language."""
    return {"fits": _("fits"), "tight": _("tight"), "too large": _("too large")}[verdict]


def action_link(box: str, sent: str, label: str, kind: str = "") -> str:
    """A link that sends a text to the hidden textbox `models-BOX`. `kind` are more classes."""
    return f'<a class="act {kind}" href="#models-{box}={quote(sent, safe="")}">{text(label)}</a>'


def state(status: ModelStatus | None) -> str:
    """The state of a model as a label, and why it failed."""
    if status is None or (status.state == "unloaded" and status.error is None):
        return f'<span class="model-state">{text(_("not loaded"))}</span>'
    if status.error is not None:
        return f'<span class="model-state failed">{text(_("failed"))}</span>'
    if status.state == "loading":
        return f'<span class="model-state loading">{text(translated(status.phase) or _("loading"))} …</span>'
    return f'<span class="model-state ready">{text(_ready(status))}</span>'


def _ready(status: ModelStatus) -> str:
    """The label of a model that can write."""
    latency = status.latency()
    if status.remote and latency is not None:
        return _("answers in {milliseconds} ms", milliseconds=format_number(1000 * latency))
    if status.remote:
        return _("answers")
    return _("loaded: {precision}", precision=status.info.precision) if status.info else _("loaded")


def facts_line(row: OverviewRow) -> str:
    """The short facts of a model in one line."""
    facts = row.facts
    if row.status is not None and row.is_remote:
        known = model_facts.facts_line(row.status.info) if row.status.info else _("Its server has told nothing yet.")
        return f'<p class="facts">{text(known)}</p>'
    if facts is None:
        problem = translated(row.problem) if row.problem else _("Its files are not on this machine.")
        return f'<p class="facts">{text(problem)}</p>'
    parts = []
    if facts.parameters:
        parts.append(_("{count} parameters", count=localize_numbers(human_count(facts.parameters))))
    if facts.active and facts.active != facts.parameters:
        parts.append(_("{count} active", count=localize_numbers(human_count(facts.active))))
    if row.best and row.best.speed:
        parts.append(_("up to {speed} tokens/s", speed=localize_numbers(human_speed(row.best.speed.value))))
    if facts.layout.context_length:
        parts.append(_("context {count}", count=format_number(facts.layout.context_length)))
    if facts.card.license:
        parts.append(facts.card.license)
    return f'<p class="facts">{text(join_isolated(parts))}</p>'


def memory_bar(fit: Fit) -> str:
    """What the model takes on the scale of the device's memory, the verdict in words, and what would make it fit."""
    total = max(fit.device.total or fit.device.free, fit.total.value)
    parts = ((fit.weights, "weights"), (fit.kv, "kv"), (fit.activations, "activations"))
    spans = "".join(
        f'<span class="part {kind}" style="width:{100 * part.value / total:.2f}%"></span>' for part, kind in parts
    )
    mark = f'<span class="mark" style="inset-inline-start:{min(99.5, 100 * fit.device.free / total):.2f}%"></span>'
    note = _(
        "{verdict}: {needed} of {free} free, in {precision}",
        verdict=verdict_text(fit.verdict),
        needed=localize_numbers(fit.total.text),
        free=localize_numbers(human_bytes(fit.device.free)),
        precision=fit.precision,
    )
    kind = VERDICT_CLASSES[fit.verdict]
    remedies = "".join(f"<li>{text(translated(remedy))}</li>" for remedy in fit.remedies)
    return (
        f'<div class="track">{spans}{mark}</div><p class="under {kind}">{text(note)}</p>'
        f"{f'<ul class=remedies>{remedies}</ul>' if remedies else ''}"
    )


def sizes(facts: ModelFacts, device: Device, context: int) -> str:
    """The memory of the model in each precision, each marked by whether it fits."""
    chips = "".join(
        f'<span class="{VERDICT_CLASSES[fit.verdict]}">{text(fit.precision)} <b>{number(fit.total.text)}</b></span>'
        for fit in fits(facts, device, context)
    )
    return f'<p class="sizes">{chips}</p>' if chips else ""


def explained(parsed: ParsedName, facts: ModelFacts | None, devices: Sequence[Device], context: int) -> str:
    """The name of a model taken apart, and every number of its sizes on the devices with its formula."""
    sentences = names.explain(parsed, facts.parameters if facts else None, facts.active if facts else None)
    parts = "".join(f"<li>{text(_translated_part(sentence))}</li>" for sentence in sentences)
    parts = f"<h4>{text(_('What its name says'))}</h4><ul>{parts}</ul>" if parts else ""
    return parts + "".join(_ways(facts, device, context) for device in devices if facts is not None)


def _translated_part(sentence: str) -> str:
    """An explanation in the current language. Some are a part of the name and what it means: "instruct: tuned ..."."""
    whole = translated(sentence)
    part, colon, meaning = sentence.partition(": ")
    return whole if whole != sentence or not colon else f"{part}: {translated(meaning.removesuffix('.'))}."


def details(row: OverviewRow, overview: Overview) -> str:
    """What opens below a model: its explanation and its facts."""
    facts = row.facts
    parsed = facts.parsed if facts else names.parse(row.name)
    parts = explained(parsed, facts, overview.devices, overview.context)
    parts += _facts_table(row, facts) if facts else ""
    return f'<details class="explained"><summary>{text(_("Explained"))}</summary>{parts}</details>' if parts else ""


def _ways(facts: ModelFacts, device: Device, context: int) -> str:
    """The model in each precision on a device; each row opens to its figures, and each of these to its formula."""
    rows = fits(facts, device, context)
    if not rows:
        return ""
    tokens = format_number(rows[0].context)
    heading = text(_("On {device}, for a conversation of {count} tokens", device=device.name, count=tokens))
    return f'<h4>{heading}</h4><div class="figures">{"".join(map(_way, rows))}</div>'


def _way(fit: Fit) -> str:
    speed = [_("up to {speed} tokens/s", speed=localize_numbers(human_speed(fit.speed.value)))] if fit.speed else []
    facts = join_isolated([localize_numbers(fit.total.text), *speed, verdict_text(fit.verdict)])
    figures = (fit.weights, fit.kv, fit.activations, fit.total, *([fit.speed] if fit.speed else []))
    rows = formula_list(figure_row(figure, name) for figure, name in zip(figures, FIGURE_NAMES, strict=False))
    kind = VERDICT_CLASSES[fit.verdict]
    return (
        f'<details><summary><span>{text(fit.precision)}</span><b class="{kind}">{text(facts)}</b></summary>'
        f"{rows}</details>"
    )


def _facts_table(row: OverviewRow, facts: ModelFacts) -> str:
    local, layout = row.local, facts.layout
    context = _("{count} tokens", count=format_number(layout.context_length)) if layout.context_length else ""
    template = {True: _("yes"), False: _("no: it is not made for chats"), None: ""}[facts.has_chat_template]
    files = localize_numbers(human_bytes(facts.file_bytes)) if facts.file_bytes else ""
    entries = [
        (_("Architecture"), layout.architecture),
        (_("Parameters"), format_number(facts.parameters) if facts.parameters else ""),
        (_("Experts"), _experts(facts)),
        (_("Context"), context),
        (_("Chat template"), template),
        (_("Licence"), facts.card.license),
        (_("Gated"), _("yes: its licence is accepted on its page") if facts.gated else ""),
        (_("Languages"), _languages(facts.card.languages)),
        (_("Files"), join_isolated(filter(None, (files, facts.stored)))),
        (_("Updated"), f"{local.updated:%Y-%m-%d}" if local and local.updated else ""),
        (_("Revision"), local.commit[:12] if local else ""),
        (_("Place"), isolate(str(local.path)) if local else ""),
    ]
    body = "".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in entries if value)
    body += "".join(map(_evaluation, facts.card.evaluations[:MAX_EVALUATIONS]))
    notes = "".join(f"<li>{text(translated(note))}</li>" for note in facts.notes)
    notes = f"<ul>{notes}</ul>" if notes else ""
    return f"<h4>{text(_('Facts'))}</h4><table><tbody>{body}</tbody></table>{notes}"


def _languages(codes: Sequence[str]) -> str:
    listed, more = ", ".join(codes[:MAX_LANGUAGES]), len(codes) - MAX_LANGUAGES
    return _("{listed} and {more} more", listed=listed, more=more) if more > 0 else listed


def _experts(facts: ModelFacts) -> str:
    layout = facts.layout
    if layout.experts <= 1:
        return ""
    used, experts = format_number(layout.used_experts), format_number(layout.experts)
    return _("{used} of {experts} for each token", used=used, experts=experts)


def _evaluation(result: Evaluation) -> str:
    source = result.source or result.url or _("by its authors")
    origin = join_isolated(filter(None, (source, result.date)))
    return (
        f"<tr><th>{text(f'{result.dataset}, {result.metric}')}</th>"
        f"<td>{number(str(result.value))} <small>{text(origin)}</small></td></tr>"
    )


def failure(status: ModelStatus | None) -> str:
    """Why a model failed; "" if it did not."""
    if status is None or status.error is None:
        return ""
    return f'<p class="model-failed">{text(error_messages.error_line(status.error))}</p>'
