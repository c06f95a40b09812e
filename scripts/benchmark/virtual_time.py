"""Simulated time: an event loop whose clock jumps to what comes next, and processor cores that are busy in it."""

import asyncio
import heapq
import selectors


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer when nothing else is to be done."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Seconds since the start of the simulation."""
        return self.now

    def _write_to_self(self) -> None:
        """Nothing: no other thread is waited for."""


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: lets the time pass instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing can happen any more")
        self._loop.now += timeout
        return []


class Cores:
    """Some processor cores that do one thing after another. `busy` are the seconds of all that was done."""

    def __init__(self, count: int = 1) -> None:
        self._free_at = [0.0] * count
        self.busy = 0.0

    def add(self, seconds: float) -> float:
        """Add work to what is to be done. Returns how long it takes until it is."""
        now = asyncio.get_running_loop().time()
        end = max(now, heapq.heappop(self._free_at)) + seconds
        heapq.heappush(self._free_at, end)
        self.busy += seconds
        return end - now

    async def use(self, seconds: float) -> None:
        """Wait for a core, and work."""
        await asyncio.sleep(self.add(seconds))
