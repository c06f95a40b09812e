"""Batches a reply's deltas for a few redraws a second, and coordinates the events of a tab. Does not use Gradio."""

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Generic, ParamSpec, TypeVar

from chatui.chat import ReplyDelta
from chatui.errors import ChatError

FLUSH_SECONDS = 0.1
# The browser renders the whole reply again at each redraw. Measured on two cores with 20,000 characters of Markdown and
# a hundred code blocks: it keeps up at 0.15 s a redraw, and falls seconds behind at 0.06 s.
MAX_FLUSH_SECONDS = 0.15
FLUSH_SECONDS_PER_CHARACTER = 8e-6
PROCESS_SHARE = 0.7
"""Of a core. Replies are redrawn as often as the process takes no more than this for all that it does."""

FLUSH_SECONDS_PER_REPLY = 0.03
MAX_REDRAW_SECONDS = 3.0
"""However busy the process is, n replies are redrawn every n times 0.03 s, and every 3 s in any case."""

WINDOW_SECONDS = 2.0
"""Over which the cost of a redraw is measured."""

HEARTBEAT_SECONDS = 0.25
MAX_HANDOVER_SECONDS = 2.0
"""How long an event waits for the one that it supersedes to end."""

MAX_YIELD_SECONDS = 1.0
"""How long an event that lets others go first waits for the tab's running one to end."""

LONG_TEXT = 10_000
"""Characters that are rendered within a few milliseconds; longer texts would block the event loop."""

T = TypeVar("T")
P = ParamSpec("P")

# Its own pool: calls of the store in the default one must not wait for long texts.
_render_pool = ThreadPoolExecutor(2, "chatui-showing")


async def render_off_loop(characters: int, render: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `render`, in a thread if it has many `characters` to render."""
    if characters <= LONG_TEXT:
        return render(*args, **kwargs)
    context = copy_context()
    return await asyncio.get_running_loop().run_in_executor(_render_pool, lambda: context.run(render, *args, **kwargs))


class Superseding:
    """Ends the running event of a tab when a newer one comes, which starts after it has ended."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[asyncio.Event, asyncio.Event]] = {}

    async def wait_idle(self, session: str) -> bool:
        """Wait MAX_YIELD_SECONDS at most until the running event of this session has ended. Returns whether it has."""
        running = self._running.get(session)
        if running is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MAX_YIELD_SECONDS):
                    await running[1].wait()
        return session not in self._running

    @contextlib.asynccontextmanager
    async def supersede(self, session: str) -> AsyncGenerator[asyncio.Event]:
        """End the running event of this session, and wait until it has ended.

        Yields an asyncio.Event that is set when a newer event supersedes this one.

        An empty session, of a program, is never superseded. Waits at most MAX_HANDOVER_SECONDS.
        """
        previous = self._running.get(session) if session else None
        superseded, ended = self._running[session] = (asyncio.Event(), asyncio.Event())
        try:
            if previous is not None:
                previous[0].set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(MAX_HANDOVER_SECONDS):
                        await previous[1].wait()
            yield superseded
        finally:
            ended.set()
            if self._running.get(session) == (superseded, ended):
                del self._running[session]


