"""Who waits, in which order, and who is turned away."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.chat import ChatRequest, Message, ReplyDelta
from chatui.engine.request_queue import Job, JobEvent, RequestQueue, fail, send
from chatui.errors import ChatError, OverloadError
from chatui.generation_settings import GenerationSettings


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def job_of(loop: asyncio.AbstractEventLoop, user: str = "", ticket: str = "") -> Job:
    request = ChatRequest((Message("user", "Hi"),), GenerationSettings(), user=user, ticket=ticket)
    return Job(request, loop)


def told(job: Job) -> list[JobEvent]:
    """What this job was told since the last call."""
    job.loop.call_soon(job.loop.stop)
    job.loop.run_forever()
    return [job.events.get_nowait() for _ in range(job.events.qsize())]


def positions(job: Job) -> list[int | None]:
    return [event.queue_position for event in told(job) if isinstance(event, ReplyDelta)]


def test_positions_are_told_when_they_change(loop: asyncio.AbstractEventLoop) -> None:
    queue = RequestQueue(9)
    first, second, third = jobs = [job_of(loop, user) for user in "abc"]
    for job in jobs:
        queue.put(job)
    assert [positions(job) for job in jobs] == [[1], [2], [3]]
    queue.remove(second)
    assert [positions(job) for job in jobs] == [[], [], [2]]
    assert queue.unstarted() == [first, third]


def test_who_is_prepared_comes_before_who_is_being_prepared_and_who_waits(loop: asyncio.AbstractEventLoop) -> None:
    queue = RequestQueue(9)
    jobs = [job_of(loop, user) for user in "abc"]
    for job in jobs:
        queue.put(job)
    queue.prepared.append((queue.waiting.pop(), "a prompt"))
    queue.preparing = queue.waiting.pop()
    assert queue.unstarted() == jobs
    queue.remove(jobs[0])
    assert queue.unstarted() == jobs[1:]


def test_the_next_is_of_a_user_with_less_in_work(loop: asyncio.AbstractEventLoop) -> None:
    queue = RequestQueue(9)
    queue.running["handle"] = job_of(loop, "busy")
    busy, other = job_of(loop, "busy"), job_of(loop, "other")
    queue.put(busy)
    queue.put(other)
    assert queue.unstarted() == [other, busy]


def test_a_ticket_keeps_a_place(loop: asyncio.AbstractEventLoop) -> None:
    queue = RequestQueue(1)
    ticket = queue.reserve("a")
    with pytest.raises(OverloadError):
        queue.put(job_of(loop, "b"))
    queue.put(job_of(loop, "a", ticket))
    with pytest.raises(OverloadError):
        queue.reserve("a")
    queue.release("unknown")


def test_a_released_ticket_makes_room(loop: asyncio.AbstractEventLoop) -> None:
    queue = RequestQueue(1)
    queue.release(queue.reserve("a"))
    queue.put(job_of(loop, "b"))


@given(st.integers(1, 40), st.lists(st.sampled_from("ab"), max_size=60))
def test_one_user_never_takes_all_places(max_waiting: int, users: list[str]) -> None:
    queue = RequestQueue(max_waiting)
    for user in ["greedy"] * 50 + users:
        with suppress(OverloadError):
            queue.reserve(user)
    assert len(queue.tickets) <= max_waiting
    reserved = max_waiting // 4
    assert list(queue.tickets.values()).count("greedy") == max_waiting - reserved
    others = [user for user in queue.tickets.values() if user != "greedy"]
    assert len(others) == min(reserved, len(users)) or max(map(others.count, "ab")) >= reserved


def test_an_error_ends_a_job(loop: asyncio.AbstractEventLoop) -> None:
    job = job_of(loop)
    fail(job, ValueError("unforeseen"))
    error, end = told(job)
    assert isinstance(error, ChatError)
    assert end is None


def test_who_has_gone_is_cancelled() -> None:
    loop = asyncio.new_event_loop()
    job = job_of(loop)
    loop.close()
    send([(job, None)])
    assert job.cancelled.is_set()
