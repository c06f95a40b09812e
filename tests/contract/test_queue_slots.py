import asyncio
from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi import FastAPI

from chatui.ui.gradio_compat.queue_slots import run_many
from chatui.ui.gradio_compat.serving import mount
from chatui.ui.gradio_compat.sessions import MAX_TABS
from tests.contract.upstream import needs, needs_source

MODULE = "queue_slots"


def started(count: int, prepare: Callable[[gr.Blocks], object]) -> int:
    """How many of so many events, none of which ends, the queue of a page that was prepared so has begun with."""

    async def endless() -> Any:
        yield "Hi"

    with gr.Blocks() as page:
        gr.Button().click(endless, None, gr.Textbox(), concurrency_limit=None)
    queue: Any = page._queue
    begun = 0

    async def process_events(*_: object) -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    async def run() -> None:
        event_queue = queue.event_queue_per_concurrency_id
        fn = next(iter(page.fns.values()))
        queue.create_event_queue_for_fn(fn)
        (waiting,) = event_queue.values()
        for number in range(count):
            waiting.queue.append(
                type("Event", (), {"fn": fn, "_id": str(number), "session_hash": str(number), "alive": False})()
            )
        queue.sleep_when_free = queue.progress_update_sleep_when_free = 0.001
        queue.process_events = process_events
        queue.start()
        before = -1
        while begun > before:
            before = begun
            await asyncio.sleep(0.3)
        queue.stopped = True
        await asyncio.sleep(0.01)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    prepare(page)
    asyncio.run(run())
    return begun


def test_an_event_of_each_tab_runs_at_once() -> None:
    says = "Gradio's queue no longer has a place for each event that runs"
    needs_source("gradio.queueing:Queue.start", r"active_jobs = \[None\] \* self\.max_thread_count", says, MODULE)
    needs_source("gradio.queueing:Queue.start_processing", r"None not in self\.active_jobs", says, MODULE)
    needs_source("gradio.blocks:Blocks.launch", r"_queue\.max_thread_count = max_threads", says, MODULE)
    needs(started(60, lambda _: None) == 40, "Gradio's queue does not run 40 events at most by itself", MODULE)
    assert started(MAX_TABS + 1, run_many) == MAX_TABS


def test_the_page_is_served_so() -> None:
    assert started(60, lambda page: mount(FastAPI(), page, None, "", {})) == 60
