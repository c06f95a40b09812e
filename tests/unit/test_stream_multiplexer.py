import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from chatui.owners import OWNER
from chatui.ui.gradio_compat import stream_multiplexer
from chatui.ui.gradio_compat.event_streams import CLOSE_STREAM
from chatui.ui.gradio_compat.stream_multiplexer import CHUNKS_HEADER, MAX_HELD_STREAMS, MORE_HEADER, StreamMultiplexer


class Gradio:
    """Streams that say what the test puts into them, by session, until they are left or ended."""

    def __init__(self) -> None:
        self.queues: dict[str, asyncio.Queue[bytes]] = {}
        self.asked: list[Scope] = []
        self.left: list[str] = []

    def say(self, session: str, text: bytes) -> None:
        self.queues.setdefault(session, asyncio.Queue()).put_nowait(text)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope)
        session = scope["query_string"].decode() or scope["path"]
        queue = self.queues.setdefault(session, asyncio.Queue())
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        leaving = asyncio.ensure_future(receive())
        while not leaving.done():
            next_one = asyncio.ensure_future(queue.get())
            await asyncio.wait((leaving, next_one), return_when=asyncio.FIRST_COMPLETED)
            if next_one.done():
                await send({"type": "http.response.body", "body": next_one.result(), "more_body": True})
        self.left.append(session)


class TabRequest:
    """One request of a tab."""

    def __init__(self, app: StreamMultiplexer, session: str, more: bool = False, tab: bool = True) -> None:
        headers = [(CHUNKS_HEADER.encode(), b"1")] if tab else []
        headers += [(MORE_HEADER.encode(), b"1")] if more else []
        scope = {"type": "http", "method": "GET", "path": "/gradio_api/queue/data", "query_string": session.encode()}
        self.leave, self.status, self.headers, self.body = asyncio.Event(), 0, dict[bytes, bytes](), b""
        self._sent = False
        self.task = asyncio.create_task(app({**scope, "headers": headers, OWNER: "me"}, self._receive, self._send))

    @property
    def more(self) -> bool:
        return MORE_HEADER.encode() in self.headers

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        self.body += message.get("body", b"")


async def settled() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def open_streams(*sessions: str) -> tuple[Gradio, StreamMultiplexer, list[TabRequest]]:
    gradio = Gradio()
    app = StreamMultiplexer(gradio)
    asked = [TabRequest(app, session) for session in sessions]
    await settled()
    return gradio, app, asked


HELD = [f"held{number}" for number in range(MAX_HELD_STREAMS)]


async def test_the_first_streams_are_held() -> None:
    gradio, _, asked = await open_streams(*HELD)
    for session in HELD:
        gradio.say(session, session.encode())
    await settled()
    assert [(one.task.done(), one.more, one.body.decode()) for one in asked] == [(False, False, name) for name in HELD]
    asked[0].leave.set()
    await asked[0].task
    await settled()
    assert gradio.left == [HELD[0]]


async def test_more_streams_come_in_pieces_and_nothing_is_lost() -> None:
    gradio, app, (*held, one) = await open_streams(*HELD, "s")
    await one.task
    assert (one.status, one.more, one.body) == (200, True, b"")
    gradio.say("s", b"a")
    gradio.say("s", b"b")
    await settled()
    two = TabRequest(app, "s", more=True)
    await two.task
    assert (two.more, two.body) == (True, b"ab")
    gradio.say("s", b"c")
    held[0].leave.set()
    await settled()
    three = TabRequest(app, "s", more=True)  # there is room now: held again
    await settled()
    gradio.say("s", b"d")
    await settled()
    assert (three.task.done(), three.more, three.body) == (False, False, b"cd")
    assert len([scope for scope in gradio.asked if scope["query_string"] == b"s"]) == 1


