"""Gathers a reply's deltas so that the page redraws a few times a second, however fast they come. Knows no Gradio."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Generic, ParamSpec, TypeVar

from chatui.chat import ReplyDelta
from chatui.errors import ChatError

FLUSH_SECONDS = 0.1
# The browser sets the whole reply anew at each redraw: measured on two cores, 20,000 characters of Markdown with a
# hundred code blocks keep up at 0.15 s a redraw and fall seconds behind at 0.06 s.
MAX_FLUSH_SECONDS = 0.15
FLUSH_SECONDS_PER_CHARACTER = 8e-6
# A redraw takes the server some 5 ms of a core, which the model could use.
FLUSH_SECONDS_PER_REPLY = 0.03
HEARTBEAT_SECONDS = 0.25
MAX_HANDOVER_SECONDS = 2.0
"""Seconds that an event may take to end when another takes its place."""

LONG_TEXT = 10_000
"""Characters that are made ready to be shown within a few milliseconds; for more, nobody else is to wait."""

T = TypeVar("T")
P = ParamSpec("P")

# Of its own: whoever waits for the store is not to wait for long texts.
_aside = ThreadPoolExecutor(2, "chatui-showing")


async def render_off_loop(characters: int, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `make` makes of so many characters, off the event loop where they are many."""
    if characters <= LONG_TEXT:
        return make(*args, **kwargs)
    context = copy_context()
    return await asyncio.get_running_loop().run_in_executor(_aside, lambda: context.run(make, *args, **kwargs))


class Superseding:
    """Lets the newest event of each tab end the one before, which has said its last word before the new one speaks."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[asyncio.Event, asyncio.Event]] = {}

    @contextlib.asynccontextmanager
    async def in_place_of_the_last(self, tab: str) -> AsyncGenerator[asyncio.Event]:
        """Gives an event that is set when this one is to end in its turn."""
        before = self._running.get(tab) if tab else None
        superseded, ended = self._running[tab] = (asyncio.Event(), asyncio.Event())
        try:
            if before is not None:
                before[0].set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(MAX_HANDOVER_SECONDS):
                        await before[1].wait()
            yield superseded
        finally:
            ended.set()
            if self._running.get(tab) == (superseded, ended):
                del self._running[tab]


class SingleFlight(Generic[T]):
    """Lets what a tab asks twice in a row be done once: by a double click, or by a request that was sent again.

    A tab that has heard the answer to its first question asks the next from another place, so not the same.
    """

    def __init__(self, most: int) -> None:
        """`most`: tabs whose last question is remembered."""
        self._most = most
        self._last: dict[str, tuple[bytes, asyncio.Task[T]]] = {}

    async def do(self, tab: str, asked: object, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` gives, now or when this tab asked the same before. Raises what it raises, which is forgotten."""
        if not tab:
            return await work()
        key = hashlib.sha256(repr(asked).encode("utf-8", "backslashreplace")).digest()
        last = self._last.pop(tab, None)
        task = last[1] if last is not None and last[0] == key else asyncio.create_task(work())
        self._last[tab] = (key, task)
        if len(self._last) > self._most:
            del self._last[next(iter(self._last))]
        try:
            return await asyncio.shield(task)
        finally:
            if task.done() and (task.cancelled() or task.exception() is not None):
                self.forget(tab)

    def forget(self, tab: str) -> None:
        """What this tab asks next is new, whatever it asked before."""
        self._last.pop(tab, None)


async def pause_after_redraw(characters: int, replies: int, began: float) -> None:
    """Wait after the redraw, begun at `began` of time.monotonic(), of one of so many replies, of so many characters."""
    flush = max(FLUSH_SECONDS, replies * FLUSH_SECONDS_PER_REPLY)
    await asyncio.sleep(max(0.0, flush_interval(characters, flush) - (time.monotonic() - began)))


def flush_interval(characters: int, flush: float = FLUSH_SECONDS) -> float:
    """Seconds between two redraws of a reply of so many characters."""
    return max(flush, min(characters * FLUSH_SECONDS_PER_CHARACTER, MAX_FLUSH_SECONDS))


async def batch_deltas(
    stream: AsyncGenerator[ReplyDelta], flush: float = FLUSH_SECONDS, heartbeat: float = HEARTBEAT_SECONDS
) -> AsyncGenerator[list[ReplyDelta]]:
    """The deltas of each `flush` seconds together, the first at once; empty lists while nothing comes.

    Long replies are flushed less often, see above.

    The empty ones let the asker notice a closed tab. Ending the iterator ends the stream. Raises what it raises.
    """
    arrived: asyncio.Queue[ReplyDelta | None] = asyncio.Queue()
    failure: list[ChatError] = []

    async def pump() -> None:
        try:
            async with contextlib.aclosing(stream):
                async for delta in stream:
                    arrived.put_nowait(delta)
        except ChatError as error:
            failure.append(error)
        finally:
            arrived.put_nowait(None)

    pumping = asyncio.create_task(pump())
    try:
        over = False
        characters = 0
        while not over:
            try:
                first = await asyncio.wait_for(arrived.get(), heartbeat)
            except TimeoutError:
                yield []
                continue
            flushed_at = time.monotonic()
            batch, over = _drain(arrived, first)
            if batch:
                yield batch
                characters += sum(len(delta.text) + len(delta.reasoning) for delta in batch)
                if not over:
                    await asyncio.sleep(max(0.0, flush_interval(characters, flush) - (time.monotonic() - flushed_at)))
        if failure:
            raise failure[0]
        await pumping
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


def _drain(queue: "asyncio.Queue[ReplyDelta | None]", first: ReplyDelta | None) -> tuple[list[ReplyDelta], bool]:
    """(`first` and what waits in the queue, whether the None that ends the stream has come)."""
    batch, delta = [], first
    while delta is not None:
        batch.append(delta)
        if queue.empty():
            return batch, False
        delta = queue.get_nowait()
    return batch, True
