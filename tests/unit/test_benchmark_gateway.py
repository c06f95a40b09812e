"""The arithmetic of scripts/bench gateway."""

import asyncio

import pytest

from scripts.benchmark.gateway import figures_of, row
from scripts.benchmark.scripted_engine import TOKEN
from scripts.benchmark.token_counter import Counted, Order, Stream


def test_the_figures_of_a_measurement() -> None:
    order = Order((8000,), streams=4, seconds=10.0, pids=(1,))
    figures = figures_of(Counted([0.010] * 450 + [0.200] * 50, seconds=10.0, processor=0.1), order, rate=25.0)
    assert (figures.offered, figures.reached, figures.share) == (100.0, 50.0, 0.5)
    assert figures.p50 == pytest.approx(10.0)
    assert figures.p99 == pytest.approx(200.0)
    assert figures.milliseconds_per_1000 == pytest.approx(200.0)
    assert row(figures, order) == "| 4 | 1 | 100 | 50 (50.0%) | 10.0 | 200.0 | 200 |"


def test_nothing_that_came_has_no_delay() -> None:
    order = Order((8000,), streams=4, seconds=10.0)
    figures = figures_of(Counted([], seconds=10.0, processor=0.0), order, rate=25.0)
    assert row(figures, order) == "| 4 | none | 100 | 0 (0.0%) | - | - | - |"


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_tokens_are_counted_however_they_are_cut(size: int) -> None:
    tokens: list[tuple[float, float]] = []
    stream = Stream(tokens)
    sent = TOKEN % 1700000000.25 + TOKEN % 1700000000.5
    for at in range(0, len(sent), size):
        stream.data_received(sent[at : at + size])
    assert [written for written, _ in tokens] == [1700000000.25, 1700000000.5]
    await asyncio.wait_for(stream.begun, 1)
