import asyncio
import math
from collections.abc import AsyncGenerator
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.chat import ReplyDelta
from chatui.errors import ChatError
from chatui.ui.shared import redraw
from chatui.ui.shared.redraw import (
    RedrawCost,
    SingleFlight,
    Superseding,
    batch_deltas,
    flush_interval,
    redraw_interval,
)


class Source:
    """A stream of numbered pieces that remembers whether it was closed."""

    def __init__(self, count: int, pause: float = 0.0, error: ChatError | None = None) -> None:
        self.count, self.pause, self.error = count, pause, error
        self.closed = False

    async def stream(self) -> AsyncGenerator[ReplyDelta]:
        try:
            for number in range(self.count):
                await asyncio.sleep(self.pause)
                yield ReplyDelta(text=f"{number},")
            if self.error:
                raise self.error
        finally:
            self.closed = True


async def test_nothing_is_lost_and_the_order_kept() -> None:
    source = Source(500)
    batches = [batch async for batch in batch_deltas(source.stream(), flush=0.01)]
    text = "".join(delta.text for batch in batches for delta in batch)
    assert text == "".join(f"{number}," for number in range(500))
    assert len([batch for batch in batches if batch]) < 250
    assert source.closed


async def test_the_first_piece_comes_at_once_and_the_last_is_not_held() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    arrived = [loop.time() - started async for _ in batch_deltas(Source(1).stream(), flush=30.0)]
    assert len(arrived) == 1
    assert loop.time() - started < 30.0


async def test_silence_is_filled_with_heartbeats() -> None:
    go_on = asyncio.Event()

    async def stream() -> AsyncGenerator[ReplyDelta]:
        await go_on.wait()
        yield ReplyDelta(text="a")

    batches = list[list[ReplyDelta]]()
    async for batch in batch_deltas(stream(), heartbeat=0.02):
        batches.append(batch)
        if batches == [[]] * 3:
            go_on.set()
    assert batches[:3] == [[]] * 3
    assert batches[-1] == [ReplyDelta(text="a")]


async def test_errors_come_after_the_text_before_them() -> None:
    seen: list[ReplyDelta] = []

    async def consume() -> None:
        async for batch in batch_deltas(Source(3, error=ChatError("broken")).stream()):
            seen.extend(batch)

    with pytest.raises(ChatError, match="broken"):
        await consume()
    assert [delta.text for delta in seen] == ["0,", "1,", "2,"]


async def test_unforeseen_errors_are_passed_on() -> None:
    async def stream() -> AsyncGenerator[ReplyDelta]:
        yield ReplyDelta(text="a")
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        _ = [batch async for batch in batch_deltas(stream())]


@pytest.mark.parametrize("wait_for", ["piece", "silence"])
async def test_closing_ends_the_stream(wait_for: str) -> None:
    source = Source(10**6, pause=0.001 if wait_for == "piece" else 60.0)
    batches = batch_deltas(source.stream(), heartbeat=0.01)
    await anext(batches)
    await batches.aclose()
    assert source.closed


async def test_cancelling_ends_the_stream() -> None:
    source = Source(10**6, pause=60.0)

    async def consume() -> None:
        async for _ in batch_deltas(source.stream()):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed


# --- The newest event of a tab ---


async def test_the_newest_event_of_a_tab_ends_the_one_before_and_waits_for_its_last_word() -> None:
    superseding, order = Superseding(), []

    async def first(started: asyncio.Event) -> None:
        async with superseding.supersede("tab") as superseded:
            started.set()
            await superseded.wait()
            await asyncio.sleep(0)
            order.append("first")

    started = asyncio.Event()
    task = asyncio.create_task(first(started))
    await started.wait()
    async with superseding.supersede("tab") as superseded:
        order.append("second")
        assert not superseded.is_set()
    await task
    assert order == ["first", "second"]


async def test_of_three_events_only_the_last_goes_on() -> None:
    superseding, going_on = Superseding(), []
    started = [asyncio.Event() for _ in range(3)]

    async def event(number: int) -> None:
        async with superseding.supersede("tab") as superseded:
            started[number].set()
            await asyncio.sleep(0.01)
            if not superseded.is_set():
                going_on.append(number)

    await asyncio.gather(*(event(number) for number in range(3)))
    assert going_on == [2]
    assert all(each.is_set() for each in started)