async def test_the_last_piece_is_held_until_the_tab_has_read_it() -> None:
    gradio, app, (*_, one) = await open_streams(*HELD, "s")
    await one.task
    gradio.say("s", b"x" + CLOSE_STREAM)
    await settled()
    two = TabRequest(app, "s", more=True)
    await settled()
    assert (two.task.done(), two.more, two.body) == (False, False, b"x" + CLOSE_STREAM)
    assert "s" not in gradio.left
    two.leave.set()
    await two.task
    await settled()
    assert "s" in gradio.left


async def test_a_tab_that_does_not_come_back_is_taken_for_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_multiplexer, "CHUNK_TIMEOUT_SECONDS", 0.05)
    gradio, app, (*_, one) = await open_streams(*HELD, "s")
    await one.task
    async with asyncio.timeout(60):
        while not gradio.left:
            await asyncio.sleep(0.01)
    assert gradio.left == ["s"], "those that are held stay"
    late = TabRequest(app, "s", more=True)
    await late.task
    assert late.status == 404
    again = TabRequest(app, "s")
    await again.task
    assert (again.status, again.more) == (200, True)


async def test_programs_get_the_streams_of_gradio() -> None:
    gradio, app, _ = await open_streams(*HELD)
    programs = [TabRequest(app, f"p{number}", tab=False) for number in range(9)]
    await settled()
    assert [(one.status, one.more, one.task.done()) for one in programs] == [(200, False, False)] * 9
    programs[0].leave.set()
    await programs[0].task
    assert gradio.left == ["p0"]


async def test_no_room_is_lost_by_tabs_that_come_and_go() -> None:
    gradio, app, _ = await open_streams()
    for number in range(3 * MAX_HELD_STREAMS):
        one = TabRequest(app, f"s{number}")
        await settled()
        assert not one.task.done()
        one.leave.set()
        await one.task
    await settled()
    assert len(gradio.left) == 3 * MAX_HELD_STREAMS


# --- Heartbeats ---


async def beat(app: StreamMultiplexer, query: bytes = b"", tab: str = "t") -> int:
    received: list[Message] = []

    async def send(message: Message) -> None:
        received.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    path = f"/gradio_api/heartbeat/{tab}"
    await app({"type": "http", "method": "POST", "path": path, "query_string": query, "headers": []}, receive, send)
    await settled()
    return int(received[0]["status"])


@pytest.fixture
def counted() -> Callable[[Gradio], Any]:
    return lambda gradio: [(scope["method"], scope["path"].rpartition("/")[2]) for scope in gradio.asked]


async def test_a_tab_that_beats_is_one_heartbeat_for_gradio(counted: Callable[[Gradio], Any]) -> None:
    gradio = Gradio()
    app = StreamMultiplexer(gradio)
    assert [await beat(app), await beat(app), await beat(app, tab="u")] == [204] * 3
    assert counted(gradio) == [("GET", "t"), ("GET", "u")]
    await beat(app, b"__sign=x&closed=1")
    assert gradio.left == ["/gradio_api/heartbeat/t"]
    await beat(app, b"closed=1")
    await beat(app)
    assert counted(gradio) == [("GET", "t"), ("GET", "u"), ("GET", "t")]


async def test_a_tab_that_falls_silent_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    now, sleep = 0.0, asyncio.sleep
    clock = SimpleNamespace(monotonic=lambda: now)
    loop = SimpleNamespace(**vars(asyncio) | {"sleep": lambda _: sleep(0)})  # the clock is looked at again and again
    monkeypatch.setattr(stream_multiplexer, "time", clock)
    monkeypatch.setattr(stream_multiplexer, "asyncio", loop)
    gradio = Gradio()
    app = StreamMultiplexer(gradio)
    await beat(app, tab="silent")
    for _ in range(6):
        now += stream_multiplexer.TAB_TIMEOUT_SECONDS / 2
        await beat(app)
    assert gradio.left == ["/gradio_api/heartbeat/silent"]


async def test_nobody_makes_endless_tabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_multiplexer, "MAX_TABS", 3)
    gradio = Gradio()
    app = StreamMultiplexer(gradio)
    for number in range(9):
        assert await beat(app, tab=f"t{number}") == 204
    assert len(gradio.asked) == 3
