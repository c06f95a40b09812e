"""Costly requests of the page take turns; what only waits or streams keeps none."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from chatui.ui.gradio_compat import request_turns
from chatui.ui.gradio_compat.request_turns import JOIN, MAX_CONCURRENT, RequestTurns

PAGE = {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept", b"text/html,*/*")]}
EVENT = {"type": "http", "method": "POST", "path": JOIN, "headers": []}


class Gradio:
    """An application in which each request waits until the test lets it go on."""

    def __init__(self) -> None:
        self.working = 0
        self.responds, self.ends = asyncio.Event(), asyncio.Event()
        self.fails = self.releases = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.working += 1
        if self.releases:
            request_turns.release()
        await self.responds.wait()
        if self.fails:
            raise RuntimeError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.ends.wait()


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    """Nobody reads it."""


async def _all_that_can() -> None:
    """Let the tasks run until each of them waits."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("scope", [PAGE, EVENT])
async def test_no_more_than_so_many_are_worked_on_at_once(scope: Scope) -> None:
    gradio = Gradio()
    turns = RequestTurns(gradio)
    requests = [asyncio.create_task(turns(scope, _receive, _send)) for _ in range(MAX_CONCURRENT + 3)]
    await _all_that_can()
    assert gradio.working == MAX_CONCURRENT
    gradio.responds.set()  # the responses start, and go on
    await _all_that_can()
    assert gradio.working == len(requests)
    gradio.ends.set()
    await asyncio.gather(*requests)


@pytest.mark.parametrize(
    "scope",
    [
        {**PAGE, "headers": [(b"accept", b"*/*")]},
        {**PAGE, "method": "HEAD"},
        {**EVENT, "path": "/gradio_api/upload"},
        {**EVENT, "path": "/gradio_api/run/chat"},
        {**EVENT, "method": "GET", "path": "/gradio_api/queue/data"},
        {"type": "websocket", "path": JOIN},
    ],
)
async def test_other_requests_wait_for_none(scope: Scope) -> None:
    gradio = Gradio()
    turns = RequestTurns(gradio)
    requests = [asyncio.create_task(turns(PAGE, _receive, _send)) for _ in range(MAX_CONCURRENT + 1)]
    requests.append(asyncio.create_task(turns(scope, _receive, _send)))
    await _all_that_can()
    assert gradio.working == MAX_CONCURRENT + 1
    gradio.responds.set()
    gradio.ends.set()
    await asyncio.gather(*requests)


@pytest.mark.parametrize("way", ["fails", "is cancelled", "releases"])
async def test_a_turn_ends_with_its_request(way: str) -> None:
    gradio = Gradio()
    turns = RequestTurns(gradio)
    gradio.fails, gradio.releases = way == "fails", way == "releases"
    first = [asyncio.create_task(turns(EVENT, _receive, _send)) for _ in range(MAX_CONCURRENT)]
    await _all_that_can()
    if way == "fails":
        gradio.responds.set()
    elif way == "is cancelled":
        for request in first:
            request.cancel()
    await _all_that_can()
    gradio.fails = gradio.releases = False
    second = [asyncio.create_task(turns(EVENT, _receive, _send)) for _ in range(MAX_CONCURRENT + 1)]
    await _all_that_can()
    done = gradio.working - MAX_CONCURRENT
    assert done == (
        MAX_CONCURRENT + 1 if way == "fails" else MAX_CONCURRENT
    )  # the response of all starts where it is set
    gradio.responds.set()
    gradio.ends.set()
    await asyncio.gather(*second)
    outcomes = await asyncio.gather(*first, return_exceptions=True)
    expected = {"fails": RuntimeError, "is cancelled": asyncio.CancelledError, "releases": type(None)}[way]
    assert {type(outcome) for outcome in outcomes} == {expected}


async def test_nothing_is_released_outside_of_a_turn() -> None:
    request_turns.release()
