"""How many threads a forward pass should use beside other programs.

A pass waits for its slowest thread hundreds of times. With as many threads as cores, a single other program that
computes makes one of them late each time: beside one on two cores the default model wrote fewer than 3 tokens/s with
two threads, and 79 to 95 with one.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator

import psutil
import torch

PERIOD_SECONDS = 0.25
"""How long the use of the cores is measured before it is taken as that of the next passes."""

MAX_PERIOD_SECONDS = 5.0
"""Of a longer time without a pass nothing is known about its end."""


class FreeCores:
    """Measures the cores that other processes use while passes are computed."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        own_seconds: Callable[[], float] = time.process_time,
        idle_seconds: Callable[[], float] | None = None,
        cores: int | None = None,
    ) -> None:
        """The functions return seconds since some moment: of the clock, of this process on all cores, of all cores
        without work. `cores` is how many they are about.
        """
        self._clock, self._own_seconds = clock, own_seconds
        self._idle_seconds = idle_seconds or _idle_seconds
        self._cores = cores or len(_allowed())
        # Those of the whole machine: this process may be kept to fewer.
        self._physical = min(psutil.cpu_count(logical=False) or self._cores, self._cores) if cores is None else cores
        self._last = (clock() - 2 * MAX_PERIOD_SECONDS, 0.0, 0.0)
        self._others = 0.0

    def threads(self, limit: int) -> int:
        """How many threads, at most `limit`, the next pass should use.

        One fewer for each core that others use. With `limit` threads, a core of which others use the share s leaves
        (1 - s) * limit of the speed of one; less than limit - 1 where s exceeds 1 / limit.
        """
        now = self._clock()
        elapsed = now - self._last[0]
        if elapsed >= PERIOD_SECONDS:
            own, idle = self._own_seconds(), self._idle_seconds()
            used = self._cores * elapsed - (idle - self._last[2]) - (own - self._last[1])
            self._others = max(0.0, used / elapsed) if elapsed <= MAX_PERIOD_SECONDS else 0.0
            self._last = (now, own, idle)
        taken = math.ceil(max(0.0, self._others - 1 / limit))
        return max(1, min(limit, max(limit, self._physical) - taken))


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Inside, PyTorch and the kernels use so many threads."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _allowed() -> list[int]:
    """The numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _idle_seconds() -> float:
    """Seconds in which the cores of this process have had nothing to do, since the machine was started.

    What runs at a low priority counts as work: so do the threads of a model, and a system tells only their sum.
    """
    times = psutil.cpu_times(percpu=True)
    free = [times[core].idle + getattr(times[core], "iowait", 0.0) for core in _allowed() if core < len(times)]
    return float(sum(free))
