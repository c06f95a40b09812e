"""The states of models as server-sent events."""

import asyncio
import time
from collections.abc import AsyncGenerator

from chatui.api.responses import Fields, describe_state, model_event
from chatui.backend import Backend

# Proxies often close connections after a minute without data.
KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b": waiting\n\n"
POLL_SECONDS = 0.25


async def model_events(backend: Backend) -> AsyncGenerator[bytes]:
    """The state of each model as an event, then an event for each change, until the client leaves."""
    known: dict[str, Fields] = {}
    sent_at = time.monotonic()
    while True:
        for model in backend.models():
            state = describe_state(model)
            if known.get(model.name) != state:
                yield model_event(model.name, state, changed=model.name in known)
                known[model.name], sent_at = state, time.monotonic()
        if time.monotonic() - sent_at >= KEEP_ALIVE_SECONDS:
            yield KEEP_ALIVE
            sent_at = time.monotonic()
        await asyncio.sleep(POLL_SECONDS)
