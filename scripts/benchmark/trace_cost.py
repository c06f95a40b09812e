"""Where the time goes that traces take: clocks around what only traces need, while replies are written.

All shares are of the same seconds, so a machine that is slow for a while does not move them.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import cycle
from typing import Any
from unittest.mock import patch

from sqlalchemy import event
from torch import Tensor

from chatui.engine.sampling import sampler
from chatui.engine.sampling.top_logits import TopLogits, find_top_logits
from chatui.engine.sampling.tracing import Trace, record_choices
from chatui.runner import Runner
from chatui.store.store import Store
from chatui.traces import ALTERNATIVES

Clock = Callable[[], float]


class TimeSpent:
    """Seconds by what they were spent on, from `began` on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.began = time.perf_counter()

    def shares(self) -> dict[str, float]:
        """Of the time since `began`."""
        whole = time.perf_counter() - self.began
        return {name: seconds / whole for name, seconds in self.seconds.items()}

    def timed(self, name: str, function: Callable[..., Any], clock: Clock = time.perf_counter) -> Callable[..., Any]:
        """The function, its time counted under this name."""

        @wraps(function)
        def counted(*values: Any, **options: Any) -> Any:
            start = clock()
            try:
                return function(*values, **options)
            finally:
                self.seconds[name] += clock() - start

        return counted


@contextmanager
def clocks(store: Store) -> Iterator[TimeSpent]:
    """Count what replies that are written meanwhile spend on their traces.

    The engine waits for what is spent in its own thread. Packing goes on beside it, and costs as much at most.
    """
    spent = TimeSpent()
    looking = _timed_with_and_without_traces(spent, find_top_logits)
    with ExitStack() as changed:
        changed.enter_context(patch.object(sampler, "find_top_logits", looking))
        changed.enter_context(patch.object(sampler, "record_choices", spent.timed("noting", record_choices)))
        for name in ("candidates", "filtered"):
            changed.enter_context(patch.object(Trace, name, spent.timed("noting", getattr(Trace, name))))
        packing = spent.timed("telling and packing", Runner._inspection, time.thread_time)
        changed.enter_context(patch.object(Runner, "_inspection", packing))
        changed.enter_context(_inserting(spent, store))
        yield spent


def _timed_with_and_without_traces(spent: TimeSpent, once: Callable[..., TopLogits]) -> Callable[..., TopLogits]:
    """Each look also as it would be without traces, by turns before and after; that one's time counts nowhere."""
    turns = cycle((False, True))

    def looked(scores: Tensor, temperatures: Sequence[float], count: int, plain: bool) -> TopLogits:
        seconds: dict[bool, float] = {}
        first = next(turns)
        for traced in (first, not first):
            start = time.perf_counter()
            if traced:
                found = once(scores, temperatures, count, plain)
            elif count == ALTERNATIVES:
                # Where all are greedy and none is traced, the highest is all that is asked for.
                scores.max(-1)
            else:
                once(scores, temperatures, count, False)
            seconds[traced] = time.perf_counter() - start
        spent.seconds["looking"] += seconds[True] - seconds[False]
        spent.began += seconds[False]
        return found

    return looked


@contextmanager
def _inserting(spent: TimeSpent, store: Store) -> Iterator[None]:
    """What it takes to keep inspections, but for what the disk needs in the end."""
    start = 0.0

    def before(_: Any, __: Any, statement: str, *___: Any) -> None:
        nonlocal start
        start = time.thread_time() if "INTO inspections" in statement else 0.0

    def after(*_: Any) -> None:
        if start:
            spent.seconds["keeping"] += time.thread_time() - start

    engine = store.database.engine
    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", before)
        event.remove(engine, "after_cursor_execute", after)
