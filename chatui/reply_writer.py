"""Keeps replies while they grow: each store apart from the others, so that one that fails holds up nobody else's.

Knows no backend and no page.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from chatui import priority
from chatui.errors import ChatError, StoreError, unexpected
from chatui.store.records import ReplyUpdate, StoredMessage, UpdateResult
from chatui.store.store import Store

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
"""What has been written meanwhile is kept this often; a crash loses no more."""

STORE_TIMEOUT_SECONDS = 3.0
"""A store that has not answered for so long does not keep what is written, as far as anybody can tell."""

RETRY_SECONDS = 2.0
CLOSE_TIMEOUT_SECONDS = 5.0


class WritableReply(Protocol):
    """A reply that is being written: `unkept` while the store does not take it, and `kept` once its end is there."""

    saved: bool
    save_error: ChatError | None
    task: asyncio.Task[None] | None

    def to_update(self) -> ReplyUpdate:
        """How far it has come."""

    def give_up(self, left: StoredMessage | None) -> None:
        """It is no longer ours to write; the store has `left` of it."""

    def notify(self) -> None:
        """Wake the listeners."""


R = TypeVar("R", bound=WritableReply)


class ReplyWriter(Generic[R]):
    """Keeps the replies of one store, in a thread and a task of its own, until their ends are in it."""

    def __init__(self, store: Store, inspection: Callable[[R], bytes | None]) -> None:
        """`inspection` tells how a reply that is over came about."""
        self.store = store
        self.replies: dict[str, R] = {}
        self._inspection = inspection
        self._refused: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._said = ""
        # Otherwise it would take a core from a step of the model's, and the other cores would wait for that one.
        self._thread = ThreadPoolExecutor(1, "chatui-keeping", priority.lower_priority, (priority.ASIDE,))

    def start(self) -> None:
        """Keep what is written from now on, on the running event loop; again does nothing."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.get_loop() is not loop or self._task.done():
            self._wake = asyncio.Event()
            self._task = loop.create_task(self._keep(self._wake))

    def wake(self) -> None:
        """A reply has ended: keep it now."""
        if self._wake is not None:
            self._wake.set()

    async def close(self) -> None:
        """Keep what there is once more, for a few seconds at most."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._flush()
        except Exception as error:
            log.warning("%s replies could not be saved: %s", len(self.replies), str(error) or "no answer")
        self._thread.shutdown(wait=False)

    async def _keep(self, wake: asyncio.Event) -> None:
        while True:
            try:
                await self._flush()
                self._said = ""
            except Exception as error:
                self._say(error)
            # Not wait_for(), which in Python 3.11 forgets to be cancelled when both happen at once.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await wake.wait()
            wake.clear()

    def _say(self, error: Exception) -> None:
        """Once, however often it is tried."""
        if str(error) == self._said:
            return
        self._said = str(error)
        if isinstance(error, ChatError):
            log.warning("replies are not saved, and tried again: %s", error)
        else:
            log.error("replies are not saved, and tried again", exc_info=error)

    async def _flush(self) -> None:
        """Write down all that has grown, which is also their sign of life. What has ended is let go of."""
        now = time.monotonic()
        due = {id: reply for id, reply in self.replies.items() if self._refused.get(id, now) <= now}
        if not due:
            return
        progress = {id: reply.to_update() for id, reply in due.items()}
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write_down, due, progress)
        try:
            while not (await asyncio.wait({writing}, timeout=STORE_TIMEOUT_SECONDS))[0]:
                self._are_unkept(StoreError("The database does not answer.", "Check that it runs."))
            written = await writing
        except Exception as error:
            self._are_unkept(error)
            raise
        for id, result in written.items():
            self._take(id, progress[id], result)

    def _write_down(self, due: dict[str, R], progress: dict[str, ReplyUpdate]) -> dict[str, UpdateResult]:
        """How far they have come and, of those that are over, how they came about."""
        told = []
        for id, reply in due.items():
            # What was refused before is tried without what is not the reply itself.
            over = progress[id].state != "running" and id not in self._refused
            told.append(replace(progress[id], inspection=self._inspection(reply)) if over else progress[id])
        return dict(zip(due, self._written(told), strict=True))

    def _written(self, told: list[ReplyUpdate]) -> list[UpdateResult]:
        try:
            return self.store.update_replies(told)
        except Exception:
            if len(told) > 1 or told[0].inspection is None:
                raise
        return self.store.update_replies([replace(told[0], inspection=None)])

    def _are_unkept(self, error: Exception) -> None:
        for reply in self.replies.values():
            reply.save_error = error if isinstance(error, ChatError) else unexpected(error)
            reply.notify()

    def _take(self, id: str, progress: ReplyUpdate, written: UpdateResult) -> None:
        """What became of what was written down."""
        reply = self.replies[id]
        reply.save_error = written.error
        if written.error is not None:
            self._refused[id] = time.monotonic() + RETRY_SECONDS
        else:
            self._refused.pop(id, None)
            if written.lease_lost:
                reply.give_up(written.stored)
            elif progress.state == "running":
                if written.stop_requested and reply.task is not None:
                    reply.task.cancel()
                return
            del self.replies[id]
            reply.saved = True
        reply.notify()
