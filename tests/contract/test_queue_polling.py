import asyncio

import gradio as gr

from chatui.ui.gradio_compat.queue_polling import EVENT_SECONDS, poll_less
from tests.contract.upstream import needs, needs_source

MODULE = "queue_polling"


def test_the_queue_sleeps_as_long_as_it_is_told() -> None:
    says = "Gradio's queue no longer polls by its attribute {}"
    for function, name in (
        ("start_processing", "sleep_when_free"),
        ("start_progress_updates", "progress_update_sleep_when_free"),
    ):
        pattern = rf"asyncio\.sleep\(self\.{name}\)"
        needs_source(f"gradio.queueing:Queue.{function}", pattern, says.format(name), MODULE)
    with gr.Blocks() as page:
        gr.Textbox()
    queue = page._queue
    needs(queue.sleep_when_free < EVENT_SECONDS, "Gradio's queue polls less often by itself", MODULE)
    poll_less(page)
    polls = 0

    class Watched(list[object]):
        def __contains__(self, item: object) -> bool:
            nonlocal polls
            polls += 1
            return super().__contains__(item)

    queue.active_jobs = Watched()
    queue.event_queue_per_concurrency_id["one"] = type("Waiting", (), {"queue": [1]})()

    async def run() -> None:
        task = asyncio.create_task(queue.start_processing())
        await asyncio.sleep(10.5 * EVENT_SECONDS)
        queue.stopped = True
        await task

    asyncio.run(run())
    assert 1 <= polls <= 11
