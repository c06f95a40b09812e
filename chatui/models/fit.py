"""Whether a model fits the memory of a device, how fast it can be there, and which of several models to choose."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from chatui import estimates
from chatui.chat import ModelAnatomy
from chatui.estimates import Figure, human_speed
from chatui.i18n import N_
from chatui.model_spec import GPU_PRECISIONS, PRECISIONS
from chatui.models.facts import ModelFacts
from chatui.models.names import NOT_FOR_CHATS
from chatui.settings import KvDtype
from chatui.units import human_bytes, human_count

Verdict = Literal["fits", "tight", "too large"]

TIGHT = 0.9
"""Share of the free memory from which a model is tight, since sizes are estimates."""
COMFORTABLE = 12
"""Tokens per second. Twice the speed of reading, which is about four words or six tokens per second."""
DEFAULT_CONTEXT = 4096
MIN_CONTEXT = 1024
"""The shortest context in tokens that is worth a suggestion."""
VERDICTS: tuple[Verdict, ...] = ("fits", "tight", "too large")


@dataclass(frozen=True)
class Device:
    """A device with memory. `free` and `total` are bytes, `bandwidth` is bytes/s or 0 if it was not measured.

    `kv_dtype` is the type that keys and values would have there.
    """

    name: str
    free: int
    total: int = 0
    bandwidth: float = 0.0
    kv_dtype: KvDtype = "auto"

    @property
    def is_cpu(self) -> bool:
        """Whether this is the main memory, in which weights can be int8 and int4."""
        return self.name.startswith("cpu")


@dataclass(frozen=True)
class Machine:
    """The devices of this machine. `default_model` is the GGUF file of the embedded default model, if installed."""

    devices: tuple[Device, ...]
    default_model: Path | None = None

    def with_kv_dtype(self, kv_dtype: KvDtype) -> "Machine":
        """The same with keys and values of this type on all devices."""
        return replace(self, devices=tuple(replace(device, kv_dtype=kv_dtype) for device in self.devices))


@dataclass(frozen=True)
class Fit:
    """One model on one device in one precision. `speed` is the maximum, None if the bandwidth is not known.

    `remedies` are sentences about what would make it fit; empty if it fits.
    """

    facts: ModelFacts
    device: Device
    precision: str
    context: int
    weights: Figure
    kv: Figure
    activations: Figure
    total: Figure
    speed: Figure | None
    verdict: Verdict
    remedies: tuple[str, ...] = ()

    @property
    def missing(self) -> float:
        """Bytes of free memory that lack, 0 if it fits."""
        return max(0.0, self.total.value - self.device.free)


@dataclass(frozen=True)
class Recommendation:
    """The model to choose, how to run it, and why, in a sentence."""

    fit: Fit
    reason: str


def fits(facts: ModelFacts, device: Device, context: int = DEFAULT_CONTEXT) -> tuple[Fit, ...]:
    """The model on a device in each precision, the largest first; none where the number of parameters is not known.

    `context` is the number of tokens of one conversation; at most what the model was made for counts.
    """
    if facts.anatomy is None:
        return ()
    names = (*PRECISIONS, *own_precisions(facts)) if device.is_cpu else tuple(GPU_PRECISIONS)
    return tuple(fit(facts, device, precision, context) for precision in names)


def own_precisions(facts: ModelFacts) -> tuple[str, ...]:
    """The type of a GGUF file whose levels are used as they are, such as "Q4_1"; empty for other models."""
    sizes = facts.anatomy.weights if facts.anatomy else ()
    return tuple(name for name in sizes if name not in PRECISIONS and name not in GPU_PRECISIONS)


def fit(facts: ModelFacts, device: Device, precision: str, context: int = DEFAULT_CONTEXT) -> Fit:
    """The model on a device in one precision, a key of `facts.anatomy.weights`."""
    if facts.anatomy is None:
        raise ValueError(f"the parameters of {facts.name} are not known")
    context = min(context, facts.layout.context_length or context)
    sizes = estimates.in_precision(facts.anatomy, precision, device.bandwidth, device.kv_dtype)
    weights, kv, activations, total = estimates.memory(sizes, precision, 1, context)
    speed = estimates.max_tokens_per_second(sizes, precision) if device.bandwidth else None
    verdict = _verdict(total.value, device)
    return Fit(
        facts=facts,
        device=device,
        precision=precision,
        context=context,
        weights=weights,
        kv=kv,
        activations=activations,
        total=total,
        speed=speed,
        verdict=verdict,
        remedies=remedies(facts.anatomy, device, precision, context, total.value) if verdict == "too large" else (),
    )


def best_fit(facts: ModelFacts, devices: Iterable[Device], context: int = DEFAULT_CONTEXT) -> Fit | None:
    """How to run a model here: the most exact way that fits and is faster than one reads, else the fastest that fits.

    A GGUF file whose levels are used as they are loses nothing, so that comes first. If nothing fits, it is the way
    that lacks least. None where the number of parameters is not known.
    """
    found = [fit for device in devices for fit in fits(facts, device, context) if fit.precision != "float32"]
    own = own_precisions(facts)
    kept = [fit for fit in found if fit.precision in own and fit.verdict != "too large"]
    return min(kept or found, key=_preference, default=None)


def runs_well(fit: Fit) -> tuple[int, float]:
    """Sort key for "what runs well here": comfortable models first, the strongest of them by size on top.

    Then come slower ones, the fastest first, then tight ones, and last what is too large, by the bytes that lack.
    """
    if fit.verdict == "too large":
        return 3, fit.missing
    if fit.verdict == "tight":
        return 2, -_speed(fit)
    return (0, -_strength(fit.facts)) if _is_comfortable(fit) else (1, -_speed(fit))


def recommend(
    models: Iterable[ModelFacts], devices: Iterable[Device], context: int = DEFAULT_CONTEXT
) -> Recommendation | None:
    """The best of the models for a chat on this machine: it has a chat template, fits, and runs well.

    Size stands for quality, since few models have comparable evaluation results. For a mixture of experts it is the
    geometric mean of all and of active parameters, a rule of thumb.
    """
    devices = list(devices)
    usable = [facts for facts in models if is_for_chats(facts)]
    found = [fit for facts in usable if (fit := best_fit(facts, devices, context)) and fit.verdict != "too large"]
    best = min(found, key=runs_well, default=None)
    return None if best is None else Recommendation(best, _reason(best, len(found)))


def is_for_chats(facts: ModelFacts) -> bool:
    """Whether the model can chat, as far as its chat template and its name say."""
    if facts.has_chat_template is not None:
        return facts.has_chat_template
    return NOT_FOR_CHATS.isdisjoint(facts.parsed.tunings)


def _verdict(needed: float, device: Device) -> Verdict:
    if needed > device.free:
        return "too large"
    return "tight" if needed > TIGHT * device.free else "fits"


def remedies(anatomy: ModelAnatomy, device: Device, precision: str, context: int, needed: float) -> tuple[str, ...]:
    """What would make it fit, in sentences: a lower precision, a shorter context, more memory."""
    lower = {}
    for name in PRECISIONS if device.is_cpu else GPU_PRECISIONS:
        sizes = estimates.in_precision(anatomy, name, 0, device.kv_dtype)
        smaller = estimates.memory(sizes, name, 1, context)[-1].value
        if smaller <= device.free and smaller < needed:
            lower[name] = smaller
    remedies = []
    for name, taken in lower.items():
        size = human_bytes(taken)
        remedies.append(N_(f"In {name} it takes {size}, which fits."))
    sizes = estimates.in_precision(anatomy, precision, 0, device.kv_dtype)
    shorter = _max_context(sizes, device, precision, context)
    if shorter >= MIN_CONTEXT:
        remedies.append(N_(f"With a context of {shorter:,} tokens it fits."))
    missing = human_bytes(needed - device.free)
    return (*remedies, N_(f"{missing} more of free memory would do."))


def _max_context(anatomy: ModelAnatomy, device: Device, precision: str, context: int) -> int:
    """The most tokens of context, a multiple of 1024 below `context`, with which it fits; 0 if not even 1024."""
    for tokens in range((context - 1) // MIN_CONTEXT * MIN_CONTEXT, 0, -MIN_CONTEXT):
        if estimates.memory(anatomy, precision, 1, tokens)[-1].value <= device.free:
            return tokens
    return 0


def _preference(fit: Fit) -> tuple[int, float]:
    if fit.verdict == "too large":
        return 3, fit.missing
    tight = fit.verdict == "tight"
    return (int(tight), -fit.weights.value) if _is_comfortable(fit) else (2, -_speed(fit))


def _is_comfortable(fit: Fit) -> bool:
    return fit.speed is None or fit.speed.value >= COMFORTABLE


def _strength(facts: ModelFacts) -> float:
    return math.sqrt(float(facts.parameters or 0) * (facts.active or 0))


def _speed(fit: Fit) -> float:
    return fit.speed.value if fit.speed else 0.0


def _reason(best: Fit, number: int) -> str:
    name, count = best.facts.name, human_count(best.facts.parameters or 0)
    needed, free, precision = best.total.text, human_bytes(best.device.free), best.precision
    if best.speed is None:
        return N_(
            f"{name}: with {count} parameters, it takes {needed} of {free} free in {precision}, the strongest of "
            f"{number} that fit, by size."
        )
    speed = human_speed(best.speed.value)
    if not _is_comfortable(best):
        return N_(
            f"{name}: with {count} parameters, it takes {needed} of {free} free in {precision} and can write up to "
            f"{speed} tokens/s, the fastest of {number} that fit, slower than one reads."
        )
    if best.verdict == "tight":
        return N_(
            f"{name}: with {count} parameters, it takes {needed} of {free} free in {precision}, which is tight, and "
            f"can write up to {speed} tokens/s."
        )
    if number == 1:
        return N_(
            f"{name}: with {count} parameters, it takes {needed} of {free} free in {precision} and can write up to "
            f"{speed} tokens/s, faster than one reads; the only one that fits."
        )
    return N_(
        f"{name}: with {count} parameters, it takes {needed} of {free} free in {precision} and can write up to "
        f"{speed} tokens/s, faster than one reads; the strongest by size of {number} that fit."
    )
