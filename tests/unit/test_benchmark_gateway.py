"""The arithmetic of scripts/bench gateway."""

import asyncio
from unittest.mock import Mock

import pytest

from scripts.benchmark import lockstep
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


def test_in_lockstep_each_stream_goes_on_once_its_token_came() -> None:
    streams, written = lockstep.Streams(), list[list[bytes]]()
    for _ in range(2):
        sent: list[bytes] = []
        engine = lockstep.Engine(streams)
        engine.connection_made(Mock(write=sent.append))
        engine.data_received(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
        written.append(sent)
    assert [len(sent) for sent in written] == [2, 2]  # the head, and a token
    streams.came(written[1][1])
    assert [len(sent) for sent in written] == [2, 3]
    assert streams.tokens == 1
