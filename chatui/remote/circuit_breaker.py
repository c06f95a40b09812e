"""Keeps requests away from a server that does not answer, and lets one through now and then to see if it does again.

https://martinfowler.com/bliki/CircuitBreaker.html
"""

import threading
import time
from collections.abc import Callable

FAILURES = 2
"""How many failures in a row open the circuit."""
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 30.0
"""Seconds until the first trial; each one that fails doubles them."""


class CircuitBreaker:
    """The circuit of one server: closed while it answers, open once it does not. Thread-safe.

    After a pause an open one is half open: one request goes through, and its end decides.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._opened_at: float | None = None
        self._trial_at: float | None = None

    @property
    def is_closed(self) -> bool:
        """Whether requests go through."""
        return self._opened_at is None

    @property
    def failures(self) -> int:
        """How many times in a row it has failed."""
        return self._failures

    def allow(self) -> bool:
        """Whether a request may go through now. If the circuit is half open, it is the trial."""
        with self._lock:
            if self._opened_at is None:
                return True
            now = self._clock()
            # A trial whose end was never told is forgotten after a pause.
            since = max(self._opened_at, self._trial_at or self._opened_at)
            if now - since < self._pause:
                return False
            self._trial_at = now
            return True

    def record_success(self) -> None:
        """The server has answered."""
        with self._lock:
            self._failures, self._pause = 0, FIRST_PAUSE
            self._opened_at = self._trial_at = None

    def record_failure(self, before: int) -> None:
        """The server could not be reached, or failed before it answered a request that began after `before` failures.

        Requests that end together when a server dies count once.
        """
        with self._lock:
            if self._failures != before:
                return
            self._failures += 1
            if self._opened_at is not None:
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
                self._opened_at, self._trial_at = self._clock(), None
            elif self._failures >= FAILURES:
                self._opened_at = self._clock()