class SingleFlight(Generic[T]):
    """Runs a call once that a tab makes twice in a row: by a double click, or by a request that was sent again.

    The key of a call contains the tab's state. After an answer the state differs, so the next call has another key.
    """

    def __init__(self, max_sessions: int) -> None:
        """The last call of `max_sessions` tabs is remembered."""
        self._max_sessions = max_sessions
        self._last: dict[str, tuple[bytes, asyncio.Task[T]]] = {}

    async def run(self, session: str, key: object, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of `call`, or of this session's last call if that had the same key. Raises what it raises.

        A call that fails is forgotten. The calls of an empty session, of a program, all run.
        """
        if not session:
            return await call()
        digest = hashlib.sha256(repr(key).encode("utf-8", "backslashreplace")).digest()
        last = self._last.pop(session, None)
        task = last[1] if last is not None and last[0] == digest else asyncio.create_task(call())
        self._last[session] = (digest, task)
        if len(self._last) > self._max_sessions:
            del self._last[next(iter(self._last))]
        try:
            return await asyncio.shield(task)
        finally:
            if task.done() and (task.cancelled() or task.exception() is not None):
                self.forget(session)

    def last(self, session: str) -> object:
        """What tells this session's last call, which may be running, from all others; None if there is none."""
        return self._last.get(session)

    def forget(self, session: str) -> None:
        """Let the next call of this session run, whatever its key."""
        self._last.pop(session, None)


class RedrawCost:
    """The processor time of a redraw: all that the process has taken in a while, by the redraws of that while.

    So other work raises it: that of the page, and that of a model in the same process. Replies are then redrawn less
    often.
    """

    def __init__(
        self, worked: Callable[[], float] = time.process_time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`worked` is the processor time of the process so far."""
        self._worked, self._clock = worked, clock
        self._since, self._before, self._redraws = clock(), worked(), 0
        self.seconds = math.inf

    def count_redraw(self) -> None:
        """Count a redraw."""
        self._redraws += 1
        now = self._clock()
        if now - self._since >= WINDOW_SECONDS:
            worked = self._worked()
            self.seconds = (worked - self._before) / self._redraws
            self._since, self._before, self._redraws = now, worked, 0


_cost = RedrawCost()


async def pause_after_redraw(
    characters: int, replies: int, started: float, is_due: Callable[[], bool] = lambda: False
) -> None:
    """Wait until the next redraw of a reply of so many characters, while so many `replies` are running.

    `started` is when the last redraw started, by time.monotonic(). What `is_due` is drawn within HEARTBEAT_SECONDS.
    """
    _cost.count_redraw()
    end = started + redraw_interval(replies, _cost.seconds, characters)
    while True:
        await asyncio.sleep(max(0.0, min(end - time.monotonic(), HEARTBEAT_SECONDS)))
        if is_due() or time.monotonic() >= end:
            return


def redraw_interval(replies: float, cost: float, characters: int = 0) -> float:
    """Seconds between two redraws of a reply of so many characters, while so many `replies` are running.

    `cost` is the processor time of a redraw, see RedrawCost.
    """
    paced = replies * min(cost / PROCESS_SHARE, FLUSH_SECONDS_PER_REPLY)
    return flush_interval(characters, max(FLUSH_SECONDS, min(paced, MAX_REDRAW_SECONDS)))


def flush_interval(characters: int, flush: float = FLUSH_SECONDS) -> float:
    """Seconds between two redraws of a reply of so many characters."""
    return max(flush, min(characters * FLUSH_SECONDS_PER_CHARACTER, MAX_FLUSH_SECONDS))


async def batch_deltas(
    stream: AsyncGenerator[ReplyDelta], flush: float = FLUSH_SECONDS, heartbeat: float = HEARTBEAT_SECONDS
) -> AsyncGenerator[list[ReplyDelta]]:
    """Yield the deltas of each `flush` seconds as one list, the first at once; an empty list at each `heartbeat`.

    The empty ones let the caller notice a closed tab. Long replies are flushed less often, see flush_interval().
    Closing the iterator closes the stream. Raises what the stream raises.
    """
    queue: asyncio.Queue[ReplyDelta | None] = asyncio.Queue()
    failure: list[ChatError] = []

    pump = asyncio.create_task(_pump(stream, queue, failure))
    try:
        ended = False
        characters = 0
        while not ended:
            try:
                first = await asyncio.wait_for(queue.get(), heartbeat)
            except TimeoutError:
                yield []
                continue
            flushed_at = time.monotonic()
            batch, ended = _drain(queue, first)
            if batch:
                yield batch
                characters += sum(len(delta.text) + len(delta.reasoning) for delta in batch)
                if not ended:
                    await asyncio.sleep(max(0.0, flush_interval(characters, flush) - (time.monotonic() - flushed_at)))
        if failure:
            raise failure[0]
        await pump
    finally:
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)


async def _pump(
    stream: AsyncGenerator[ReplyDelta], queue: "asyncio.Queue[ReplyDelta | None]", failure: list[ChatError]
) -> None:
    """Put the deltas of a stream into a queue, None last; what the stream raises goes into `failure`."""
    try:
        async with contextlib.aclosing(stream):
            async for delta in stream:
                queue.put_nowait(delta)
    except ChatError as error:
        failure.append(error)
    finally:
        queue.put_nowait(None)


def _drain(queue: "asyncio.Queue[ReplyDelta | None]", first: ReplyDelta | None) -> tuple[list[ReplyDelta], bool]:
    """`first` and all deltas in the queue; and whether None, the end of the stream, was read."""
    batch, delta = [], first
    while delta is not None:
        batch.append(delta)
        if queue.empty():
            return batch, False
        delta = queue.get_nowait()
    return batch, True
