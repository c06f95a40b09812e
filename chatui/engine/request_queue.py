"""The requests of a backend with one model: who waits, whose prompt is made, and whose reply is generated."""

import asyncio
import contextvars
import logging
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from chatui.chat import ChatRequest, ReplyDelta
from chatui.engine.fair_queue import FairQueue
from chatui.errors import ChatError, OverloadError, unexpected

log = logging.getLogger(__name__)

JobEvent = ReplyDelta | ChatError | None
"""What happens to a request; None ends the reply."""


@dataclass(eq=False)
class Job:
    """One request on its way through the threads. `events` is filled in the event loop of who asked."""

    request: ChatRequest
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    events: asyncio.Queue[JobEvent] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    asked_at: float = field(default_factory=time.perf_counter)
    queue_position: int = 0


class RequestQueue:
    """Jobs by their state: `waiting`, then `preparing`, then `prepared` with their prompts, then `running` by handle.

    `tickets` are places reserved for requests to come, with their users. `changed` is the lock, and wakes the threads:
    the methods take it, and changes of the attributes need it, but for `running`, which the model's thread changes.
    """

    def __init__(self, max_waiting: int) -> None:
        self.changed = threading.Condition()
        self.tickets: dict[str, str] = {}
        self.waiting: FairQueue[Job] = FairQueue(self._in_work)
        self.preparing: Job | None = None
        self.prepared: deque[tuple[Job, object]] = deque()
        self.running: dict[object, Job] = {}
        self._max_waiting = max_waiting

    def reserve(self, user: str) -> str:
        """A ticket for a request of this user that is about to come, which keeps its place. Raises OverloadError."""
        ticket = secrets.token_hex(8)
        with self.changed:
            self._check_capacity(user)
            self.tickets[ticket] = user
        return ticket

    def release(self, ticket: str) -> None:
        """The request will not come; nothing where it has come."""
        with self.changed:
            self.tickets.pop(ticket, None)

    def put(self, job: Job) -> None:
        """Have a job wait for its turn, in the place of its ticket. Raises OverloadError."""
        with self.changed:
            if self.tickets.pop(job.request.ticket, None) is None:
                self._check_capacity(job.request.user)
            self.waiting.put(job.request.user, job)
            self.update_positions()

    def remove(self, job: Job) -> None:
        """Take out a job whose reply has not begun; nothing where it has."""
        with self.changed:
            self.waiting.drop(job)
            self.prepared = deque(each for each in self.prepared if each[0] is not job)
            self.update_positions()

    def unstarted(self) -> list[Job]:
        """The jobs whose replies have not begun, in the order in which they will be served."""
        with self.changed:
            preparing = [] if self.preparing is None else [self.preparing]
            return [*(job for job, _ in self.prepared), *preparing, *self.waiting]

    def update_positions(self) -> None:
        """Send their position to the jobs for which it has changed, and wake the threads."""
        with self.changed:
            for position, job in enumerate(self.unstarted(), 1):
                if job.queue_position != position:
                    job.queue_position = position
                    send([(job, ReplyDelta(queue_position=position))])
            self.changed.notify_all()

    def _check_capacity(self, user: str) -> None:
        """Whether one more of this user may wait. Raises OverloadError.

        The last quarter of the places is for users of whom fewer requests than that wait, so that no single one turns
        all others away.
        """
        waiting = len(self.waiting) + len(self.tickets)
        if waiting >= self._max_waiting:
            raise OverloadError(f"{waiting} requests are waiting already.", "Try again in a while.", retry_after=10)
        reserved = self._max_waiting // 4
        own = self.waiting.waiting(user) + sum(owner == user for owner in self.tickets.values())
        if own >= reserved > 0 and waiting >= self._max_waiting - reserved:
            raise OverloadError(
                f"{own} of your requests are waiting, and the places that are left are for others.",
                "Try again when some of them are answered.",
                retry_after=10,
            )

    def _in_work(self, user: str) -> int:
        """The number of replies of this user that are being generated or prepared."""
        prepared = [job for job, _ in self.prepared]
        jobs = [*self.running.values(), *prepared, *([] if self.preparing is None else [self.preparing])]
        return sum(job.request.user == user for job in jobs)


def send(events: list[tuple[Job, JobEvent]]) -> None:
    """Hand events over to the event loop that all these jobs share. A loop that is gone wants nothing more."""

    def put_all() -> None:
        for job, event in events:
            job.events.put_nowait(event)

    try:
        events[0][0].loop.call_soon_threadsafe(put_all)
    except RuntimeError:
        for job, _ in events:
            job.cancelled.set()


def fail(job: Job, error: BaseException) -> None:
    """End a job's reply with an error. One that is no ChatError is logged."""
    if not isinstance(error, ChatError):
        log.error("a reply failed", exc_info=error)
        error = unexpected(error)
    send([(job, error), (job, None)])
