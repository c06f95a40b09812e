import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from chatui.ui.gradio_compat.event_streams import EventStreams

SCOPE: Scope = {"type": "http", "path": "/gradio_api/queue/data", "query_string": b"session_hash=s"}
LAST: Message = {"type": "http.response.body", "body": b'data: {"msg":"close_stream"}\n\n', "more_body": True}
MORE: Message = {"type": "http.response.body", "body": b'data: {"msg":"heartbeat"}\n\n', "more_body": True}


class Tab:
    """One end of a stream, which is closed by `leave`."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.left = asyncio.Event()

    def leave(self) -> None:
        self.left.set()

    async def send(self, message: Message) -> None:
        self.received.append(message)

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


class Gradio:
    """What EventStreams needs of it: a stream that sends what it is given, and a queue."""

    def __init__(self, *messages: Message) -> None:
        self.messages = messages
        self.left = False
        self.page: Any = SimpleNamespace(_queue=SimpleNamespace(push=self.push))

    async def push(self, body: Any, request: Any, username: str | None) -> str:
        return f"event of {body.session_hash}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        disconnect = asyncio.create_task(self._listen(receive))
        for message in self.messages:
            await send(message)
        await asyncio.sleep(0)
        disconnect.cancel()

    async def _listen(self, receive: Receive) -> None:
        await receive()
        self.left = True


def joined(gradio: Gradio, session: str = "s") -> "asyncio.Task[Any]":
    push = gradio.page._queue.push
    return asyncio.create_task(push(body=SimpleNamespace(session_hash=session), request=None, username=None))


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_event_is_told_when_the_old_stream_is_closed() -> None:
    gradio, tab = Gradio(LAST), Tab()
    streams = EventStreams(gradio, gradio.page)
    stream = asyncio.create_task(streams(SCOPE, tab.receive, tab.send))
    await settled()
    mine, others = joined(gradio), joined(gradio, "t")
    await settled()
    assert tab.received == [LAST]
    assert (mine.done(), others.done(), stream.done()) == (False, True, False)
    tab.leave()
    assert await mine == "event of s"
    await stream
    assert not gradio.left, "Gradio would drop the new event"


async def test_a_stream_that_goes_on_holds_nothing_up() -> None:
    gradio, tab = Gradio(MORE), Tab()
    streams = EventStreams(gradio, gradio.page)
    await streams(SCOPE, tab.receive, tab.send)
    assert tab.received == [MORE]
    assert await joined(gradio) == "event of s"


async def test_a_tab_that_leaves_in_mid_stream_is_heard_of() -> None:
    gradio, tab = Gradio(MORE), Tab()
    tab.leave()
    await EventStreams(gradio, gradio.page)(SCOPE, tab.receive, tab.send)
    assert gradio.left


async def test_what_never_tells_that_it_is_closed_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatui.ui.gradio_compat.event_streams.MAX_CLOSE_SECONDS", 0.01)
    gradio, tab = Gradio(LAST), Tab()
    streams = EventStreams(gradio, gradio.page)
    stream = asyncio.create_task(streams(SCOPE, tab.receive, tab.send))
    await settled()
    assert await joined(gradio) == "event of s"
    await stream
