"""Gathers a reply's deltas so that the page redraws a few times a second, however fast they come. Knows no Gradio."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from chatui.chat import ReplyDelta
from chatui.errors import ChatError

FLUSH_SECONDS = 0.06
# The browser sets the whole reply anew at each redraw: measured on two cores, 20,000 characters of Markdown with a
# hundred code blocks keep up at 0.15 s a redraw and fall seconds behind at 0.06 s.
LONGEST_FLUSH_SECONDS = 0.15
FLUSH_SECONDS_PER_CHARACTER = 8e-6
HEARTBEAT_SECONDS = 0.25


async def gathered(
    stream: AsyncGenerator[ReplyDelta], flush: float = FLUSH_SECONDS, heartbeat: float = HEARTBEAT_SECONDS
) -> AsyncGenerator[list[ReplyDelta]]:
    """The deltas of each `flush` seconds together, the first at once; empty lists while nothing comes.

    Long replies are flushed less often, see above.

    The empty ones let the asker notice a closed tab. Ending the iterator ends the stream. Raises what it raises.
    """
    arrived: asyncio.Queue[ReplyDelta | None] = asyncio.Queue()
    failure: list[ChatError] = []

    async def pump() -> None:
        try:
            async with contextlib.aclosing(stream):
                async for delta in stream:
                    arrived.put_nowait(delta)
        except ChatError as error:
            failure.append(error)
        finally:
            arrived.put_nowait(None)

    pumping = asyncio.create_task(pump())
    try:
        over = False
        characters = 0
        while not over:
            batch = []
            try:
                delta = await asyncio.wait_for(arrived.get(), heartbeat)
                flushed_at = time.monotonic()
                while True:
                    if delta is None:
                        over = True
                        break
                    batch.append(delta)
                    if arrived.empty():
                        break
                    delta = arrived.get_nowait()
            except TimeoutError:
                yield []
                continue
            if batch:
                yield batch
                characters += sum(len(delta.text) + len(delta.reasoning) for delta in batch)
                pace = max(flush, min(characters * FLUSH_SECONDS_PER_CHARACTER, LONGEST_FLUSH_SECONDS))
                if not over:
                    await asyncio.sleep(max(0.0, pace - (time.monotonic() - flushed_at)))
        if failure:
            raise failure[0]
        await pumping
    finally:
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
