"""Temporary chats: each belongs to the tab that began it, and is gone as soon as that tab leaves it.

A tab leaves by going to another chat, by a reload, by being closed, or by being silent for too long.
"""

import logging
import time

from chatui.runner import Runner

log = logging.getLogger(__name__)

MAX_LATE_SECONDS = 60.0
"""Seconds that an event of a tab may go on after the tab has been closed."""


class TemporaryChats:
    """Which temporary chat each tab is in, by the session that its browser made up; so only its owner's are removed."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._of_tab: dict[str, tuple[str, str]] = {}
        self._closed: dict[str, float] = {}

    async def stands(self, session: str, owner: str, chat: str) -> None:
        """The tab is in this temporary chat now, "" for none; the one that it was in before is removed."""
        before = self._of_tab.pop(session, None)
        now = (owner, chat) if chat else None
        if now is not None and session in self._closed:
            await self._remove(*now)
        elif now is not None and session:
            self._of_tab[session] = now
        if before is not None and before != now:
            await self._remove(*before)

    def is_closed(self, session: str) -> bool:
        """Whether the tab was closed a moment ago: an event of it may still go on."""
        return session in self._closed

    async def left(self, session: str) -> None:
        """The tab is closed, or shows another page."""
        moment = time.monotonic()
        self._closed = {one: since for one, since in self._closed.items() if moment - since < MAX_LATE_SECONDS}
        self._closed[session] = moment
        before = self._of_tab.pop(session, None)
        if before is not None:
            await self._remove(*before)

    async def _remove(self, owner: str, chat: str) -> None:
        try:
            await self._runner.discard(owner, chat)
        except Exception:
            log.exception("a temporary chat could not be removed, and is a day later")