@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("", "")], ids=["two tabs", "programs"])
async def test_events_from_elsewhere_go_on(one: str, other: str) -> None:
    superseding = Superseding()
    async with superseding.supersede(one) as first, superseding.supersede(other) as second:
        assert not first.is_set()
        assert not second.is_set()


async def test_an_event_that_does_not_end_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redraw, "MAX_HANDOVER_SECONDS", 0.01)
    superseding = Superseding()
    async with superseding.supersede("tab") as first, superseding.supersede("tab") as second:
        assert first.is_set()
        assert not second.is_set()


async def test_an_event_that_fails_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redraw, "MAX_HANDOVER_SECONDS", 3600.0)
    superseding = Superseding()

    async def fail() -> None:
        async with superseding.supersede("tab"):
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        await fail()
    async with asyncio.timeout(10), superseding.supersede("tab") as superseded:
        assert not superseded.is_set()


def test_long_replies_are_redrawn_less_often_but_often_enough() -> None:
    paces = [flush_interval(characters) for characters in (0, 1_000, 10_000, 15_000, 100_000, 10**9)]
    assert paces == sorted(paces)
    assert (paces[0], paces[-1]) == (redraw.FLUSH_SECONDS, redraw.MAX_FLUSH_SECONDS)
    assert flush_interval(0, flush=30.0) == 30.0


REPLIES, COSTS, CHARACTERS = st.integers(1, 1000), st.floats(0, 1) | st.just(math.inf), st.integers(0, 10**6)


@given(REPLIES, COSTS, CHARACTERS)
def test_a_reply_is_redrawn_often_enough_however_much_it_costs(replies: int, cost: float, characters: int) -> None:
    interval = redraw_interval(replies, cost, characters)
    least = flush_interval(characters)
    assert least <= interval <= max(least, min(0.03 * replies, redraw.MAX_REDRAW_SECONDS))


@given(REPLIES, COSTS, COSTS, CHARACTERS)
def test_what_costs_more_is_redrawn_less_often(replies: int, cost: float, other: float, characters: int) -> None:
    low, high = sorted((cost, other))
    assert redraw_interval(replies, low, characters) <= redraw_interval(replies, high, characters)
    assert redraw_interval(replies, cost, characters) <= redraw_interval(replies + 1, cost, characters)


@given(REPLIES, st.floats(0, redraw.FLUSH_SECONDS_PER_REPLY * redraw.PROCESS_SHARE))
def test_the_process_keeps_to_its_share_while_redraws_are_not_the_fewest(replies: int, cost: float) -> None:
    interval = redraw_interval(replies, cost)
    assert replies / interval * cost <= redraw.PROCESS_SHARE + 1e-9 or interval == redraw.MAX_REDRAW_SECONDS


class Process:
    """A process that redraws replies in a simulated time: its other work, and that of each redraw."""

    def __init__(self, replies: int, other: float, each: float) -> None:
        self.replies, self.other, self.each = replies, other, each
        self.now = self.worked = 0.0
        self.cost = RedrawCost(lambda: self.worked, lambda: self.now)
        self.interval = 0.0

    def run(self, seconds: float) -> float:
        """The share of a core that it takes at the end of so many seconds."""
        end, share = self.now + seconds, 0.0
        while self.now < end:
            self.cost.count_redraw()
            self.interval = redraw_interval(self.replies, self.cost.seconds)
            passed = self.interval / self.replies
            self.now += passed
            self.worked += self.each + self.other * passed
            share = self.each / passed + self.other
        return share


