"""So many replies run at once; the others wait in a line that is fair to users, and bounded."""

import asyncio

import pytest

from chatui.errors import OverloadError
from chatui.remote.admission import Admission


async def positions(admission: Admission, user: str, seen: list[int], done: asyncio.Event) -> None:
    waiter = admission.enter(user, "")
    try:
        async for position in admission.positions(waiter):
            seen += [position]
        seen.append(0)
        await done.wait()
    finally:
        admission.leave(waiter)


async def test_they_run_in_turn_and_hear_their_positions() -> None:
    admission = Admission(1, 10)
    ends = [asyncio.Event() for _ in range(3)]
    seen: list[list[int]] = [[], [], []]
    tasks = []
    for end, heard in zip(ends, seen, strict=True):
        tasks.append(asyncio.create_task(positions(admission, "a", heard, end)))
        await asyncio.sleep(0.01)
    assert seen == [[0], [1], [2]]
    ends[0].set()
    await asyncio.sleep(0.01)
    assert seen == [[0], [1, 0], [2, 1]]
    tasks[1].cancel()
    await asyncio.sleep(0.01)
    assert seen[2] == [2, 1, 0]
    ends[2].set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert admission.running == 0


async def test_one_user_does_not_hold_up_another() -> None:
    admission = Admission(1, 10)
    end = asyncio.Event()
    first, second, other = list[int](), list[int](), list[int]()
    tasks = [asyncio.create_task(positions(admission, "a", seen, end)) for seen in (first, second)]
    await asyncio.sleep(0.01)
    tasks.append(asyncio.create_task(positions(admission, "b", other, end)))
    await asyncio.sleep(0.01)
    assert (second, other) == ([1, 2], [1])
    end.set()
    await asyncio.gather(*tasks)


async def test_tickets_keep_places_and_too_many_are_refused() -> None:
    admission = Admission(1, 2)
    running = admission.enter("a", "")
    tickets = [admission.reserve(user) for user in "bc"]
    with pytest.raises(OverloadError):
        admission.reserve("d")
    waiter = admission.enter("b", tickets[0])
    assert waiter.position == 1
    admission.release(tickets[1])
    assert admission.reserve("d")
    admission.leave(running)
    assert waiter.position == 0
    admission.leave(waiter)
