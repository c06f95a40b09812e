"""Every figure is what its formula says, and the formulas are those of the parts that take the memory."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatui import estimates
from chatui.chat import ModelAnatomy
from chatui.estimates import ATTENTION_BLOCK, MAX_CHUNK, AttentionShape, Figure
from chatui.kv_size import KVSize, WindowedLayers

# The most MB that were allocated at once while a pass read 256 tokens behind so many others: torch.profiler with
# profile_memory, PyTorch's own attention, a Llama model in bfloat16. The higher ones of two are with K/V in int8.
PEAKS = {
    AttentionShape(3, 576, 9, 3, 1536, 2304): [(0, 4.01), (2048, 8.83), (4096, 15.12)],
    AttentionShape(2, 1024, 16, 8, 3072, 8192): [(0, 8.42), (2048, 21.38), (2048, 23.88), (4096, 36.06), (4096, 40.79)],
    AttentionShape(2, 64, 4, 2, 128, 256): [(0, 0.71), (2048, 4.65), (4096, 8.58)],
}
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
ANATOMY = ModelAnatomy(
    layers=30,
    parameters=134_515_008,
    active=134_515_008,
    weights={"bfloat16": 269_030_016, "int4": 152_000_000, "Q4_1": 160_000_000},
    read={"bfloat16": 269_030_016, "int4": 95_000_000, "Q4_1": 103_000_000},
    kv_per_token=23_040,
    activations=4_000_000,
    activations_per_token=2_000,
    bandwidth=40e9,
)

# Written with two digits at the least.
sizes = st.integers(10**7, 10**12)


@st.composite
def anatomies(draw: st.DrawFn) -> ModelAnatomy:
    parameters = draw(sizes)
    return ModelAnatomy(
        layers=30,
        parameters=parameters,
        active=parameters,
        weights={"bfloat16": 2 * parameters},
        read={"bfloat16": draw(sizes)},
        kv_per_token=draw(st.integers(0, 10**7)),
        activations=draw(sizes),
        activations_per_token=draw(st.integers(0, 10**5)),
        bandwidth=draw(st.floats(1e9, 1e13)),
    )


def as_arithmetic(formula: str) -> float:
    """What the formula gives, read as arithmetic: without words, sizes in bytes."""
    text = formula.partition(" on average")[0].replace(",", "")
    for unit, factor in UNITS.items():
        text = re.sub(rf"([\d.]+) {unit}", rf"(\1 * {factor})", text)
    rounds = "rounded down" in text
    text = re.sub(r"[a-zA-Z/]", "", text).replace("×", "*").replace("÷", "/")
    if rounds:
        left, _, right = text.rpartition("+")
        return math.floor(float(eval(left))) + int(right)
    return float(eval(text))


def figures(anatomy: ModelAnatomy) -> list[Figure]:
    return [
        *estimates.memory(anatomy, "bfloat16", 16, 8192),
        estimates.max_tokens_per_second(anatomy, "bfloat16"),
        estimates.max_tokens_per_second(anatomy, "bfloat16", rows=8),
        estimates.max_tokens_per_second(anatomy, "bfloat16", rows=1, context=1000),
        estimates.max_tokens_per_second(anatomy, "bfloat16", rows=8, context=2000),
        estimates.turn(anatomy, 250),
        estimates.last_turn(anatomy, 250, 8192),
    ]


@given(anatomies())
def test_every_formula_gives_its_figure(anatomy: ModelAnatomy) -> None:
    for figure in figures(anatomy):
        assert as_arithmetic(figure.formula) == pytest.approx(figure.value, rel=0.12), figure


@pytest.mark.parametrize("precision", ["int4", "Q4_1"])
def test_packed_weights_say_how_they_are_held(precision: str) -> None:
    figure = estimates.weights(ANATOMY, precision)
    assert figure.value == ANATOMY.weights[precision]
    assert as_arithmetic(figure.formula) == pytest.approx(figure.value, rel=0.01)
    assert ("5/8 B" in figure.formula) == (precision == "int4")


def test_the_figures_of_a_small_model() -> None:
    shown = {figure.name: (figure.text, figure.formula) for figure in figures(ANATOMY)[:5]}
    assert shown == {
        "Weights": ("269 MB", "134,515,008 parameters × 2 B"),
        "Keys and values": ("3.0 GB", "16 conversations × 8,192 tokens × 23,040 B"),
        "Activations": ("20 MB", "4 MB for a piece + 8,192 tokens before it × 2,000 B"),
        "Total": ("3.3 GB", "269 MB + 3.0 GB + 20 MB"),
        "Ceiling": ("149 tokens/s", "40.0 GB/s ÷ 269 MB"),
    }


@given(anatomies(), st.integers(1, 256), st.integers(0, 100_000))
def test_a_batch_reads_the_weights_once_and_each_rows_keys_and_values(
    anatomy: ModelAnatomy, rows: int, context: int
) -> None:
    speed = estimates.max_tokens_per_second(anatomy, "bfloat16", rows, context).value
    bytes_read = anatomy.read["bfloat16"] + rows * context * anatomy.kv_per_token
    assert speed == pytest.approx(rows / (bytes_read / anatomy.bandwidth))
    assert speed <= rows * estimates.max_tokens_per_second(anatomy, "bfloat16").value * (1 + 1e-9)


def test_in_a_window_only_what_is_seen_takes_memory_and_time() -> None:
    windowed = replace(ANATOMY, window=4096)
    # 64 blocks that are seen, and at most 5 that are read at once.
    assert estimates.keys_and_values(windowed, 2, 32_768).formula == "2 conversations × 4,416 tokens × 23,040 B"
    assert estimates.keys_and_values(windowed, 2, 4096) == estimates.keys_and_values(ANATOMY, 2, 4096)
    assert [estimates.tokens_held(windowed.window, tokens) for tokens in (1000, 4400, 10**6)] == [1000, 4400, 4416]
    assert estimates.tokens_held(None, 10**6) == 10**6
    full, long = (estimates.max_tokens_per_second(windowed, "bfloat16", 1, tokens) for tokens in (4096, 32_768))
    assert full == long


def test_where_some_layers_have_a_window_those_alone_take_less() -> None:
    # 48 layers of Gemma 3 12B with 8 heads of 256: keys and values of 2 bytes, in 40 of the last 1024 tokens.
    mixed = replace(ANATOMY, kv_per_token=48 * 8192, windowed=WindowedLayers(1024, 40 * 8192))
    kv = estimates.keys_and_values(mixed, 1, 32_768)
    assert kv.value == 8192 * (8 * 32_768 + 40 * 1344) == 2_587_885_568
    assert kv.formula.startswith("1 conversation × (32,768 tokens × 65,536 B + 1,344 tokens × 327,680 B")
    assert estimates.keys_and_values(mixed, 1, 1024).value == 48 * 8192 * 1024
    assert estimates.kv_seen(mixed, 5000).value == 8192 * (8 * 5000 + 40 * 1024)
    speeds = [estimates.max_tokens_per_second(mixed, "bfloat16", 1, tokens).value for tokens in (0, 32_768)]
    seen = 8192 * (8 * 32_768 + 40 * 1024)
    assert speeds[0] / speeds[1] == pytest.approx(1 + seen / mixed.read["bfloat16"])


@given(
    st.integers(1, 1000),
    st.integers(1, 1000),
    st.one_of(st.none(), st.integers(1, 3000)),
    st.integers(1, 20_000),
    st.integers(0, 10**10),
    st.integers(1, 20),
    st.booleans(),
)
@example(full=1, windowed=5, window=1024, context=22 * ATTENTION_BLOCK, budget=0, rows=1, whole=True)
def test_blocks_take_no_more_than_the_budget_and_places_never_run_out(
    full: int, windowed: int, window: int | None, context: int, budget: int, rows: int, whole: bool
) -> None:
    some = None if window is None else WindowedLayers(window, windowed)
    size = KVSize(full + (windowed if some else 0), None, some)
    found = estimates.kv_capacity(size, context, budget, rows, whole)
    each, places = estimates.blocks_for(context), found.windowed_blocks or 0
    taken = ATTENTION_BLOCK * ((found.blocks + 1) * full + (places + 1) * (windowed if some else 0))
    if found.blocks > 1 and not whole:
        assert taken <= budget
    assert found.blocks <= rows * each
    assert found.context == min(context, ATTENTION_BLOCK * found.blocks)
    assert found.context == context or not whole
    assert (found.windowed_blocks is None) == (window is None)
    if window is not None:
        assert min(found.blocks, rows * estimates.blocks_held(context, window)) <= places <= found.blocks
        more = estimates.kv_capacity(size, context, budget + ATTENTION_BLOCK * (full + windowed), rows, whole)
        assert more.blocks >= found.blocks
        assert more.blocks > found.blocks or found.blocks == rows * each or found.blocks == 1 or whole


@given(st.integers(1, 20_000), st.integers(1, 5000), st.integers(1, MAX_CHUNK))
def test_a_sequence_never_holds_more_blocks_than_are_counted(length: int, window: int, piece: int) -> None:
    """Whatever it has read, and whatever it reads next."""
    begin = length // ATTENTION_BLOCK * ATTENTION_BLOCK
    first = max(0, begin - window + 1) // ATTENTION_BLOCK
    assert estimates.blocks_for(length + piece) - first <= estimates.blocks_held(10**6, window)


@given(anatomies(), st.integers(1, 5000), st.integers(1, 200_000), st.integers(0, 10**12))
def test_the_turn_at_which_the_room_ends_is_the_first_that_does_not_fit(
    anatomy: ModelAnatomy, tokens: int, capacity: int, free: int
) -> None:
    figure = estimates.last_turn(anatomy, tokens, capacity, free)

    def fits(turns: float) -> bool:
        return turns * tokens <= capacity and turns * tokens * anatomy.kv_per_token <= free

    assert fits(figure.value - 1)
    assert not fits(figure.value)


def test_the_room_ends_where_less_of_context_or_memory_is_left() -> None:
    assert estimates.last_turn(ANATOMY, 250, 8192).text == "turn 33"
    assert estimates.last_turn(ANATOMY, 250, 8192, free=20e6) == Figure(
        "Room ends", 4, "turn", "20 MB ÷ 6 MB, rounded down, + 1"
    )


@pytest.mark.parametrize(("speed", "text"), [(0.4321, "0.43"), (7.25, "7.2"), (152.4, "152"), (12_345, "12,345")])
def test_speeds_for_people(speed: float, text: str) -> None:
    assert estimates.human_speed(speed) == text


@pytest.mark.parametrize(
    ("shape", "before", "megabytes"),
    [(shape, before, peak) for shape, peaks in PEAKS.items() for before, peak in peaks],
)
def test_reading_a_prompt_takes_no_more_than_is_predicted(shape: AttentionShape, before: int, megabytes: float) -> None:
    fixed, for_each = estimates.prefill_activations(shape, 2, MAX_CHUNK)
    anatomy = replace(ANATOMY, activations=fixed, activations_per_token=for_each)
    predicted = estimates.activations(anatomy, before + MAX_CHUNK).value / 1e6
    assert megabytes <= predicted <= 1.4 * megabytes
