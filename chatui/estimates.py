"""Estimates a model's memory and maximum speed, each number with its formula. Pure functions."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from chatui.chat import ModelAnatomy
from chatui.i18n import N_
from chatui.kv_size import KVSize
from chatui.settings import KvDtype
from chatui.units import human_bytes

Unit = Literal["B", "B/s", "tokens/s", "turn"]

PACKED_FORMATS = {
    "int8": N_("linear layers 9/8 B with their scales, the rest 2 B"),
    "int4": N_("linear layers 5/8 B with their scales, the output layer 9/8 B, the rest 2 B"),
}
ATTENTION_BLOCK = 64
"""Tokens of a K/V block, whose keys and values attention reads together."""
MAX_CHUNK = 256
"""Tokens of prompts that a forward pass reads at most: as many as keep the processor busy."""


@dataclass(frozen=True)
class AttentionShape:
    """What the activations of a prefill depend on. `widest` is the most outputs of a layer, `kv_per_token` bytes."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    widest: int
    kv_per_token: int
    writes_out: bool = False


@dataclass(frozen=True)
class Figure:
    """A number with its unit, and its formula with the values filled in."""

    name: str
    value: float
    unit: Unit
    formula: str

    @property
    def text(self) -> str:
        """The number with its unit, formatted for display."""
        if self.unit in ("B", "B/s"):
            return human_bytes(self.value) + self.unit.removeprefix("B")
        return N_(f"turn {self.value:,.0f}") if self.unit == "turn" else f"{human_speed(self.value)} tokens/s"


def in_precision(anatomy: ModelAnatomy, precision: str, bandwidth: float, kv_dtype: KvDtype = "auto") -> ModelAnatomy:
    """The anatomy with K/V and activations of the type that goes with a precision, and a bandwidth in bytes/s.

    `anatomy` has them in bfloat16. In float32 they take twice as much, but for K/V in int8.
    """
    factor, some = 2 if precision == "float32" else 1, anatomy.windowed
    int8 = anatomy.int8_kv_per_token if kv_dtype == "int8" else 0
    if some is not None:
        some = replace(some, kv_per_token=some.int8_kv_per_token if int8 else factor * some.kv_per_token)
    return replace(
        anatomy,
        kv_per_token=int8 or factor * anatomy.kv_per_token,
        windowed=some,
        activations=factor * anatomy.activations,
        activations_per_token=factor * anatomy.activations_per_token,
        bandwidth=bandwidth,
    )


def prefill_activations(shape: AttentionShape, size: int, piece: int) -> tuple[int, int]:
    """(bytes, bytes for each token before) of the prefill of one chunk of `piece` tokens. `size` is that of a number.

    The chunk takes tokens × (3 × hidden size in float32 + 3 × outputs of the widest layer). Each token before takes the
    larger of two peaks of PyTorch's attention: while the mask is made, it as booleans, as numbers, and once more for
    each head of a group, beside keys and values of one layer; and while values are gathered, that mask and four times
    the keys of one layer (three were measured, with K/V in int8 three and a half). Attention that is written out, for a
    softcap or sinks, takes three float32 for each head and token. Our own attention takes nothing for them, but
    whether it is used is not known before a model is loaded.
    """
    group, keys = shape.heads // (shape.kv_heads or max(1, shape.heads)), shape.kv_per_token // (2 * shape.layers)
    for_each = max(piece * (1 + size * (1 + group)) + 2 * keys, piece * size * group + 4 * keys)
    if shape.writes_out:
        for_each = piece * shape.heads * 3 * 4
    return piece * (3 * shape.hidden_size * 4 + 3 * shape.widest * size), for_each


def weights(anatomy: ModelAnatomy, precision: str) -> Figure:
    """The size of all weights. `precision` is a key of `anatomy.weights`."""
    taken, count = anatomy.weights[precision], anatomy.parameters
    how = N_(f" on average ({PACKED_FORMATS[precision]})") if precision in PACKED_FORMATS else ""
    return Figure("Weights", taken, "B", N_(f"{count:,} parameters × {taken / count:.3g} B{how}"))


