"""The texts and JSON of `chatui models explain` and `chatui models list`."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from chatui import estimates
from chatui.estimates import Figure
from chatui.models import names
from chatui.models.facts import ModelFacts
from chatui.models.fit import Device, Fit, Recommendation, best_fit, fits, runs_well
from chatui.units import human_bytes, human_count

LINE = 100
"""The longest line in characters, where words allow it."""


def as_json(value: Any) -> str:
    """JSON as every subcommand prints it with --json."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def as_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Columns of text for a terminal. Columns of numbers are aligned to the right."""
    lines = [list(header), *map(list, rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    to_right = [all(cell[:1].isdigit() or cell in ("", "-") for cell in column[1:]) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in lines
    )


def explanation(facts: ModelFacts, devices: Iterable[Device], context: int) -> str:
    """What is known of a model, and how it runs on each device, with the formulas of the best way."""
    devices = list(devices)
    lines = [facts.name, "", *names.explain(facts.parsed, facts.parameters, facts.active), ""]
    lines += [f"{name:15}{text}" for name, text in _fact_texts(facts) if text]
    for device in devices:
        rows = fits(facts, device, context)
        if rows:
            lines += ["", _device_line(device, rows[0].context), "", *_fit_table(rows).split("\n")]
    best = best_fit(facts, devices, context)
    if best:
        way = f"{best.precision} on {best.device.name}"
        lines += ["", f"It does not fit. Least lacks in {way}." if best.missing else f"Best here: {way}.", ""]
        lines += [f"{figure.name:17}{figure.text:>14} = {figure.formula}" for figure in _figures(best)]
        lines += ["", *best.remedies] if best.remedies else []
    lines += ["", *facts.notes] if facts.notes else []
    return "\n".join(part for line in lines for part in _wrap(line))


def explanation_json(facts: ModelFacts, devices: Iterable[Device], context: int) -> dict[str, Any]:
    """The same as a JSON object, sizes in bytes."""
    devices = list(devices)
    best = best_fit(facts, devices, context)
    return {
        **_facts_json(facts),
        "explanation": names.explain(facts.parsed, facts.parameters, facts.active),
        "notes": facts.notes,
        "fits": [_fit_json(fit) for device in devices for fit in fits(facts, device, context)],
        "best": _fit_json(best) if best else None,
    }


def model_list(
    models: Iterable[ModelFacts],
    devices: Iterable[Device],
    context: int,
    recommended: Recommendation | None,
    problems: Iterable[str] = (),
) -> str:
    """A table of models, what runs well here first, and the recommendation. `problems` are sentences below."""
    devices, models = list(devices), list(models)
    ranked = ranking(models, devices, context)
    rows = [_list_row(facts, best) for facts, best in ranked]
    lines = [_device_line(device, context) for device in devices] + [""]
    if rows:
        header = ("MODEL", "PARAMETERS", "ACTIVE", "FILES", "BEST AS", "MEMORY", "AT MOST", "HERE")
        lines += as_table(header, rows).split("\n")
    else:
        lines.append("There are no models here.")
    if recommended:
        lines += ["", *textwrap.wrap(f"Recommended for this machine: {recommended.reason}", LINE)]
    return "\n".join([*lines, *(["", *problems] if problems else [])])


def model_list_json(
    models: Iterable[ModelFacts],
    devices: Iterable[Device],
    context: int,
    recommended: Recommendation | None,
    problems: Iterable[str] = (),
) -> dict[str, Any]:
    """The same as a JSON object."""
    devices = list(devices)
    return {
        "devices": [asdict(device) for device in devices],
        "context": context,
        "models": [
            {**_facts_json(facts), "best": _fit_json(best) if best else None}
            for facts, best in ranking(models, devices, context)
        ],
        "recommended": {"model": recommended.fit.facts.name, "reason": recommended.reason} if recommended else None,
        "problems": list(problems),
    }


def ranking(
    models: Iterable[ModelFacts], devices: Iterable[Device], context: int
) -> list[tuple[ModelFacts, Fit | None]]:
    """The models with the best way to run each, sorted by what runs well here; those of unknown size come last."""
    devices = list(devices)
    found = [(facts, best_fit(facts, devices, context)) for facts in models]
    return sorted(found, key=lambda pair: (runs_well(pair[1]) if pair[1] else (4, 0.0), pair[0].name))


def _fact_texts(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    layout = facts.layout
    yield "Architecture", layout.architecture
    if facts.parameters:
        yield "Parameters", f"{facts.parameters:,} ({human_count(facts.parameters)})"
    if facts.active and facts.active != facts.parameters:
        experts = f"{layout.used_experts} of {layout.experts} experts"
        yield "Active", f"{facts.active:,} ({human_count(facts.active)}) for each token: {experts}"
    yield "Layers", f"{layout.layers}" if layout.layers else ""
    yield "Context", f"{layout.context_length:,} tokens" if layout.context_length else ""
    if facts.kv_per_token is not None:
        yield "K/V", f"{facts.kv_per_token:,} bytes for each token in bfloat16"
    stored = f" ({facts.stored})" if facts.stored else ""
    yield "Files", f"{human_bytes(facts.file_bytes)}{stored}" if facts.file_bytes else ""
    yield "Chat template", {True: "yes", False: "no", None: ""}[facts.has_chat_template]
    yield "Licence", facts.card.license
    yield "Gated", "yes: its licence is accepted on its page" if facts.gated else ""
    yield "Languages", ", ".join(facts.card.languages)
    for result in facts.card.evaluations:
        origin = ", ".join(filter(None, (result.source or result.url or "by its authors", result.date)))
        yield "Evaluation", f"{result.dataset}, {result.metric}: {result.value} ({origin})"


def _device_line(device: Device, context: int) -> str:
    total = f" of {human_bytes(device.total)}" if device.total else ""
    speed = f", read at {human_bytes(device.bandwidth)}/s" if device.bandwidth else ""
    return f"{device.name}: {human_bytes(device.free)}{total} free{speed}; for one conversation of {context:,} tokens"


def _fit_table(rows: Iterable[Fit]) -> str:
    header = ("PRECISION", "WEIGHTS", "K/V", "ACTIVATIONS", "IN ALL", "AT MOST", "HERE")
    return as_table(
        header,
        [
            (
                *(fit.precision, fit.weights.text, fit.kv.text, fit.activations.text, fit.total.text),
                fit.speed.text if fit.speed else "-",
                fit.verdict,
            )
            for fit in rows
        ],
    )


def _figures(fit: Fit) -> list[Figure]:
    return [fit.weights, fit.kv, fit.activations, fit.total, *([fit.speed] if fit.speed else [])]


def _list_row(facts: ModelFacts, best: Fit | None) -> tuple[str, ...]:
    parameters = human_count(facts.parameters) if facts.parameters else "-"
    active = human_count(facts.active) if facts.active and facts.active != facts.parameters else "-"
    files = human_bytes(facts.file_bytes) if facts.file_bytes else "-"
    if best is None:
        return facts.name, parameters, active, files, "-", "-", "-", "not known"
    speed = f"{estimates.human_speed(best.speed.value)} tokens/s" if best.speed else "-"
    lacks = f" by {human_bytes(best.missing)}" if best.missing else ""
    return facts.name, parameters, active, files, best.precision, best.total.text, speed, f"{best.verdict}{lacks}"


def _facts_json(facts: ModelFacts) -> dict[str, Any]:
    layout = facts.layout
    return {
        "name": facts.name,
        "parameters": facts.parameters,
        "active_parameters": facts.active,
        "is_exact": facts.is_exact,
        "architecture": layout.architecture,
        "layers": layout.layers or None,
        "context_length": layout.context_length,
        "kv_bytes_per_token": facts.kv_per_token,
        "experts": layout.experts,
        "used_experts": layout.used_experts,
        "file_bytes": facts.file_bytes,
        "stored": facts.stored,
        "has_chat_template": facts.has_chat_template,
        "license": facts.card.license,
        "gated": facts.gated,
        "languages": facts.card.languages,
        "evaluations": [asdict(result) for result in facts.card.evaluations],
    }


def _fit_json(fit: Fit) -> dict[str, Any]:
    figures = {
        name: {"value": figure.value, "unit": figure.unit, "formula": figure.formula} if figure else None
        for name, figure in {
            "weights": fit.weights,
            "kv": fit.kv,
            "activations": fit.activations,
            "total": fit.total,
            "max_tokens_per_second": fit.speed,
        }.items()
    }
    return {
        "device": fit.device.name,
        "precision": fit.precision,
        "context": fit.context,
        "verdict": fit.verdict,
        "missing_bytes": int(fit.missing),
        "remedies": fit.remedies,
        **figures,
    }


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, LINE, subsequent_indent=" " * 34 if " = " in line else "") or [""]
