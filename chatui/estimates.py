"""What a model takes in memory and how fast it can be at best, each number with the formula it comes from. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from chatui.chat import ModelAnatomy
from chatui.i18n import N_
from chatui.model_spec import human_bytes

Unit = Literal["B", "B/s", "tokens/s", "turn"]

HELD = {
    "int8": "linear layers 1 B and a scale for each output, the rest 2 B",
    "int4": "linear layers 5/8 B with their scales, the output layer 1 B, the rest 2 B",
}
BLOCK = 64
"""Positions of a slot that are looked at together, or not at all; so compiled loops have no remainders."""


@dataclass(frozen=True)
class Figure:
    """A number in its unit, and the formula that it comes from, with the values in it."""

    name: str
    value: float
    unit: Unit
    formula: str

    @property
    def text(self) -> str:
        """The number for people."""
        if self.unit in ("B", "B/s"):
            return human_bytes(self.value) + self.unit.removeprefix("B")
        return N_(f"turn {self.value:,.0f}") if self.unit == "turn" else f"{human_speed(self.value)} tokens/s"


def weights(anatomy: ModelAnatomy, precision: str) -> Figure:
    """What all weights take. `precision` is a name in `anatomy.weights`."""
    taken, count = anatomy.weights[precision], anatomy.parameters
    how = N_(f" on average ({HELD[precision]})") if precision in HELD else ""
    return Figure("Weights", taken, "B", N_(f"{count:,} parameters × {taken / count:.3g} B{how}"))


def keys_and_values(anatomy: ModelAnatomy, slots: int, capacity: int) -> Figure:
    """What so many conversations of `capacity` tokens take once they are full."""
    positions = positions_for(capacity)
    each = anatomy.kv_per_token
    return Figure(
        "Keys and values",
        slots * positions * each,
        "B",
        f"{_many(slots, 'slot')} × {positions:,} positions × {each:,} B",
    )


def activations(anatomy: ModelAnatomy, capacity: int) -> Figure:
    """What reading the last piece of a prompt of `capacity` tokens takes besides, roughly; a piece has 256 tokens."""
    fixed, each = anatomy.activations, anatomy.activations_per_token
    return Figure(
        "Activations",
        fixed + capacity * each,
        "B",
        N_(f"{human_bytes(fixed)} for a piece + {capacity:,} tokens before it × {each:,} B"),
    )


def total(parts: Iterable[Figure]) -> Figure:
    """The sum of figures in bytes."""
    known = list(parts)
    return Figure("Total", sum(part.value for part in known), "B", " + ".join(part.text for part in known))


def memory(anatomy: ModelAnatomy, precision: str, slots: int, capacity: int) -> tuple[Figure, ...]:
    """Weights, keys and values, activations, and their sum, for so many conversations of `capacity` tokens."""
    parts = weights(anatomy, precision), keys_and_values(anatomy, slots, capacity), activations(anatomy, capacity)
    return *parts, total(parts)


def ceiling(anatomy: ModelAnatomy, precision: str, rows: int = 1, context: int = 0) -> Figure:
    """Tokens per second of `rows` conversations in all that reading the memory alone allows; 0 if nothing is known.

    Each step reads the weights once, and the keys and values of the `context` tokens of each row. The rows of a mixture
    of experts may want different experts, and then are slower. The bound counts reading only:
    https://arxiv.org/abs/2211.05102 (section 2), which calls it the memory time.
    """
    read = anatomy.read[precision]
    needed = read + rows * context * anatomy.kv_per_token
    speed = rows * anatomy.bandwidth / needed if needed else 0.0
    numerator = f"{human_bytes(anatomy.bandwidth)}/s"
    denominator = human_bytes(read)
    if context:
        denominator = f"({denominator} + {_many(rows, 'row')} × {context:,} tokens × {anatomy.kv_per_token:,} B)"
    return Figure(
        "Ceiling",
        speed,
        "tokens/s",
        f"{_many(rows, 'row')} × {numerator} ÷ {denominator}" if rows > 1 else f"{numerator} ÷ {denominator}",
    )


def turn(anatomy: ModelAnatomy, tokens: int) -> Figure:
    """What one turn of a conversation, question and reply, adds to its keys and values."""
    each = anatomy.kv_per_token
    return Figure("Memory per turn", tokens * each, "B", N_(f"{tokens:,} tokens × {each:,} B"))


def last_turn(anatomy: ModelAnatomy, tokens: int, capacity: int, free: float = float("inf")) -> Figure:
    """The first turn that a conversation has no room for, where each has so many tokens: `capacity` tokens fit its
    context, and `free` bytes are left for its keys and values.
    """
    size = tokens * anatomy.kv_per_token
    fitting = capacity // tokens
    formula = N_(f"{capacity:,} tokens of context ÷ {tokens:,} tokens")
    if size and free // size < fitting:
        fitting = int(free // size)
        formula = f"{human_bytes(free)} ÷ {human_bytes(size)}"
    return Figure("Room ends", fitting + 1, "turn", N_(f"{formula}, rounded down, + 1"))


def positions_for(capacity: int) -> int:
    """Positions that a slot for so many tokens takes: whole blocks, and one more, which nobody looks at.

    To compilers a part is another thing than the whole, and one block another than several.
    """
    return BLOCK * max(4, -(-capacity // BLOCK) + 1)


def human_speed(speed: float) -> str:
    """Tokens per second for people: 0.43, 7.2, 152."""
    return f"{speed:.2f}" if speed < 1 else f"{speed:.1f}" if speed < 10 else f"{speed:,.0f}"


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
