"""Whose turn comes first where all cores are busy: the server and browsers, then the model, then what can wait."""

import contextlib
import os
import sys
import threading

MODEL, ASIDE = 5, 10
"""How much later than other programs of this computer their turn comes, on the scale of nice(1)."""


def lower_priority(niceness: int) -> None:
    """Let this thread, and those that it starts, come so much later."""
    if sys.platform == "linux":  # where a priority is a thread's own
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(niceness, os.getpriority(os.PRIO_PROCESS, thread)))
