"""A time limit for many short waits of one task, with one timer for them all: asyncio.timeout() sets one for each."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class WaitLimit:
    """Limits one wait after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._deadline = 0.0
        self._expired = False

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    async def wait(self, awaitable: Awaitable[T], seconds: float) -> T:
        """Its result. Raises TimeoutError if there is none in so many seconds."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can wait")
        others = task.cancelling()
        self._task, self._deadline, self._expired = task, self._loop.time() + seconds, False
        if self._timer is None or self._timer.when() > self._deadline:
            self._set_timer()
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._expired and task.uncancel() <= others:
                raise TimeoutError from None
            raise
        finally:
            self._task = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._look)

    def _look(self) -> None:
        """End the wait if its time is over. Otherwise look again at its deadline."""
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._expired = True
            self._task.cancel()
