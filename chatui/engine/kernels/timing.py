"""Which of several ways to compute the same is the fastest on this machine."""

import time
from collections.abc import Callable

TIMES = 5


def shortest_seconds(*calls: Callable[[], object]) -> list[float]:
    """The shortest time of each, in turns."""
    best = [float("inf")] * len(calls)
    for _ in range(TIMES):
        for at, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            best[at] = min(best[at], time.perf_counter() - begin)
    return best
