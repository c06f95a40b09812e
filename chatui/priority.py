"""Lowers the CPU priority of threads: the server comes first, then the model, then background work."""

import contextlib
import os
import sys
import threading

MODEL, ASIDE = 5, 10
"""Niceness, as in nice(1), of threads that run the model and of threads for background work."""


def lower_priority(niceness: int) -> None:
    """Raise this thread's niceness to at least `niceness`. Threads that it starts inherit it. Works on Linux only."""
    if sys.platform == "linux":  # elsewhere the priority belongs to the whole process
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(niceness, os.getpriority(os.PRIO_PROCESS, thread)))
