"""Tells tabs what has changed, without a query to the database: conversations of their user, on any server, and models.

Knows no page and no HTTP.
"""

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from chatui.chat import ModelStatus
from chatui.store.notifications import ChatChange, Notification, Notifications, digest

MAX_DIGITS = 15
"""Digits of a position's number. More are no position of ours, and int() refuses thousands."""

MAX_CHANGES = 10_000
"""The latest changes of all users that are kept. They bridge the second or two between two calls of a tab."""


@dataclass(frozen=True)
class Changed:
    """What has changed for a tab. `position` is where its next call goes on.

    `missed` is true if some changes are not known any more; then anything may have changed. `models` stands for the
    models that can be chosen, `new_models` tells whether they are others than the tab knows.
    """

    position: str
    conversations: frozenset[str] = frozenset()
    missed: bool = False
    models: str = ""
    new_models: bool = False

    def __bool__(self) -> bool:
        return self.missed or self.new_models or bool(self.conversations)


class ChatChanges:
    """The latest changes. Its methods are called on the event loop."""

    def __init__(self, notifications: Notifications) -> None:
        self._server = secrets.token_hex(6)
        self._changes: deque[tuple[int, float, ChatChange]] = deque(maxlen=MAX_CHANGES)
        self._number = self._known_from = 0
        self._known_since = float("-inf")
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._models = ""
        notifications.subscribe(self._add)

    def note_models(self, models: Iterable[ModelStatus]) -> None:
        """Tell the tabs if others can be chosen than at the last call, or remote ones have come or gone."""
        known = [(model.name, model.remote and (model.error is None, model.info is None)) for model in models]
        before, self._models = self._models, digest(repr(known))
        if before != self._models:
            self._wake_all()

    def since(self, owner: str, tab: str, position: str, models: str = "") -> Changed:
        """The changes since `position`, without those that the tab itself has made, and since `models`, if given."""
        server, _, number = position.partition("-")
        is_number = number.isdecimal() and len(number) <= MAX_DIGITS
        if server != self._server or not is_number or int(number) < self._oldest():
            return self._changed(frozenset(), models, missed=True)
        later = itertools.takewhile(lambda change: change[0] > int(number), reversed(self._changes))
        return self._changed(self._conversations(owner, tab, later), models)

    def in_last(self, owner: str, tab: str, seconds: float, models: str = "") -> Changed:
        """The changes of the last seconds, without those that the tab itself has made, and since `models`, if given."""
        moment = time.monotonic() - seconds
        if moment < self._known_since or (self._is_full() and moment < self._changes[0][1]):
            return self._changed(frozenset(), models, missed=True)
        later = itertools.takewhile(lambda change: change[1] >= moment, reversed(self._changes))
        return self._changed(self._conversations(owner, tab, later), models)

    async def wait(self, owner: str, tab: str, start: Changed) -> Changed:
        """Wait until there are changes since `start`."""
        woken, waiting = asyncio.Event(), self._waiting.setdefault(digest(owner), set())
        waiting.add(woken)
        try:
            while not (changed := self.since(owner, tab, start.position, start.models)):
                woken.clear()
                await woken.wait()
            return changed
        finally:
            waiting.remove(woken)
            if not waiting:
                self._waiting.pop(digest(owner), None)

    def _changed(self, conversations: frozenset[str], models: str, missed: bool = False) -> Changed:
        position = f"{self._server}-{self._number}"
        return Changed(position, conversations, missed, self._models, models not in ("", self._models))

    def _oldest(self) -> int:
        """The lowest number since which all changes are known."""
        return max(self._known_from, self._changes[0][0] - 1 if self._is_full() else 0)

    def _is_full(self) -> bool:
        return len(self._changes) == self._changes.maxlen

    @staticmethod
    def _conversations(owner: str, tab: str, changes: Iterable[tuple[int, float, ChatChange]]) -> frozenset[str]:
        of_owner, own = digest(owner), digest(tab)
        return frozenset(
            change.conversation for _, _, change in changes if change.owner == of_owner and change.origin != own
        )

    def _wake_all(self) -> None:
        for waiting in self._waiting.values():
            _wake(waiting)

    def _add(self, notification: Notification) -> None:
        if notification.kind == "reconnected":
            self._number += 1
            self._known_from, self._known_since = self._number, time.monotonic()
            self._wake_all()
        if notification.kind != "chat":
            return
        for change in filter(None, map(ChatChange.from_id, notification.ids)):
            self._number += 1
            self._changes.append((self._number, time.monotonic(), change))
            _wake(self._waiting.get(change.owner, ()))


def _wake(waiting: Iterable[asyncio.Event]) -> None:
    for woken in waiting:
        woken.set()
