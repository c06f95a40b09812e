"""Stores how many tokens each user has taken on each day."""

from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from chatui.store.database import Database
from chatui.store.rows import now
from chatui.store.tables import token_counts

KEPT = timedelta(days=3)


class TokenCounts:
    """The tokens by user and day, for all servers of a database. Methods may wait for it, and raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, user: str, day: str, tokens: int) -> int:
        """Add tokens, which may be 0, and return all of that day."""
        selected = select(token_counts.c.tokens).where(token_counts.c.user == user, token_counts.c.day == day)
        if not tokens:
            with self._database.reading() as connection:
                return connection.scalar(selected) or 0
        with self._database.writing() as connection:
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            row = dialect.insert(token_counts).values(user=user, day=day, tokens=tokens)
            added = {"tokens": token_counts.c.tokens + row.excluded.tokens}
            connection.execute(row.on_conflict_do_update(index_elements=["user", "day"], set_=added))
            return connection.scalar(selected) or 0

    def purge(self) -> None:
        """Delete the counts of days that were KEPT."""
        with self._database.writing() as connection:
            connection.execute(delete(token_counts).where(token_counts.c.day < f"{now() - KEPT:%Y-%m-%d}"))
