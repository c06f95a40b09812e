"""The arithmetic of scripts/bench gateway --page."""

import asyncio
import json
import sys
from typing import Any
from unittest.mock import Mock

import pytest

from scripts.benchmark.page_counter import Drawn, Reader, drawn_between
from scripts.benchmark.page_gateway import figures_of, row
from scripts.benchmark.server_process import ROOT
from scripts.benchmark.token_counter import Order

WRITTEN = 1700000000.0


def reader() -> Reader:
    events: Any = Mock()
    return Reader("http://127.0.0.1:1", events, 0)


def redraw(*data: object) -> bytes:
    """An event of a stream that draws something."""
    output = {"data": data, "is_generating": True}
    return b"data: " + json.dumps({"msg": "process_generating", "output": output}).encode() + b"\n\n"


def text(first: int, last: int) -> str:
    return "".join(f" {WRITTEN + number:.4f}" for number in range(first, last))


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_each_token_is_drawn_once_however_its_stream_is_cut(size: int) -> None:
    sent = redraw("Waiting") + redraw(text(0, 3)) + redraw(["append", [0], text(3, 5)]) + redraw(text(0, 6))
    seen = reader()
    for at in range(0, len(sent), size):
        seen.came(sent[at : at + size], WRITTEN + 10 + at)
    assert [written - WRITTEN for written, _ in seen.tokens] == [0, 1, 2, 3, 4, 5]
    assert len(seen.redraws) == 3
    assert seen.begun.is_set()


def test_a_reply_has_begun_when_its_first_token_is_drawn() -> None:
    seen = reader()
    seen.came(redraw("Waiting"), WRITTEN)
    assert not seen.begun.is_set()
    assert seen.redraws == []
    seen.came(b'data: {"msg": "estimation"}\n\n' + redraw(text(0, 1)), WRITTEN + 1)
    assert seen.begun.is_set()
    assert not seen.ended
    seen.came(b'data: {"msg": "process_completed"}\n\n', WRITTEN + 2)
    assert seen.ended


def test_what_was_drawn_before_and_after_does_not_count() -> None:
    seen = reader()
    for second in range(6):
        seen.came(redraw(text(2 * second, 2 * second + 2)), WRITTEN + 100 + second)
    other = reader()
    other.came(redraw(text(0, 1)), WRITTEN + 102)
    drawn = drawn_between([seen, other], WRITTEN + 101, WRITTEN + 104, processor=1.5)
    assert (len(drawn.delays), drawn.intervals) == (7, [1.0, 1.0])
    assert (drawn.seconds, drawn.processor) == (3.0, 1.5)
    assert max(drawn.delays) == 102.0


def test_the_figures_of_a_measurement() -> None:
    order = Order((8000, 8001), streams=4, seconds=10.0, pids=(1, 2))
    drawn = Drawn([0.1] * 450 + [3.0] * 50, 10.0, 8.0, [0.5, 0.5, 2.0])
    assert row(figures_of(drawn, order, rate=25.0), order) == "| 4 | 2 | 100 | 50 (50.0%) | 100 | 3000 | 0.50 | 0.40 |"
    nothing = Drawn([], 10.0, 8.0, [])
    assert row(figures_of(nothing, order, rate=25.0), order) == "| 4 | 2 | 100 | 0 (0.0%) | - | - | - | 0.40 |"


async def test_an_engine_writes_once_so_many_replies_are_asked_for() -> None:
    command = [sys.executable, "-m", "scripts.benchmark.scripted_engine", "1000", "1", "2"]
    engine = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert engine.stdout is not None
    try:
        port = int(await engine.stdout.readline())
        replies = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for number, (stream, writer) in enumerate(replies):
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n\r\n")
            await stream.readuntil(b"\r\n\r\n")
            if number == 0:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(stream.read(1), 0.2)
        async with asyncio.timeout(30):
            assert b"data:" in await replies[0][0].readuntil(b"\n\n")
            assert b"data:" in await replies[1][0].readuntil(b"\n\n")
    finally:
        engine.terminate()
        await engine.wait()


async def test_a_tab_that_waits_for_changes_pauses_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, paused = list[str](), list[float]()

    async def ask(_method: str, path: str, _body: bytes = b"") -> bytes:
        asked.append(path.rpartition("&")[2])
        return b'HTTP/1.1 200 OK\r\n\r\n{"position":"p%d","chats":[],"delay":0.0,"pause":1.5}' % len(asked)

    async def sleep(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 2:
            raise asyncio.CancelledError

    seen = reader()
    monkeypatch.setattr(seen, "_ask", ask)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await seen._watch()
    assert (asked, paused) == (["seconds=1", "since=p1"], [1.5, 1.5])
