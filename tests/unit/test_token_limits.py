"""What users take is counted by minute and day, and more than their limit is refused."""

from datetime import UTC, datetime, timedelta

import pytest

from chatui.errors import OverloadError
from chatui.token_limits import TokenLimits, TokenUsage


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def clock(self) -> float:
        return self.seconds

    def today(self) -> datetime:
        return datetime(2026, 1, 1, 23, 0, tzinfo=UTC) + timedelta(seconds=self.seconds)


def usage_of(**limits: int) -> tuple[TokenUsage, Time]:
    time = Time()
    return TokenUsage(
        lambda user: TokenLimits(**limits) if user == "ada" else TokenLimits(), time.clock, time.today
    ), time


def test_a_minute() -> None:
    usage, time = usage_of(per_minute=100)
    usage.add("ada", 60)
    usage.check("ada")
    time.seconds = 30
    usage.add("ada", 50)
    with pytest.raises(OverloadError, match="this minute") as refused:
        usage.check("ada")
    assert refused.value.retry_after == 30
    time.seconds = 60
    usage.check("ada")
    left = usage.remaining("ada")
    assert left is not None
    assert (left.tokens, left.limit, left.seconds) == (50, 100, 30)


def test_a_day() -> None:
    usage, time = usage_of(per_day=100)
    usage.add("ada", 85)
    left = usage.remaining("ada")
    assert left is not None
    assert left.is_low
    usage.add("ada", 15)
    with pytest.raises(OverloadError, match="this day") as refused:
        usage.check("ada")
    assert refused.value.retry_after == 3600
    time.seconds = 3600
    usage.check("ada")


def test_what_other_servers_counted_is_taken_over() -> None:
    usage, _time = usage_of(per_day=100)
    usage.add("ada", 10)
    usage.set_today("ada", usage.day(), 100)
    with pytest.raises(OverloadError):
        usage.check("ada")
    usage.set_today("ada", "2025-12-31", 5)
    with pytest.raises(OverloadError):
        usage.check("ada")


def test_others_have_no_limit() -> None:
    usage, _time = usage_of(per_day=1, per_minute=1)
    usage.add("bob", 1000)
    usage.check("bob")
    assert usage.remaining("bob") is None


def test_memory_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatui.token_limits.MAX_USERS", 3)
    usage, _time = usage_of()
    for user in range(10):
        usage.add(str(user), 1)
    assert len(usage._users) == 3
