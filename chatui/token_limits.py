"""How many tokens a user may take in a minute and in a day, and how many they have taken.

The tokens of a day are also counted in the database, for all servers and restarts. Those of a minute are this server's.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from chatui.errors import OverloadError
from chatui.i18n import N_

MINUTE = 60.0
LOW = 0.2
"""The share of a limit from which on a user is told how much is left."""
MAX_USERS = 100_000
"""Users whose counts are kept in memory. Those of the longest unused one are dropped first."""


@dataclass(frozen=True)
class TokenLimits:
    """The most tokens of prompts and replies of one user, 0 for no limit."""

    per_minute: int = 0
    per_day: int = 0

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return bool(self.per_minute or self.per_day)


class DailyCounts(Protocol):
    """The tokens that users have taken by day, in a database. Methods may wait for it, and raise StoreError."""

    def add(self, user: str, day: str, tokens: int) -> int:
        """Add tokens, which may be 0, and return all of that day."""


@dataclass
class _Usage:
    """What one user has taken: (moment, tokens) of the last minute, and the tokens of `day`."""

    recent: deque[tuple[float, int]] = field(default_factory=deque)
    day: str = ""
    today: int = 0


@dataclass(frozen=True)
class Remaining:
    """What is left of a limit of a day or a minute: `tokens` of `limit`. More are there in `seconds`."""

    tokens: int
    limit: int
    seconds: int
    daily: bool

    @property
    def is_low(self) -> bool:
        """Whether the user should be told."""
        return self.tokens <= LOW * self.limit


class TokenUsage:
    """Counts the tokens of all users. Thread-safe.

    A request is let in as long as any tokens are left, because how long its reply will be is not known.
    """

    def __init__(
        self,
        limits_of: Callable[[str], TokenLimits],
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`limits_of` gives a user's limits. Days are those of UTC."""
        self._limits_of, self._clock, self._today = limits_of, clock, today
        self._lock = threading.Lock()
        self._users: dict[str, _Usage] = {}

    def add(self, user: str, tokens: int) -> None:
        """Count tokens that a user has taken."""
        with self._lock:
            usage = self._current(user)
            usage.recent.append((self._clock(), tokens))
            usage.today += tokens

    def set_today(self, user: str, day: str, tokens: int) -> None:
        """Take over what the database has counted, for all servers, unless a new day has begun."""
        with self._lock:
            usage = self._current(user)
            if usage.day == day:
                usage.today = max(usage.today, tokens)

    def remaining(self, user: str) -> Remaining | None:
        """What is left of the limit that is nearer to its end; None if the user has none."""
        limits, left = self._limits_of(user), list[Remaining]()
        with self._lock:
            usage = self._current(user)
            if limits.per_minute:
                taken = sum(tokens for _at, tokens in usage.recent)
                seconds = MINUTE - (self._clock() - usage.recent[0][0]) if usage.recent else 0.0
                left.append(Remaining(max(0, limits.per_minute - taken), limits.per_minute, math.ceil(seconds), False))
            if limits.per_day:
                rest = max(0, limits.per_day - usage.today)
                left.append(Remaining(rest, limits.per_day, self._seconds_to_midnight(), True))
        return min(left, key=lambda each: each.tokens / each.limit, default=None)

    def check(self, user: str) -> None:
        """Raises OverloadError if nothing is left."""
        left = self.remaining(user)
        if left is not None and left.tokens <= 0:
            limit, after = left.limit, _duration(left.seconds)
            message = (
                N_(f"Your tokens for this day are used up (limit: {limit:,}).")
                if left.daily
                else N_(f"Your tokens for this minute are used up (limit: {limit:,}).")
            )
            raise OverloadError(message, N_(f"Try again in {after}."), retry_after=max(1, left.seconds))

    def has_daily_limit(self, user: str) -> bool:
        """Whether the tokens of a day are limited for this user."""
        return bool(self._limits_of(user).per_day)

    def day(self) -> str:
        """The current day."""
        return f"{self._today():%Y-%m-%d}"

    def _current(self, user: str) -> _Usage:
        """A user's counts without those of an earlier minute or day. The user becomes the last used one."""
        usage, day = self._users.pop(user, _Usage()), self.day()
        self._users[user] = usage
        if len(self._users) > MAX_USERS:
            del self._users[next(iter(self._users))]
        if usage.day != day:
            usage.day, usage.today = day, 0
        start = self._clock() - MINUTE
        while usage.recent and usage.recent[0][0] <= start:
            usage.recent.popleft()
        return usage

    def _seconds_to_midnight(self) -> int:
        now = self._today()
        midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return math.ceil((midnight - now).total_seconds())


def _duration(seconds: int) -> str:
    if seconds <= 2 * MINUTE:
        return f"{max(1, seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{math.ceil(minutes / 60)} h"
