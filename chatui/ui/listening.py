"""Whether anybody still hears a running event."""

from gradio.context import LocalContext

LONGEST_BACKLOG = 100
"""Messages; six seconds of streaming, or half a minute of waiting, that nobody has taken."""


def nobody_hears() -> bool:
    """Whether the messages of this event's page or client pile up: its stream was never opened, or its network is gone.

    Gradio ends an event when its stream is closed, but not when there never was one. To be called inside an event.
    """
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is None or request is None:
        return False
    waiting = blocks._queue.pending_messages_per_session.get(request.session_hash)
    return waiting is not None and waiting.qsize() > LONGEST_BACKLOG
