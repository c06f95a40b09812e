import inspect

from tests.contract.upstream import find, needs, needs_parameters, needs_source, routes

MODULE = "event_streams"


def test_events_are_pushed_and_streams_are_closed_where_we_listen() -> None:
    needs_parameters("gradio.queueing:Queue.push", ["body", "request", "username"], MODULE, only=True)
    needs(inspect.iscoroutinefunction(find("gradio.queueing:Queue.push", MODULE)), "Queue.push is not async", MODULE)
    needs_source(
        "gradio.routes:App.create_app",
        r"await blocks\._queue\.push\( ?body=body, request=request, username=username,? ?\)",
        "The route /queue/join no longer calls Blocks._queue.push by keywords",
        MODULE,
    )
    message = find("gradio.server_messages:CloseStreamMessage", MODULE)().msg
    needs(message == "close_stream", f"The last message of a stream of events is now {message!r}", MODULE)
    needs_source(
        "gradio.routes:App.create_app",
        r"message = CloseStreamMessage\(\)",
        "The stream of events no longer ends with CloseStreamMessage",
        MODULE,
    )


def test_the_stream_of_events_has_its_address() -> None:
    from chatui.ui.gradio_compat.event_streams import CLOSE_STREAM, STREAM_PATH

    found = routes()
    needs(f"/gradio_api{STREAM_PATH}" in found, f"Gradio has no route /gradio_api{STREAM_PATH} any more", MODULE)
    needs("/gradio_api/queue/join" in found, "Gradio has no route /gradio_api/queue/join any more", MODULE)
    assert CLOSE_STREAM == b'"close_stream"'


def test_the_queue_has_the_parts_that_are_read() -> None:
    import gradio as gr

    with gr.Blocks() as page:
        gr.Textbox()
    needs(hasattr(page, "_queue"), "Blocks has no _queue any more", MODULE)
    waiting = getattr(page._queue, "pending_messages_per_session", None)
    needs(waiting is not None, "Queue has no pending_messages_per_session any more", "request_context")
    queue = find("gradio.queueing:AsyncQueue", "request_context")
    needs(hasattr(queue, "qsize"), "Queue's messages of a session have no qsize() any more", "request_context")
