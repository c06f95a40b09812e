"""`python -m chatui explain`: what a model takes on this machine and how fast it can be, as text. Loads no weights."""

import textwrap

from chatui import estimates
from chatui.local.outline import Outline, outline
from chatui.model_spec import ModelSpec, human_bytes, human_count
from chatui.settings import AppSettings

COMFORTABLE = 12
"""Tokens per second: twice as fast as people read, which is four words or six tokens a second."""
MIN_CONTEXT = 1024
"""Tokens that one conversation should have room for, where the model allows as many."""
LINE = 100
"""Characters of a line at most."""
FLAGS = {
    "float32": "--dtype float32 --quantization none",
    "bfloat16": "--dtype bfloat16 --quantization none",
    "int8": "--quantization int8",
    "int4": "--quantization int4",
    "8bit": "--quantization 8bit",
    "4bit": "--quantization 4bit",
}
ON_CPU, ELSEWHERE = ("bfloat16", "int8", "int4"), ("bfloat16", "8bit", "4bit")
"""What can be advised, the most exact first."""


def report(settings: AppSettings) -> str:
    """What is to be said of the model that the settings name, in lines of at most 100 characters. Raises ModelError."""
    found = outline(ModelSpec.from_settings(settings))
    sizes = found.anatomy.weights
    lines = [
        settings.model,
        "",
        *_facts(found),
        "",
        f"Memory with {_conversations(found.slots, found.context_length)}, and the speed that reading it allows:",
        "",
        _columns("", "weights", "K/V", "in all", "at most", "room here for"),
        *(_row(found, precision) for precision in sorted(sizes, key=lambda precision: -sizes[precision])),
        "",
        "* is what `run` loads with these flags. How its figures come about:",
        "",
        *_formulas(found),
        "",
        *found.notes,
        advice(found),
    ]
    return "\n".join(wrapped for line in lines for wrapped in _wrapped(line))


def advice(found: Outline) -> str:
    """Which precision to take: the file's own levels, else the most exact that fits and is comfortable to read."""
    fitting = [name for name in (ON_CPU if found.device == "cpu" else ELSEWHERE) if _fits(found, name)]
    if found.asked not in FLAGS and _fits(found, found.asked):
        return f"Advised: {found.asked}, as the file has it, so that nothing is lost."
    if not fitting:
        return "Advised: a smaller model. None of these fits this machine."
    for name in fitting:
        if estimates.ceiling(found.anatomy_in(name), name).value >= COMFORTABLE:
            return f"Advised: {name} ({FLAGS[name]}), the most exact that fits and is faster than one reads."
    return f"Advised: {fitting[-1]} ({FLAGS[fitting[-1]]}), the fastest that fits, but slower than one reads."


def _facts(found: Outline) -> list[str]:
    known = found.anatomy
    speed = human_bytes(found.anatomy_in(found.asked).bandwidth)
    facts = {
        "Kind": found.kind,
        "Parameters": f"{known.parameters:,} ({human_count(known.parameters)})",
        "Active": f"{known.active:,} ({human_count(known.active)}) for each token",
        "Layers": f"{known.layers}",
        "Context": f"{found.context_length:,} tokens",
        "K/V": f"{known.kv_per_token:,} bytes for each token in bfloat16, twice as many in float32",
        "Files": human_bytes(found.stored) if found.stored is not None else "of unknown size",
        "Memory": f"{human_bytes(found.free)} free, read at {speed}/s ({found.device})",
    }
    return [f"{name:12}{text}" for name, text in facts.items()]


def _row(found: Outline, precision: str) -> str:
    known = found.anatomy_in(precision)
    weights, kv, _, total = estimates.memory(known, precision, found.slots, found.context_length)
    name = f"{precision} *" if precision == found.asked else precision
    speed = estimates.ceiling(known, precision)
    return _columns(name, weights.text, kv.text, total.text, speed.text, _room(found, precision, total.value))


def _room(found: Outline, precision: str, needed: float) -> str:
    slots, capacity = found.room(precision)
    if not slots:
        return "not its weights"
    whole = (slots, capacity) == (found.slots, found.context_length) and needed <= found.free
    return "all" if whole else _conversations(slots, capacity)


def _fits(found: Outline, precision: str) -> bool:
    return found.room(precision)[1] >= min(found.context_length, MIN_CONTEXT)


def _formulas(found: Outline) -> list[str]:
    known = found.anatomy_in(found.asked)
    parts = estimates.memory(known, found.asked, found.slots, found.context_length)
    return [
        f"{figure.name:16}{figure.text:>14} = {figure.formula}"
        for figure in (*parts, estimates.ceiling(known, found.asked))
    ]


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, LINE, subsequent_indent=" " * 33 if " = " in line else "") or [""]


def _conversations(slots: int, capacity: int) -> str:
    return f"{slots} conversation{'' if slots == 1 else 's'} of {capacity:,} tokens"


def _columns(name: str, weights: str, kv: str, total: str, speed: str, room: str) -> str:
    return f"{name:12}{weights:>9}{kv:>10}{total:>10}{speed:>20}   {room}"
