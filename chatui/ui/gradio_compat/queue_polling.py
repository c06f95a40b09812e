"""Lets Gradio's queue look for events less often, so that an idle server takes next to no processor time.

Replaced: `sleep_when_free` and `progress_update_sleep_when_free` of the page's queue (`gradio/queueing.py`).
Why: the queue polls for new events every millisecond, and for progress every ten, whether or not there is a visitor:
8 % of a processor core that a model could use. Of `gr.Progress` the page makes no use.
Upstream: `Queue.start_processing` and `Queue.start_progress_updates` await `asyncio.sleep` of these attributes.
"""

from typing import Any

import gradio as gr

EVENT_SECONDS = 0.01
"""An event waits half as long on average, which nobody sees."""

PROGRESS_SECONDS = 1.0


def poll_less(page: gr.Blocks) -> None:
    """Set the intervals of the queue of `page`."""
    queue: Any = page._queue
    queue.sleep_when_free = EVENT_SECONDS
    queue.progress_update_sleep_when_free = PROGRESS_SECONDS