def keys_and_values(anatomy: ModelAnatomy, conversations: int, context: int) -> Figure:
    """The size of the KV cache of `conversations` with `context` tokens each, in whole blocks.

    In a window, the tokens are those that are held at once.
    """
    held = kv_held(anatomy, ATTENTION_BLOCK * blocks_for(context))
    formula = held.formula if anatomy.windowed is None else f"({held.formula})"
    count = _plural(conversations, "conversation")
    return Figure("Keys and values", conversations * held.value, "B", f"{count} × {formula}")


def kv_cache(anatomy: ModelAnatomy, tokens: int, windowed_tokens: int = 0) -> Figure:
    """The size of a KV cache that holds so many tokens of all conversations together, and so many of those in layers
    with a window where others see all.
    """
    each, some = anatomy.kv_per_token, anatomy.windowed
    if some is None:
        return Figure("Keys and values", tokens * each, "B", N_(f"{tokens:,} tokens × {each:,} B"))
    full, windowed = each - some.kv_per_token, some.kv_per_token
    size = tokens * full + windowed_tokens * windowed
    formula = N_(
        f"{tokens:,} tokens × {full:,} B + {windowed_tokens:,} tokens × {windowed:,} B in layers with a window"
    )
    return Figure("Keys and values", size, "B", formula)


def kv_held(anatomy: ModelAnatomy, tokens: int) -> Figure:
    """The size of what a conversation of so many tokens holds at most."""
    windowed = anatomy.windowed and tokens_held(anatomy.windowed.window, tokens)
    return kv_cache(anatomy, tokens_held(anatomy.window, tokens), windowed or 0)


def kv_seen(anatomy: ModelAnatomy, tokens: int) -> Figure:
    """The size of what the last of so many tokens sees."""
    windowed = anatomy.windowed and min(tokens, anatomy.windowed.window)
    return kv_cache(anatomy, tokens if anatomy.window is None else min(tokens, anatomy.window), windowed or 0)


def activations(anatomy: ModelAnatomy, capacity: int) -> Figure:
    """The approximate size of the activations in the prefill of the last chunk (256 tokens) of `capacity` tokens."""
    fixed, each = anatomy.activations, anatomy.activations_per_token
    return Figure(
        "Activations",
        fixed + capacity * each,
        "B",
        N_(f"{human_bytes(fixed)} for a piece + {capacity:,} tokens before it × {each:,} B"),
    )


def total(parts: Iterable[Figure]) -> Figure:
    """The sum of figures in bytes."""
    parts = list(parts)
    return Figure("Total", sum(part.value for part in parts), "B", " + ".join(part.text for part in parts))


def memory(anatomy: ModelAnatomy, precision: str, conversations: int, context: int) -> tuple[Figure, ...]:
    """(weights, KV cache, activations, their sum) for `conversations` with `context` tokens each."""
    kv = keys_and_values(anatomy, conversations, context)
    parts = weights(anatomy, precision), kv, activations(anatomy, context)
    return *parts, total(parts)


def max_tokens_per_second(anatomy: ModelAnatomy, precision: str, rows: int = 1, context: int = 0) -> Figure:
    """The maximum speed by memory bandwidth, in tokens per second over all `rows` of the batch; 0 if it is not known.

    Each step reads the weights once, and the KV cache of the `context` tokens of each row, or of those in its window. A
    mixture of experts is slower if the rows use different experts. Only reading is counted, which
    https://arxiv.org/abs/2211.05102 (section 2) calls the memory time.
    """
    read, seen = anatomy.read[precision], kv_seen(anatomy, context)
    step_bytes = read + rows * seen.value
    speed = rows * anatomy.bandwidth / step_bytes if step_bytes else 0.0
    numerator = f"{human_bytes(anatomy.bandwidth)}/s"
    denominator = human_bytes(read)
    if context:
        formula = seen.formula if anatomy.windowed is None else f"({seen.formula})"
        denominator = f"({denominator} + {_plural(rows, 'row')} × {formula})"
    return Figure(
        "Ceiling",
        speed,
        "tokens/s",
        f"{_plural(rows, 'row')} × {numerator} ÷ {denominator}" if rows > 1 else f"{numerator} ÷ {denominator}",
    )


def turn(anatomy: ModelAnatomy, tokens: int) -> Figure:
    """The growth of the KV cache by one turn of a conversation: `tokens` of question and reply."""
    each = anatomy.kv_per_token
    return Figure("Memory per turn", tokens * each, "B", N_(f"{tokens:,} tokens × {each:,} B"))


