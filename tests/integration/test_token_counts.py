"""The tokens of users by day in a real database."""

from collections.abc import Callable
from datetime import timedelta

from chatui.store.rows import now
from chatui.store.store import Store
from chatui.store.token_counts import TokenCounts


def test_they_are_added_by_user_and_day(make_store: Callable[[], Store]) -> None:
    store = make_store()
    counts = TokenCounts(store.database)
    today = f"{now():%Y-%m-%d}"
    assert counts.add("ada", today, 0) == 0
    assert counts.add("ada", today, 5) == 5
    assert counts.add("bob", today, 7) == 7
    assert counts.add("ada", "2020-01-01", 3) == 3
    assert counts.add("ada", today, 5) == 10
    assert counts.add("ada", "2020-01-01", 0) == 3, "counting looks for no old days"
    store.purge(timedelta(0))
    assert counts.add("ada", "2020-01-01", 0) == 0
    assert counts.add("ada", today, 0) == 10
