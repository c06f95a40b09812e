"""Who waits for a backend: a bounded queue that is fair to users, in front of servers that have none of their own."""

import asyncio
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from chatui.fair_queue import FairQueue, check_capacity


@dataclass(eq=False)
class Waiter:
    """A request that waits, or runs. `position` counts from 1, and is 0 once it runs."""

    user: str
    loop: asyncio.AbstractEventLoop
    position: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    asked_at: float = field(default_factory=time.perf_counter)

    def wake(self) -> None:
        """Have it look at its position."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.changed.set)


class Admission:
    """At most `max_running` requests run; at most `max_waiting` wait, of the user with the fewest running ones first.

    Thread-safe.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running, self._max_waiting = max_running, max_waiting
        self._lock = threading.RLock()
        self._running: Counter[str] = Counter()
        self._line: FairQueue[Waiter] = FairQueue(self._running.__getitem__)
        self._tickets: dict[str, str] = {}

    @property
    def running(self) -> int:
        """The number of requests that run."""
        return self._running.total()

    def reserve(self, user: str) -> str:
        """A ticket for a request of this user that is about to come. Raises OverloadError."""
        with self._lock:
            self._check(user)
            ticket = secrets.token_hex(8)
            self._tickets[ticket] = user
            return ticket

    def release(self, ticket: str) -> bool:
        """Give up a reserved place. False if there is none."""
        with self._lock:
            return self._tickets.pop(ticket, None) is not None

    def enter(self, user: str, ticket: str) -> Waiter:
        """Take a place at the end of the user's line, that of the ticket if there is one. Raises OverloadError."""
        waiter = Waiter(user, asyncio.get_running_loop())
        with self._lock:
            if not self.release(ticket):
                self._check(user)
            self._line.put(user, waiter)
            self._update()
        return waiter

    async def positions(self, waiter: Waiter) -> AsyncIterator[int]:
        """The position of a request whenever it changes, until it runs."""
        last = 0
        while True:
            waiter.changed.clear()
            if not waiter.position:
                return
            if waiter.position != last:
                last = waiter.position
                yield last
            await waiter.changed.wait()

    def leave(self, waiter: Waiter) -> None:
        """The request has ended, or waits no longer."""
        with self._lock:
            if waiter.position:
                self._line.drop(waiter)
            else:
                self._running[waiter.user] -= 1
                if not self._running[waiter.user]:
                    del self._running[waiter.user]
            self._update()

    def _check(self, user: str) -> None:
        free = self._max_running - self.running - len(self._tickets)
        if free <= 0:
            waiting = [waiter.user for waiter in self._line]
            check_capacity(user, [*waiting, *self._tickets.values()], self._max_waiting)

    def _update(self) -> None:
        """Let those run for whom there is room, and tell the others their positions."""
        while len(self._line) and self.running < self._max_running:
            first = next(iter(self._line))
            self._line.take(first)
            self._running[first.user] += 1
            first.position = 0
            first.wake()
        for position, waiter in enumerate(self._line, 1):
            if waiter.position != position:
                waiter.position = position
                waiter.wake()
