"""`python -m chatui explain`: a report of a model's memory and maximum speed on this machine. Loads no weights."""

import textwrap

from chatui import estimates
from chatui.engine.outline import Outline, outline
from chatui.model_spec import ModelSpec
from chatui.models.fit import COMFORTABLE
from chatui.settings import AppSettings
from chatui.units import human_bytes, human_count

MIN_CONTEXT = 1024
"""Context length in tokens that an advised precision must allow, unless the model's own is shorter."""
LINE = 100
"""Maximum length of a line in characters."""
FLAGS = {
    "float32": "--dtype float32 --quantization none",
    "bfloat16": "--dtype bfloat16 --quantization none",
    "int8": "--quantization int8",
    "int4": "--quantization int4",
    "8bit": "--quantization 8bit",
    "4bit": "--quantization 4bit",
}
ON_CPU, ELSEWHERE = ("bfloat16", "int8", "int4"), ("bfloat16", "8bit", "4bit")
"""The precisions that may be advised, the most exact first."""


def report(settings: AppSettings) -> str:
    """The report of the model that the settings name, in lines of at most 100 characters. Raises ModelError."""
    model = outline(ModelSpec.from_settings(settings))
    sizes = model.anatomy.weights
    lines = [
        settings.model[0],
        "",
        *_fact_lines(model),
        "",
        f"Memory with {_conversations(model.slots, model.context_length)}, and the speed that reading it allows:",
        "",
        _columns("", "weights", "K/V", "in all", "at most", "room here for"),
        *(_row(model, precision) for precision in sorted(sizes, key=lambda precision: -sizes[precision])),
        "",
        "* is what `run` loads with these flags. How its figures come about:",
        "",
        *_formula_lines(model),
        "",
        *model.notes,
        advice(model),
    ]
    return "\n".join(part for line in lines for part in _wrap(line))


def advice(model: Outline) -> str:
    """Which precision to use: the levels of a GGUF file, else the most exact that fits and is faster than reading."""
    fitting = [name for name in (ON_CPU if model.device == "cpu" else ELSEWHERE) if _fits(model, name)]
    if model.asked not in FLAGS and _fits(model, model.asked):
        return f"Advised: {model.asked}, as the file has it, so that nothing is lost."
    if not fitting:
        return "Advised: a smaller model. None of these fits this machine."
    for name in fitting:
        if estimates.max_tokens_per_second(model.anatomy_in(name), name).value >= COMFORTABLE:
            return f"Advised: {name} ({FLAGS[name]}), the most exact that fits and is faster than one reads."
    return f"Advised: {fitting[-1]} ({FLAGS[fitting[-1]]}), the fastest that fits, but slower than one reads."


def _fact_lines(model: Outline) -> list[str]:
    anatomy = model.anatomy
    asked = model.anatomy_in(model.asked)
    kv = f"{anatomy.kv_per_token:,} bytes for each token in bfloat16, twice as many in float32"
    if model.spec.kv_dtype == "int8" and anatomy.int8_kv_per_token:
        kv = f"{anatomy.int8_kv_per_token:,} bytes for each token in int8"
    if anatomy.window is not None:
        kv += f"; each token sees {anatomy.window:,} at most, and others are not kept"
    if anatomy.windowed is not None:
        some = anatomy.windowed
        kv += (
            f"; {some.kv_per_token:,} of those in bfloat16 are of layers that see {some.window:,} tokens at most, and "
        )
        kv += "keep no others"
    facts = {
        "Kind": model.kind,
        "Parameters": f"{anatomy.parameters:,} ({human_count(anatomy.parameters)})",
        "Active": f"{anatomy.active:,} ({human_count(anatomy.active)}) for each token",
        "Layers": f"{anatomy.layers}",
        "Context": f"{model.context_length:,} tokens",
        "K/V": kv,
        "Files": human_bytes(model.stored) if model.stored is not None else "of unknown size",
        "Memory": f"{human_bytes(model.free)} free, read at {human_bytes(asked.bandwidth)}/s ({model.device})",
    }
    return [f"{name:12}{text}" for name, text in facts.items()]


def _row(model: Outline, precision: str) -> str:
    anatomy = model.anatomy_in(precision)
    weights, kv, _, total = estimates.memory(anatomy, precision, model.slots, model.context_length)
    name = f"{precision} *" if precision == model.asked else precision
    speed = estimates.max_tokens_per_second(anatomy, precision)
    return _columns(name, weights.text, kv.text, total.text, speed.text, _capacity_text(model, precision, total.value))


def _capacity_text(model: Outline, precision: str, needed: float) -> str:
    tokens, _ = model.kv_capacity(precision)
    if not tokens:
        return "not its weights"
    wanted = model.slots * estimates.tokens_held(model.anatomy.window, model.context_length)
    return "all" if tokens >= wanted and needed <= model.free else f"{tokens:,} tokens in all"


def _fits(model: Outline, precision: str) -> bool:
    return model.kv_capacity(precision)[1] >= min(model.context_length, MIN_CONTEXT)


def _formula_lines(model: Outline) -> list[str]:
    anatomy = model.anatomy_in(model.asked)
    parts = estimates.memory(anatomy, model.asked, model.slots, model.context_length)
    return [
        f"{figure.name:16}{figure.text:>14} = {figure.formula}"
        for figure in (*parts, estimates.max_tokens_per_second(anatomy, model.asked))
    ]


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, LINE, subsequent_indent=" " * 33 if " = " in line else "") or [""]


def _conversations(slots: int, capacity: int) -> str:
    return f"{slots} conversation{'' if slots == 1 else 's'} of {capacity:,} tokens"


def _columns(name: str, weights: str, kv: str, total: str, speed: str, capacity: str) -> str:
    return f"{name:12}{weights:>9}{kv:>10}{total:>10}{speed:>20}   {capacity}"
