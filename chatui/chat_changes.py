"""Tells tabs which conversations of their user have changed, on any server, without a query to the database.

Knows no page and no HTTP.
"""

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from chatui.store.notifications import ChatChange, Notification, Notifications, digest

MAX_CHANGES = 10_000
"""The latest changes of all users that are kept. They bridge the second or two between two calls of a tab."""


@dataclass(frozen=True)
class Changed:
    """What has changed for a tab. `position` is where its next call goes on.

    `missed` is true if some changes are not known any more; then anything may have changed.
    """

    position: str
    conversations: frozenset[str] = frozenset()
    missed: bool = False

    def __bool__(self) -> bool:
        return self.missed or bool(self.conversations)


class ChatChanges:
    """The latest changes. Its methods are called on the event loop."""

    def __init__(self, notifications: Notifications) -> None:
        self._server = secrets.token_hex(6)
        self._changes: deque[tuple[int, float, ChatChange]] = deque(maxlen=MAX_CHANGES)
        self._number = self._known_from = 0
        self._waiting: dict[str, set[asyncio.Event]] = {}
        notifications.subscribe(self._add)

    def since(self, owner: str, tab: str, position: str) -> Changed:
        """The changes since `position`, without those that the tab itself has made."""
        server, _, number = position.partition("-")
        if server != self._server or not number.isdecimal() or int(number) < self._oldest():
            return Changed(self._position(), missed=True)
        later = itertools.takewhile(lambda change: change[0] > int(number), reversed(self._changes))
        return Changed(self._position(), self._conversations(owner, tab, later))

    def in_last(self, owner: str, tab: str, seconds: float) -> Changed:
        """The changes of the last seconds, without those that the tab itself has made."""
        moment = time.monotonic() - seconds
        later = itertools.takewhile(lambda change: change[1] >= moment, reversed(self._changes))
        return Changed(self._position(), self._conversations(owner, tab, later))

    async def wait(self, owner: str, tab: str, position: str) -> Changed:
        """Wait until there are changes since `position`."""
        woken, waiting = asyncio.Event(), self._waiting.setdefault(digest(owner), set())
        waiting.add(woken)
        try:
            while not (changed := self.since(owner, tab, position)):
                woken.clear()
                await woken.wait()
            return changed
        finally:
            waiting.remove(woken)
            if not waiting:
                self._waiting.pop(digest(owner), None)

    def _position(self) -> str:
        return f"{self._server}-{self._number}"

    def _oldest(self) -> int:
        """The lowest number since which all changes are known."""
        full = len(self._changes) == self._changes.maxlen
        return max(self._known_from, self._changes[0][0] - 1 if full else 0)

    @staticmethod
    def _conversations(owner: str, tab: str, changes: Iterable[tuple[int, float, ChatChange]]) -> frozenset[str]:
        of_owner, own = digest(owner), digest(tab)
        return frozenset(
            change.conversation for _, _, change in changes if change.owner == of_owner and change.origin != own
        )

    def _add(self, notification: Notification) -> None:
        if notification.kind == "reconnected":
            self._number += 1
            self._known_from = self._number
            for waiting in self._waiting.values():
                _wake(waiting)
        if notification.kind != "chat":
            return
        for change in filter(None, map(ChatChange.from_id, notification.ids)):
            self._number += 1
            self._changes.append((self._number, time.monotonic(), change))
            _wake(self._waiting.get(change.owner, ()))


def _wake(waiting: Iterable[asyncio.Event]) -> None:
    for woken in waiting:
        woken.set()