def last_turn(anatomy: ModelAnatomy, tokens: int, capacity: int, free: float = float("inf")) -> Figure:
    """The number of the first turn that does not fit, with `tokens` tokens per turn.

    The conversation is limited to `capacity` tokens of context and to `free` bytes of KV cache.
    """
    size = tokens * anatomy.kv_per_token
    fitting = capacity // tokens
    formula = N_(f"{capacity:,} tokens of context ÷ {tokens:,} tokens")
    if size and free // size < fitting:
        fitting = int(free // size)
        formula = f"{human_bytes(free)} ÷ {human_bytes(size)}"
    return Figure("Room ends", fitting + 1, "turn", N_(f"{formula}, rounded down, + 1"))


def blocks_for(tokens: int) -> int:
    """The number of K/V blocks that hold so many tokens."""
    return -(-tokens // ATTENTION_BLOCK)


def blocks_in_window(window: int) -> int:
    """The number of full K/V blocks of which a token behind them sees some, where it sees `window` tokens."""
    return max(1, blocks_for(window - 1))


def blocks_held(tokens: int, window: int | None) -> int:
    """The most K/V blocks that a sequence of so many tokens takes at once.

    Where no layer sees more than a `window` of tokens, those are the blocks in it and what one pass reads.
    """
    if window is None:
        return blocks_for(tokens)
    return min(blocks_for(tokens), blocks_in_window(window) + blocks_for(ATTENTION_BLOCK - 1 + MAX_CHUNK))


def tokens_held(window: int | None, tokens: int) -> int:
    """Of how many tokens a sequence of so many has K/V in layers with such a window, at most."""
    return min(tokens, ATTENTION_BLOCK * blocks_held(tokens, window))


@dataclass(frozen=True)
class KVCapacity:
    """How many `blocks` there are, `windowed_blocks` of the layers with a window where those are a group of their own,
    and how many tokens a conversation may have. So many `conversations` are answered at once. Of states beside K/V
    there is room for as many `snapshots`, for later turns to go on from.
    """

    blocks: int
    windowed_blocks: int | None
    context: int
    conversations: int
    snapshots: int = 0


def kv_capacity(size: KVSize, context: int, budget: int, conversations: int, whole: bool = False) -> KVCapacity:
    """What fits in `budget` bytes, no more than so many conversations of the whole context need; at least one of them
    with `whole`.

    Layers with a window have as many blocks as all conversations see at once, and more if the budget has room for them:
    those keep the windows of conversations that rest.

    States beside K/V take at most half of the budget, if one conversation needs no more: a quarter those of
    conversations that are answered, which a pass writes anew beside the old ones, and a quarter the snapshots.
    """
    snapshots = 0
    if size.state_bytes:
        conversations = max(1, min(conversations, budget // 4 // (2 * size.state_bytes)))
        snapshots = max(1, budget // 4 // size.state_bytes)
        budget = max(0, budget - (2 * conversations + snapshots) * size.state_bytes)
    some = size.windowed
    each = blocks_held(context, size.window)
    seen = conversations * blocks_held(context, some.window if some else size.window)
    windowed = ATTENTION_BLOCK * (some.kv_per_token if some else 0)
    full = ATTENTION_BLOCK * size.per_token - windowed
    if whole:
        budget = max(budget, (each + 1) * full + (min(each, seen) + 1) * windowed)
    budget -= full + windowed  # block 0 is not used
    if not full + windowed:  # there is no attention
        return KVCapacity(conversations * each, None, context, conversations, snapshots)
    possible = budget // (full + windowed)
    if possible >= seen:
        possible = (budget - seen * windowed) // full
    blocks = max(1, min(conversations * each, possible))
    context = context if blocks >= each else min(context, ATTENTION_BLOCK * blocks)
    if some is None:
        return KVCapacity(blocks, None, context, conversations, snapshots)
    windowed_blocks = min(blocks, max(seen, (budget - blocks * full) // windowed))
    return KVCapacity(blocks, windowed_blocks, context, conversations, snapshots)


def human_speed(speed: float) -> str:
    """Format a number of tokens per second: 0.43, 7.2, 152."""
    return f"{speed:.2f}" if speed < 1 else f"{speed:.1f}" if speed < 10 else f"{speed:,.0f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
