"""Lines of users, served in turn."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.fair_queue import FairQueue

USERS = st.sampled_from("abc")
EVENTS = st.lists(st.one_of(USERS, st.just("serve"), st.integers(0, 30)), max_size=40)


def queue_of(users: str) -> FairQueue[str]:
    """One item for each letter, called by it and its number."""
    queue: FairQueue[str] = FairQueue()
    for number, user in enumerate(users):
        queue.put(user, f"{user}{number}")
    return queue


def serve_next(queue: FairQueue[str]) -> str:
    item = next(iter(queue))
    queue.take(item)
    return item


def served(queue: FairQueue[str]) -> list[str]:
    return [serve_next(queue) for _ in range(len(queue))]


def replay(doings: list[str | int]) -> tuple[FairQueue[str], dict[str, list[str]]]:
    """A queue after users came (a letter), were served ("serve") or left (a number), and each user's line."""
    queue: FairQueue[str] = FairQueue()
    lines: dict[str, list[str]] = {user: [] for user in "abc"}
    for number, doing in enumerate(doings):
        left = [item for line in lines.values() for item in line]
        if isinstance(doing, int):
            item = left[doing % len(left)] if left else "nobody"
            queue.drop(item)
        elif doing == "serve":
            item = serve_next(queue) if left else ""
        else:
            item = f"{doing}{number}"
            queue.put(doing, item)
            lines[doing].append(item)
            continue
        for line in lines.values():
            line[:] = [other for other in line if other != item]
    return queue, lines


@given(EVENTS)
def test_the_order_told_is_the_order_served(doings: list[str | int]) -> None:
    queue, lines = replay(doings)
    told = list(queue)
    assert len(queue) == len(told) == sum(map(len, lines.values()))
    assert served(queue) == told
    assert len(queue) == 0


@given(EVENTS)
def test_each_users_own_order_is_kept_and_nobody_is_served_twice_before_another_once(doings: list[str | int]) -> None:
    queue, lines = replay(doings)
    order = served(queue)
    for user, line in lines.items():
        assert [item for item in order if item[0] == user] == line
        for other in lines:
            turns = [item[0] for item in order if item[0] in (user, other)]
            shorter = min(turns.count(user), turns.count(other)) if user != other else 0
            assert len(set(turns[: 2 * shorter])) <= 2
            assert all(turns[at] != turns[at + 1] for at in range(2 * shorter - 1))


@pytest.mark.parametrize(
    ("users", "order"),
    [("aaabc", "a0 b3 c4 a1 a2"), ("abab", "a0 b1 a2 b3"), ("aaa", "a0 a1 a2"), ("", "")],
)
def test_users_take_turns(users: str, order: str) -> None:
    assert served(queue_of(users)) == order.split()


def test_who_was_served_goes_behind_those_who_came_meanwhile() -> None:
    queue = queue_of("aa")
    assert serve_next(queue) == "a0"
    queue.put("b", "b")
    queue.put("a", "a2")
    assert served(queue) == ["a1", "b", "a2"]


@given(st.text("abc", max_size=12), st.fixed_dictionaries(dict.fromkeys("abc", st.integers(0, 4))))
def test_next_is_who_has_the_least_in_work(users: str, at_first: dict[str, int]) -> None:
    in_work = dict(at_first)
    queue: FairQueue[str] = FairQueue(in_work.__getitem__)
    for number, user in enumerate(users):
        queue.put(user, f"{user}{number}")
    told, order = list(queue), list[str]()
    while len(queue):
        waiting = {item[0] for item in queue}
        order.append(serve_next(queue))
        user = order[-1][0]
        assert in_work[user] == min(in_work[other] for other in waiting)
        in_work[user] += 1
    assert order == told


@pytest.mark.parametrize(("item", "left"), [("b1", "a0 b3 c2"), ("c2", "a0 b1 b3"), ("not there", "a0 b1 c2 b3")])
def test_dropping(item: str, left: str) -> None:
    queue = queue_of("abcb")
    queue.drop(item)
    queue.drop(item)
    assert served(queue) == left.split()


@pytest.mark.parametrize("empty", [lambda queue: queue.take("a0"), lambda queue: queue.drop("a0")])
def test_a_line_that_has_ended_leaves_nothing(empty: Callable[[FairQueue[str]], object]) -> None:
    queue = queue_of("a")
    empty(queue)
    empty(queue)
    assert (len(queue), list(queue), queue._lines) == (0, [], {})
