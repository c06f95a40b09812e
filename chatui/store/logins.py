"""Who is logged in, kept so that it outlives the server and holds for all servers on the database."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import delete, insert, select, update

from chatui.store.database import Database
from chatui.store.rows import now
from chatui.store.tables import logins

IDLE_TIMEOUT = timedelta(days=30)
"""A login that was not used for so long is over."""

REFRESH_INTERVAL = timedelta(days=1)


class Logins:
    """Thread-safe; every method may wait for the disk, and raises StoreError.

    Neither a token nor a password can be read from the database: a row has the token's hash, and a proof of the
    password that only the token can check.
    """

    def __init__(self, database: Database, passwords: Mapping[str, str]) -> None:
        """`passwords` are those that hold now, by user name."""
        self._database, self._passwords = database, passwords

    def keep(self, token: str, name: str) -> None:
        """This token stands for this user from now on, as long as the password stays the same."""
        values = {"token": _hash(token), "name": name, "proof": self._proof(token, name), "seen": now()}
        with self._database.writing() as connection:
            connection.execute(delete(logins).where(logins.c.seen < now() - IDLE_TIMEOUT))
            connection.execute(insert(logins).values(values))

    def user(self, token: str) -> str | None:
        """Whom a token stands for; None where it never did, or no longer does."""
        mine = logins.c.token == _hash(token)
        with self._database.reading() as connection:
            row = connection.execute(select(logins).where(mine)).one_or_none()
        if row is None or row.seen < now() - IDLE_TIMEOUT or row.name not in self._passwords:
            return None
        if not hmac.compare_digest(bytes(row.proof), self._proof(token, row.name)):
            return None
        if row.seen < now() - REFRESH_INTERVAL:
            with self._database.writing() as connection:
                connection.execute(update(logins).where(mine).values(seen=now()))
        name: str = row.name
        return name

    def forget(self, token: str) -> None:
        """This token stands for nobody any more."""
        with self._database.writing() as connection:
            connection.execute(delete(logins).where(logins.c.token == _hash(token)))

    def _proof(self, token: str, name: str) -> bytes:
        said = f"{name}\0{self._passwords.get(name, '')}"
        return hmac.new(token.encode(), said.encode(), hashlib.sha256).digest()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
