"""Saves running replies to a store in the background. Knows no backend and no page.

Each store has its own writer, so that a store that fails does not block another one.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from chatui import priority, tracing
from chatui.errors import ChatError, StoreError, unexpected
from chatui.store.records import ReplyUpdate, StoredMessage, UpdateResult
from chatui.store.store import Store

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
"""How often running replies are saved. A crash loses no more than this."""

STORE_TIMEOUT_SECONDS = 3.0
"""After so long without an answer of the store, its replies show that they are not saved."""

RETRY_SECONDS = 2.0
CLOSE_TIMEOUT_SECONDS = 5.0


class WritableReply(Protocol):
    """A running reply that can be saved. `save_error` is set while saving fails, `saved` once its end is stored."""

    saved: bool
    save_error: ChatError | None
    task: asyncio.Task[None] | None
    trace: object

    def to_update(self) -> ReplyUpdate:
        """The update that saves its current content and state."""

    def on_lease_lost(self, stored: StoredMessage | None) -> None:
        """Stop, because its lease was lost. `stored` is what the store has; None if it was deleted."""

    def notify(self) -> None:
        """Wake the listeners."""


R = TypeVar("R", bound=WritableReply)

ReplyKey = tuple[str, str]
"""The owner of a reply and its message id. Browsers choose the ids, so another owner may have the same one."""


class ReplyWriter(Generic[R]):
    """Saves the replies of one store, in its own task and thread, until their ends are stored."""

    def __init__(self, store: Store, inspection: Callable[[R], bytes | None]) -> None:
        """`inspection` gives the packed inspection of a finished reply."""
        self.store = store
        self.replies: dict[ReplyKey, R] = {}
        self._inspection = inspection
        self._retry_at: dict[ReplyKey, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._logged = ""
        # At normal priority it would take a core from the model's forward pass, and the other cores would wait.
        self._thread = ThreadPoolExecutor(1, "chatui-keeping", priority.lower_priority, (priority.ASIDE,))

    def start(self) -> None:
        """Start saving on the running event loop. Does nothing if it already runs there."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.get_loop() is not loop or self._task.done():
            self._wake = asyncio.Event()
            self._task = loop.create_task(self._save_periodically(self._wake))

    def wake(self) -> None:
        """Save now instead of at the next interval, because a reply has ended."""
        if self._wake is not None:
            self._wake.set()

    async def close(self) -> None:
        """Save all replies once more, for CLOSE_TIMEOUT_SECONDS at most, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._flush()
        except Exception as error:
            log.warning("%s replies could not be saved: %s", len(self.replies), str(error) or "no answer")
        self._thread.shutdown(wait=False)

    async def _save_periodically(self, wake: asyncio.Event) -> None:
        while True:
            try:
                await self._flush()
                self._logged = ""
            except Exception as error:
                self._log_once(error)
            # Not wait_for(): in Python 3.11 it loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await wake.wait()
            wake.clear()

    def _log_once(self, error: Exception) -> None:
        """Log an error, unless it is the same as the last one."""
        if str(error) == self._logged:
            return
        self._logged = str(error)
        if isinstance(error, ChatError):
            log.warning("replies are not saved, and tried again: %s", error)
        else:
            log.error("replies are not saved, and tried again", exc_info=error)

    async def _flush(self) -> None:
        """Save all replies, which also renews their leases. Finished ones that are saved are removed from `replies`."""
        now = time.monotonic()
        due = {key: reply for key, reply in self.replies.items() if self._retry_at.get(key, now) <= now}
        if not due:
            return
        updates = {key: reply.to_update() for key, reply in due.items()}
        started = time.time_ns()
        saving = asyncio.get_running_loop().run_in_executor(self._thread, self._save, due, updates)
        try:
            while not (await asyncio.wait({saving}, timeout=STORE_TIMEOUT_SECONDS))[0]:
                self._set_save_error(StoreError("The database does not answer.", "Check that it runs."))
            results = await saving
        except Exception as error:
            self._set_save_error(error)
            raise
        for key, result in results.items():
            reply = self.replies[key]
            self._apply_result(key, updates[key], result)
            if reply.saved:
                tracing.record("store.save", started, time.time_ns(), reply.trace)

    def _save(self, due: dict[ReplyKey, R], updates: dict[ReplyKey, ReplyUpdate]) -> dict[ReplyKey, UpdateResult]:
        """Save the updates, those of finished replies with their inspections."""
        complete = []
        for key, reply in due.items():
            # An update that was refused is retried without the inspection.
            finished = updates[key].state != "running" and key not in self._retry_at
            complete.append(replace(updates[key], inspection=self._inspection(reply)) if finished else updates[key])
        return dict(zip(due, self._update_store(complete), strict=True))

    def _update_store(self, updates: list[ReplyUpdate]) -> list[UpdateResult]:
        try:
            return self.store.update_replies(updates)
        except Exception:
            if len(updates) > 1 or updates[0].inspection is None:
                raise
        return self.store.update_replies([replace(updates[0], inspection=None)])

    def _set_save_error(self, error: Exception) -> None:
        for reply in self.replies.values():
            reply.save_error = error if isinstance(error, ChatError) else unexpected(error)
            reply.notify()

    def _apply_result(self, key: ReplyKey, update: ReplyUpdate, result: UpdateResult) -> None:
        """Apply the store's answer to an update: an error, a lost lease, a requested stop, or success."""
        reply = self.replies[key]
        reply.save_error = result.error
        if result.error is not None:
            self._retry_at[key] = time.monotonic() + RETRY_SECONDS
        else:
            self._retry_at.pop(key, None)
            if result.lease_lost:
                reply.on_lease_lost(result.stored)
            elif update.state == "running":
                if result.stop_requested and reply.task is not None:
                    reply.task.cancel()
                return
            del self.replies[key]
            reply.saved = True
        reply.notify()
