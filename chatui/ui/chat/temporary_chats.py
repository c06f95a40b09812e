"""Temporary chats: each belongs to the tab that started it, and is removed as soon as that tab leaves it.

A tab leaves by showing another chat, by a reload, by being closed, or by sending nothing for too long.
"""

import logging
import time
from collections.abc import Callable

from chatui.runner import Runner

log = logging.getLogger(__name__)

MAX_LATE_SECONDS = 60.0
"""How long an event of a tab may still run after the tab was closed."""


class TemporaryChats:
    """Which temporary chat each tab shows, by its Gradio session hash.

    The browser chooses the hash, so each entry has its owner: only chats of that owner are removed. `listeners` are
    called with each tab that leaves its temporary chat or is closed.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.listeners: list[Callable[[str], None]] = []
        self._chats: dict[str, tuple[str, str]] = {}
        self._closed_at: dict[str, float] = {}

    async def enter(self, session: str, owner: str, chat: str) -> None:
        """Record that the tab shows this temporary chat, "" for none; remove the one that it showed before."""
        previous = self._chats.pop(session, None)
        entered = (owner, chat) if chat else None
        if entered is not None and session in self._closed_at:
            await self._remove(*entered)
        elif entered is not None and session:
            self._chats[session] = entered
        if previous is not None and previous != entered:
            self._notify(session)
            await self._remove(*previous)

    def is_closed(self, session: str) -> bool:
        """Whether the tab was closed less than MAX_LATE_SECONDS ago: an event of it may still run."""
        return session in self._closed_at

    async def close(self, session: str) -> None:
        """Remove the temporary chat of a tab that was closed or shows another page."""
        now = time.monotonic()
        self._closed_at = {tab: closed for tab, closed in self._closed_at.items() if now - closed < MAX_LATE_SECONDS}
        self._closed_at[session] = now
        previous = self._chats.pop(session, None)
        self._notify(session)
        if previous is not None:
            await self._remove(*previous)

    def _notify(self, session: str) -> None:
        for listener in self.listeners:
            listener(session)

    async def _remove(self, owner: str, chat: str) -> None:
        try:
            await self._runner.discard(owner, chat)
        except Exception:
            log.exception("a temporary chat could not be removed; it will be within a day")
