"""Notifies the other servers of a PostgreSQL database of changes, and receives their notifications (NOTIFY, LISTEN).

SQLite has no notifications; there a server notifies only itself. Who waits for one polls as well, because a
notification is lost while no server listens.
"""

import asyncio
import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from sqlalchemy import Connection, func, select

from chatui.store.database import COMMITTED, Database

log = logging.getLogger(__name__)

CHANNEL = "chatui"
MAX_IDS = 100
"""Ids in one notification, which may have at most 8,000 bytes."""

RECEIVE_SECONDS = 0.2
"""How long close() may wait for the listening thread."""

RECONNECT_SECONDS = 1.0

Kind = Literal["reply", "stop", "logout", "chat", "reconnected"]
"""`reply`: these replies have changed. `stop`: they should stop. `logout`: these hashes of login tokens were removed.
`chat`: a conversation has changed, or has a new turn, see ChatChange.

`reconnected` comes from this server itself: it listens from now on, and notifications may have been lost before.
"""


ORIGIN: ContextVar[str] = ContextVar("origin", default="")
"""The tab whose event is running, which shows its changes itself; "" for none."""


@dataclass(frozen=True)
class ChatChange:
    """A conversation that has changed, and the digests of its owner and of the tab that has changed it."""

    owner: str
    conversation: str
    origin: str

    @classmethod
    def from_id(cls, id: str) -> Self | None:
        """The change that has this id in a notification; None for one of another version."""
        parts = id.split("/")
        return cls(*parts) if len(parts) == 3 else None

    @property
    def id(self) -> str:
        """The change as one word."""
        return f"{self.owner}/{self.conversation}/{self.origin}"


@dataclass(frozen=True)
class Notification:
    """What has changed; `ids` are those of messages, hashes of login tokens, or ids of ChatChange."""

    kind: Kind
    ids: frozenset[str] = frozenset()


Subscriber = Callable[[Notification], None]


def notify(connection: Connection, kind: Kind, ids: Sequence[str]) -> None:
    """Notify all servers, this one too, when the transaction is committed; in SQLite this one only."""
    if connection.dialect.name == "sqlite":
        connection.info[COMMITTED].append(Notification(kind, frozenset(ids)))
        return
    for start in range(0, len(ids), MAX_IDS):
        payload = " ".join((kind, *ids[start : start + MAX_IDS]))
        connection.execute(select(func.pg_notify(CHANNEL, payload)))


def notify_chat(connection: Connection, owner: str, conversation: str) -> None:
    """Notify the tabs of an owner that a conversation has changed."""
    notify(connection, "chat", [ChatChange(digest(owner), conversation, digest(ORIGIN.get())).id])


def digest(name: str) -> str:
    """A short word in place of an owner or a tab, which any client of the database could read."""
    return hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:24]


class Notifications:
    """Receives notifications in a thread with a connection of its own, which reconnects by itself."""

    def __init__(self, database: Database) -> None:
        """Does not connect yet."""
        self._database = database
        database.on_commit = self._publish_all
        self._subscribers: list[Subscriber] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._logged = ""
        self.connected = False
        """Whether notifications arrive."""

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` on the event loop of start() with each notification."""
        self._subscribers.append(subscriber)

    def start(self) -> None:
        """Listen, and call the subscribers on the running event loop. Does nothing with SQLite."""
        self._loop = asyncio.get_running_loop()
        if self._thread is None and not self._database.sqlite:
            self._thread = threading.Thread(target=self._run, name="chatui-listening", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(2 * RECEIVE_SECONDS)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                with self._database.as_store_errors():
                    self._listen()
            except Exception as error:
                if str(error) != self._logged:
                    log.warning("other servers' changes are polled until the database notifies again: %s", error)
                self._logged = str(error)
            self.connected = False
            self._closing.wait(RECONNECT_SECONDS)

    def _listen(self) -> None:
        with self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            driver: Any = connection.connection.driver_connection
            connection.detach()  # the pool would go on with a connection that listens
            self.connected = True
            self._publish(Notification("reconnected"))
            while not self._closing.is_set():
                for received in driver.notifies(timeout=RECEIVE_SECONDS):
                    kind, *ids = received.payload.split()
                    if kind in get_args(Kind):  # other versions may have others
                        self._publish(Notification(kind, frozenset(ids)))
                self._logged = ""

    def _publish_all(self, notifications: Iterable[Notification]) -> None:
        for notification in notifications:
            self._publish(notification)

    def _publish(self, notification: Notification) -> None:
        if self._loop is None:
            return
        for subscriber in self._subscribers:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(subscriber, notification)
