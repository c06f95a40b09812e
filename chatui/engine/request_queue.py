"""The requests of a backend with one model: who waits, whose prompt is made, and whose reply is generated."""

import asyncio
import contextvars
import logging
import secrets
import threading
import time
from dataclasses import dataclass, field
from itertools import islice

from chatui.chat import ChatRequest, ReplyDelta
from chatui.errors import ChatError, unexpected
from chatui.fair_queue import FairQueue, check_capacity

log = logging.getLogger(__name__)

JobEvent = ReplyDelta | ChatError | None
"""What happens to a request; None ends the reply."""


@dataclass(eq=False)
class Job:
    """One request on its way through the threads. `events` is filled in the event loop of who asked.

    `prepared` is what the model's runner made of it, ahead of its turn.
    """

    request: ChatRequest
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    events: asyncio.Queue[JobEvent] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    prepared: object | None = None
    asked_at: float = field(default_factory=time.perf_counter)
    queue_position: int = 0


class RequestQueue:
    """Jobs in the order in which their replies begin: of the user with the fewest running replies first. Then they are
    `running`, by handle.

    `tickets` are places reserved for requests to come, with their users. `rows` is how many replies the model can
    generate at once, 0 while it is loading. The prompt of `preparing` is being made. `changed` is the lock, and wakes
    the threads: the methods take it, and changes of the attributes need it, but for `running`, which the model's thread
    changes.
    """

    def __init__(self, max_waiting: int) -> None:
        self.changed = threading.Condition()
        self.tickets: dict[str, str] = {}
        self.rows = 0
        self.preparing: Job | None = None
        self.running: dict[object, Job] = {}
        self._line: FairQueue[Job] = FairQueue(self._running_of)
        self._max_waiting = max_waiting

    @property
    def free_rows(self) -> int:
        """How many more replies may begin."""
        return self.rows - len(self.running)

    @property
    def prepared(self) -> list[Job]:
        """Jobs whose prompts are made, in their order."""
        return [job for job in self.unstarted() if job.prepared is not None]

    @property
    def waiting(self) -> list[Job]:
        """Jobs that are not about to begin, in their order: their prompts need not be made yet."""
        return self.unstarted()[self._ahead() :]

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
            self._line.put(job.request.user, job)
            self.update_positions()

    def remove(self, job: Job) -> None:
        """Take out a job whose reply has not begun; nothing where it has."""
        with self.changed:
            self._line.drop(job)
            self.update_positions()

    def begin(self, job: Job, handle: object) -> None:
        """The reply of this job has begun. It may have been removed meanwhile; then it is cancelled."""
        with self.changed:
            self._line.take(job)
            self.running[handle] = job
            self.update_positions()

    def unstarted(self) -> list[Job]:
        """The jobs whose replies have not begun, in the order in which they will be served."""
        with self.changed:
            return list(self._line)

    def next_to_begin(self) -> Job | None:
        """The first job whose prompt is made, if there is a row for it and for all before it."""
        with self.changed:
            return next((job for job in islice(self._line, self.free_rows) if job.prepared is not None), None)

    def next_to_prepare(self) -> Job | None:
        """Whose prompt is made next, so that those of all who are about to begin are; None where they are."""
        with self.changed:
            jobs = islice(self._line, self._ahead())
            return next((job for job in jobs if job.prepared is None and job is not self.preparing), None)

    def update_positions(self) -> None:
        """Send their position to the jobs for which it has changed, and wake the threads."""
        with self.changed:
            for position, job in enumerate(self.unstarted(), 1):
                if job.queue_position != position:
                    job.queue_position = position
                    send([(job, ReplyDelta(queue_position=position))])
            self.changed.notify_all()

    def _check_capacity(self, user: str) -> None:
        """Whether one more of this user may wait. Raises OverloadError."""
        users = [*(job.request.user for job in self.waiting), *self.tickets.values()]
        check_capacity(user, users, self._max_waiting)

    def _ahead(self) -> int:
        """How many jobs are about to begin: one for each free row, and one at least where there are any."""
        return max(1, self.free_rows) if self.rows else 0

    def _running_of(self, user: str) -> int:
        """The number of running replies of this user."""
        return sum(job.request.user == user for job in [*self.running.values()])


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
