"""Stores login tokens in the database, so that they survive restarts and are valid on all servers of the database."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import delete, insert, select, update

from chatui.store.database import Database
from chatui.store.notifications import notify
from chatui.store.rows import now
from chatui.store.tables import logins

IDLE_TIMEOUT = timedelta(days=30)
"""A login expires when it was not used for so long."""

REFRESH_INTERVAL = timedelta(days=1)
"""The time of last use is written at most this often."""


class Logins:
    """The login tokens. Thread-safe; methods may wait for the disk, and raise StoreError.

    Neither a token nor a password can be read from the database: a row has the token's hash, and an HMAC of the
    password with the token as key.
    """

    def __init__(self, database: Database, passwords: Mapping[str, str]) -> None:
        """`passwords` are the current ones by user name."""
        self._database, self._passwords = database, passwords

    def add(self, token: str, name: str) -> None:
        """Store a token for a user. It is valid until it expires or the user's password changes."""
        values = {"token": _hash(token), "name": name, "proof": self._proof(token, name), "seen": now()}
        with self._database.writing() as connection:
            connection.execute(delete(logins).where(logins.c.seen < now() - IDLE_TIMEOUT))
            connection.execute(insert(logins).values(values))

    def user(self, token: str) -> str | None:
        """The name of the user with this token; None if the token is unknown, expired or of an earlier password."""
        selected = logins.c.token == _hash(token)
        with self._database.reading() as connection:
            row = connection.execute(select(logins).where(selected)).one_or_none()
        if row is None or row.seen < now() - IDLE_TIMEOUT or row.name not in self._passwords:
            return None
        if not hmac.compare_digest(bytes(row.proof), self._proof(token, row.name)):
            return None
        if row.seen < now() - REFRESH_INTERVAL:
            with self._database.writing() as connection:
                connection.execute(update(logins).where(selected).values(seen=now()))
        name: str = row.name
        return name

    def remove(self, token: str) -> None:
        """Make a token invalid, on all servers."""
        with self._database.writing() as connection:
            connection.execute(delete(logins).where(logins.c.token == _hash(token)))
            notify(connection, "logout", [_hash(token)])

    def _proof(self, token: str, name: str) -> bytes:
        message = f"{name}\0{self._passwords.get(name, '')}"
        return hmac.new(token.encode(), message.encode(), hashlib.sha256).digest()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
