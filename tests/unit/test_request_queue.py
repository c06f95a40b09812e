"""Who waits, in which order, and who is turned away."""

import asyncio
from collections import Counter
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


def test_prompts_are_made_for_the_first_in_line(loop: asyncio.AbstractEventLoop) -> None:
    queue = RequestQueue(9)
    jobs = [job_of(loop, user) for user in "abc"]
    for job in jobs:
        queue.put(job)
    assert queue.next_to_prepare() is None, "no model is loaded"
    queue.rows = 2
    assert queue.next_to_begin() is None
    assert queue.next_to_prepare() is jobs[0]
    jobs[0].prepared = "a prompt"
    queue.preparing = jobs[1]
    assert queue.unstarted() == jobs
    assert (queue.prepared, queue.waiting) == ([jobs[0]], [jobs[2]])
    assert queue.next_to_prepare() is None
    assert queue.next_to_begin() is jobs[0]
    queue.begin(jobs[0], "handle")
    assert queue.unstarted() == jobs[1:]
    assert queue.next_to_begin() is None
    queue.running["another"] = job_of(loop)
    queue.preparing, jobs[1].prepared = None, "a prompt"
    assert queue.next_to_begin() is None, "there is no row"
    assert queue.next_to_prepare() is None
    queue.remove(jobs[1])
    assert queue.next_to_prepare() is jobs[2], "one is made ahead"


def test_next_is_a_user_with_fewer_running_replies_though_anothers_prompt_is_made(
    loop: asyncio.AbstractEventLoop,
) -> None:
    queue = RequestQueue(9)
    queue.rows, queue.running["handle"] = 2, job_of(loop, "busy")
    busy, other = job_of(loop, "busy"), job_of(loop, "other")
    queue.put(busy)
    busy.prepared = "a prompt"
    queue.put(other)
    assert queue.unstarted() == [other, busy]
    assert queue.next_to_prepare() is other
    assert queue.next_to_begin() is None, "the row is not for this one"
    queue.rows = 3
    assert queue.next_to_begin() is busy, "no row is left unused"
    other.prepared = "a prompt"
    assert queue.next_to_begin() is other


@given(st.integers(1, 5), st.lists(st.one_of(st.sampled_from("abcd"), st.integers(0, 9)), max_size=60))
def test_rows_are_shared_by_those_who_want_them(rows: int, doings: list[str | int]) -> None:
    """Requests come (a letter) and replies end (a number). Nobody gets a further row while another, who waits, has
    fewer; and what was told, the first in line, comes next.
    """
    loop, queue = asyncio.new_event_loop(), RequestQueue(100)
    queue.rows, shares = rows, Counter[str]()
    for doing in doings:
        if isinstance(doing, str):
            queue.put(job_of(loop, doing))
        elif queue.running:
            handle = list(queue.running)[doing % len(queue.running)]
            shares[queue.running.pop(handle).request.user] -= 1
            queue.update_positions()
        while len(queue.running) < rows and queue.unstarted():
            while (job := queue.next_to_prepare()) is not None:
                job.prepared = "a prompt"
            first, waiting = queue.unstarted()[0], {job.request.user for job in queue.unstarted()}
            job = queue.next_to_begin()
            assert job is first
            assert job.queue_position == 1
            assert shares[job.request.user] == min(shares[user] for user in waiting)
            queue.begin(job, job)
            shares[job.request.user] += 1
        assert [job.queue_position for job in queue.unstarted()] == list(range(1, len(queue.unstarted()) + 1))
    loop.close()


@given(st.integers(1, 5), st.integers(2, 3), st.data())
def test_shares_of_rows_differ_by_one_at_most_where_all_want_more(rows: int, users: int, data: st.DataObject) -> None:
    """One user had all rows before. As replies end the shares never come further apart, in whatever order; when as
    many have ended as there are rows, they are even.
    """
    loop, queue = asyncio.new_event_loop(), RequestQueue(1000)
    held = Counter(dict.fromkeys("abc"[:users], 0))
    first = [job_of(loop, "a") for _ in range(rows)]
    for job in first:
        queue.running[job] = job
    held["a"] = rows
    for user in held:
        for _ in range(2 * rows):
            queue.put(job_of(loop, user))
    apart = rows
    for turn in range(2 * rows):
        choice = data.draw(st.sampled_from(list(queue.running.values()))) if turn < rows else first.pop()
        held[choice.request.user] -= queue.running.pop(choice, None) is not None
        while len(queue.running) < rows:
            job = queue.unstarted()[0]
            queue.begin(job, job)
            held[job.request.user] += 1
        assert max(held.values()) - min(held.values()) <= max(apart, 1)
        apart = max(held.values()) - min(held.values())
    assert apart <= 1
    loop.close()


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
