"""Time limits of many waits."""

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest

from chatui.wait_limit import WaitLimit

LONG = 60.0


@pytest.fixture
async def limit() -> AsyncIterator[WaitLimit]:
    limit = WaitLimit()
    yield limit
    limit.close()


async def test_what_comes_in_time(limit: WaitLimit) -> None:
    assert await limit.wait(asyncio.sleep(0, "one"), LONG) == "one"
    assert await limit.wait(asyncio.sleep(0.001, "two"), LONG) == "two"
    with pytest.raises(KeyError):
        await limit.wait(fails(), LONG)


async def fails() -> None:
    raise KeyError


async def test_what_does_not_come_in_time(limit: WaitLimit) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await limit.wait(asyncio.sleep(LONG), 0.01)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    await asyncio.sleep(0)


async def test_a_time_that_is_over_already(limit: WaitLimit) -> None:
    with pytest.raises(TimeoutError):
        await limit.wait(asyncio.sleep(LONG), -1.0)


async def test_each_wait_has_its_own_time(limit: WaitLimit) -> None:
    for _ in range(4):
        await limit.wait(asyncio.sleep(0.01), 0.025)
    with pytest.raises(TimeoutError):  # sooner than the timer of the wait before
        await asyncio.wait_for(limit.wait(asyncio.sleep(LONG), 0.01), LONG / 2)
    await limit.wait(asyncio.sleep(0), LONG)
    await asyncio.sleep(0.05)  # a timer that ends between waits ends none
    with pytest.raises(TimeoutError):
        await limit.wait(asyncio.sleep(LONG), 0.01)


async def test_one_timer_serves_many_waits(limit: WaitLimit, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), Mock(side_effect=asyncio.get_running_loop().call_at)
    monkeypatch.setattr(loop, "call_at", timers)
    for _ in range(10):
        await limit.wait(asyncio.sleep(0), LONG)
    assert timers.call_count == 1


async def test_a_cancelled_wait_is_cancelled() -> None:
    async def waits() -> None:
        await WaitLimit().wait(asyncio.sleep(LONG), LONG)

    task = asyncio.create_task(waits())
    await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
