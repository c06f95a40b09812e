"""Reads a backend's reply in the background, and watches for the client's disconnect."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.types import Receive

from chatui.chat import ReplyDelta
from chatui.errors import GenerationError
from chatui.wait_limit import WaitLimit


class ClientGoneError(Exception):
    """The client closed its connection before the end of the reply."""


class ReplyStream:
    """Queues the deltas of a backend's reply and the client's disconnect. `aclose` closes the backend's iterator."""

    def __init__(self, stream: AsyncGenerator[ReplyDelta], receive: Receive) -> None:
        self._events: asyncio.Queue[ReplyDelta | Exception] = asyncio.Queue()
        self._limit = WaitLimit()
        self._tasks = [asyncio.create_task(self._read(stream)), asyncio.create_task(self._watch(receive))]

    async def batch(self, timeout: float | None = None) -> list[ReplyDelta]:
        """Wait for at least one delta and return all queued ones; [] after `timeout` seconds.

        The reply's last delta has its finish. Raises the backend's errors, GenerationError if the reply ends without a
        finish, and ClientGoneError.
        """
        arrival = self._events.get()
        try:
            event = await arrival if timeout is None else await self._limit.wait(arrival, timeout)
        except TimeoutError:
            return []
        deltas: list[ReplyDelta] = []
        while isinstance(event, ReplyDelta):
            deltas.append(event)
            if self._events.empty():
                return deltas
            event = self._events.get_nowait()
        if deltas and not isinstance(event, ClientGoneError):
            self._events.put_nowait(event)
            return deltas
        raise event

    async def aclose(self) -> None:
        """Cancel the backend's reply and wait for its end."""
        self._limit.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, stream: AsyncGenerator[ReplyDelta]) -> None:
        try:
            async with contextlib.aclosing(stream):
                async for delta in stream:
                    self._events.put_nowait(delta)
            self._events.put_nowait(GenerationError("The reply ended early.", "Try again."))
        except Exception as error:
            self._events.put_nowait(error)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._events.put_nowait(ClientGoneError())