def test_redraws_take_what_is_left_of_the_share_of_a_process() -> None:
    few = Process(replies=10, other=0.1, each=0.003)
    assert few.run(20) < redraw.PROCESS_SHARE
    assert few.interval == redraw.FLUSH_SECONDS
    many = Process(replies=100, other=0.35, each=0.003)
    assert many.run(60) == pytest.approx(redraw.PROCESS_SHARE, rel=0.01)
    assert many.interval == pytest.approx(100 * 0.003 / (redraw.PROCESS_SHARE - 0.35), rel=0.01)
    many.other = 0.1
    many.run(60)
    assert many.interval == pytest.approx(100 * 0.003 / (redraw.PROCESS_SHARE - 0.1), rel=0.01)
    full = Process(replies=200, other=0.7, each=0.003)
    full.run(20)
    assert full.interval == redraw.MAX_REDRAW_SECONDS


async def test_every_pause_counts_as_a_redraw(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(redraw, "_cost", RedrawCost(lambda: 8.0 * now[0], lambda: now[0]))
    for second in range(4):
        now[0] = float(second)
        await redraw.pause_after_redraw(0, 1, started=-math.inf)
    assert redraw._cost.seconds == 16.0 / 3


async def test_a_pause_ends_soon_after_the_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(redraw, "_cost", RedrawCost())
    monkeypatch.setattr(redraw, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(redraw, "time", SimpleNamespace(monotonic=lambda: now[0]))
    await redraw.pause_after_redraw(0, 200, started=100.0)
    assert sum(slept) == pytest.approx(redraw.MAX_REDRAW_SECONDS)
    slept.clear()
    end = now[0] + 1.0
    await redraw.pause_after_redraw(0, 200, now[0], lambda: now[0] >= end)
    assert 1.0 <= sum(slept) <= 1.0 + redraw.HEARTBEAT_SECONDS


def test_replies_are_redrawn_as_if_the_process_were_busy_until_that_is_measured() -> None:
    process = Process(replies=50, other=0.0, each=0.001)
    process.run(1)
    assert process.interval == 50 * redraw.FLUSH_SECONDS_PER_REPLY
    process.run(3)
    assert process.interval == redraw.FLUSH_SECONDS


# --- Asked twice ---


class Asked:
    def __init__(self) -> None:
        self.times = 0
        self.go_on = asyncio.Event()

    async def ask(self) -> int:
        self.times += 1
        answer = self.times
        await self.go_on.wait()
        if answer == 3:
            raise ChatError("It failed.", "Try again.")
        return answer


async def test_the_same_question_is_asked_once() -> None:
    once, asked = SingleFlight[int](9), Asked()
    assert once.last("tab") is None
    twice = [asyncio.create_task(once.run("tab", ("hi", 1), asked.ask)) for _ in range(2)]
    await asyncio.sleep(0)
    first = once.last("tab")
    asked.go_on.set()
    assert await asyncio.gather(*twice) == [1, 1]
    assert await once.run("tab", ("hi", 1), asked.ask) == 1, "a request that was sent again"
    assert once.last("tab") == first is not None
    assert await once.run("tab", ("hi", 2), asked.ask) == 2
    assert once.last("tab") != first
    with pytest.raises(ChatError):
        await once.run("tab", ("hi", 1), asked.ask)
    assert await once.run("tab", ("hi", 1), asked.ask) == 4, "what failed may be asked again"
    once.forget("tab")
    assert once.last("tab") is None
    assert await once.run("tab", ("hi", 1), asked.ask) == 5


async def test_only_the_same_tab_asks_the_same() -> None:
    once, asked = SingleFlight[int](2), Asked()
    asked.go_on.set()
    assert [await once.run(tab, "hi", asked.ask) for tab in ("a", "b")] == [1, 2]
    with pytest.raises(ChatError):
        await once.run("c", "hi", asked.ask)
    assert [await once.run("", "hi", asked.ask) for _ in range(2)] == [4, 5], "a program"
    assert await once.run("b", "hi", asked.ask) == 2
    assert await once.run("d", "hi", asked.ask) == 6
    assert await once.run("e", "hi", asked.ask) == 7
    assert await once.run("b", "hi", asked.ask) == 8, "the oldest is forgotten"


async def test_a_tab_that_leaves_has_asked() -> None:
    once, asked = SingleFlight[int](9), Asked()
    first = asyncio.create_task(once.run("tab", "hi", asked.ask))
    await asyncio.sleep(0)
    first.cancel()
    asked.go_on.set()
    assert await once.run("tab", "hi", asked.ask) == 1
