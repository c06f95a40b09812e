"""A backend's reply as it comes in, and an eye on the client that waits for it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.types import Receive

from chatui.chat import ReplyDelta
from chatui.errors import GenerationError


class ClientGoneError(Exception):
    """The client closed its connection: nobody wants the reply."""


class ReplyStream:
    """A reply as it comes in from the backend, and an eye on the client. `aclose` ends the backend's iterator."""

    def __init__(self, stream: AsyncGenerator[ReplyDelta], receive: Receive) -> None:
        self._events: asyncio.Queue[ReplyDelta | Exception] = asyncio.Queue()
        self._tasks = [asyncio.create_task(self._read(stream)), asyncio.create_task(self._watch(receive))]

    async def batch(self, patience: float | None = None) -> list[ReplyDelta]:
        """The deltas there are, at least one; none after `patience` seconds. The reply's last delta has its finish.

        Raises what the backend raises, GenerationError where it ends without a finish, or ClientGoneError.
        """
        try:
            async with asyncio.timeout(patience):
                event = await self._events.get()
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
        """End the backend's reply, and wait until it has."""
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
