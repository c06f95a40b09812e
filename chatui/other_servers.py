"""Follows and stops replies that other servers of the same database write. Knows no page and no HTTP."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Collection, Iterator

from chatui.errors import StoreError
from chatui.store.notifications import Notification, Notifications
from chatui.store.owner_store import OwnerStore
from chatui.store.records import StoredMessage

HEARTBEAT_SECONDS = 0.5
"""How often a followed reply is yielded at least. Without notifications it is read as often."""

NOTIFIED_POLL_SECONDS = 5.0
"""How often a followed reply is read although no notification came. A lost connection may go unnoticed for longer."""

STOP_TIMEOUT_SECONDS = 12.0
STOP_POLL_SECONDS = 0.1
"""How long, and without notifications how often, stop() waits for another server to end its reply.

A dead server's reply is swept by then.
"""

NOTIFIED_STOP_POLL_SECONDS = 0.5


class OtherServers:
    """The replies of other servers. Their notifications wake whoever waits for a change."""

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications
        self._watching: list[tuple[Collection[str], asyncio.Event]] = []
        notifications.subscribe(self._wake)

    async def follow(self, owner_store: OwnerStore, message: StoredMessage) -> AsyncGenerator[StoredMessage]:
        """Yield a running reply after each change and at least every HEARTBEAT_SECONDS, until it has ended.

        While the store fails, the reply stays as it was. Raises NotFoundError if it was removed.
        """
        with self._watch([message.id]) as changed:
            read_at = float("-inf")
            while message.state == "running":
                if changed.is_set() or time.monotonic() - read_at >= self._interval(0.0, NOTIFIED_POLL_SECONDS):
                    changed.clear()
                    read_at = time.monotonic()
                    with contextlib.suppress(StoreError):  # the store may be back at the next poll
                        message = await asyncio.to_thread(owner_store.message, message.id)
                    if message.state != "running":
                        break
                yield message
                await _wait(changed, HEARTBEAT_SECONDS)
        yield message

    async def stop(self, owner_store: OwnerStore, conversation: str) -> None:
        """Request that the running replies of a conversation stop, and wait for STOP_TIMEOUT_SECONDS at most."""
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        running = await asyncio.to_thread(owner_store.running_replies, conversation)
        if not running:
            return
        with self._watch(running) as changed:
            await asyncio.to_thread(owner_store.request_stop, conversation)
            while running and time.monotonic() < deadline:
                await _wait(changed, self._interval(STOP_POLL_SECONDS, NOTIFIED_STOP_POLL_SECONDS))
                changed.clear()
                running = await asyncio.to_thread(owner_store.running_replies, conversation)

    def _interval(self, polling: float, notified: float) -> float:
        return notified if self._notifications.connected else polling

    @contextlib.contextmanager
    def _watch(self, messages: Collection[str]) -> Iterator[asyncio.Event]:
        """An event that is set when one of these messages has changed."""
        entry = (messages, asyncio.Event())
        self._watching.append(entry)
        try:
            yield entry[1]
        finally:
            self._watching.remove(entry)

    def _wake(self, notification: Notification) -> None:
        for messages, changed in self._watching:
            is_changed = notification.kind == "reply" and not notification.ids.isdisjoint(messages)
            if is_changed or notification.kind == "reconnected":
                changed.set()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
