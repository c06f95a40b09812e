"""Lets Gradio's queue run as many events at once as there may be tabs, so that each can read a running reply.

Replaced: `start` of the page's queue (`gradio/queueing.py`).
Why: the queue runs 40 events at once, whatever their own limits are, as many as Gradio has threads. An event that
streams a reply takes no thread, and lasts as long as the reply: the 41st user's message was not even begun with.
Upstream: `Queue.start` makes `active_jobs` with `max_thread_count` places, and `Queue.start_processing` takes an event
when one of them is free. `Blocks.launch` sets `max_thread_count`, so it is set when the queue starts.
"""

from typing import Any

import gradio as gr

from chatui.ui.gradio_compat.sessions import MAX_TABS


def run_many(page: gr.Blocks) -> None:
    """Let the queue of `page` run an event of each of MAX_TABS tabs at once."""
    queue: Any = page._queue
    start = queue.start

    def start_with_slots() -> None:
        queue.max_thread_count = MAX_TABS
        start()

    queue.start = start_with_slots
