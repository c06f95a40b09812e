"""Reads and writes the votes of one owner."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC
from typing import Any, get_args

from sqlalchemy import Connection, and_, delete, exists, func, insert, select, update

from chatui.errors import LimitError
from chatui.models.votes import Choice, Vote, as_json
from chatui.store.database import Database
from chatui.store.quotas import ROW_BYTES, Quotas
from chatui.store.tables import votes

BATCH = 500
"""Votes that are looked up by one statement."""
MAX_VOTES = 20_000
"""Votes that one owner may keep: all of them are read for each table of ratings."""


class OwnVotes:
    """The votes of one owner. Methods may wait for the disk, and raise StoreError."""

    def __init__(self, database: Database, owner: str, limits: Quotas) -> None:
        self._database, self._owner, self._limits = database, owner, limits

    def all(self) -> list[Vote]:
        """All votes, the oldest first. Those that a newer version has written otherwise are left out."""
        table = votes.c
        statement = select(votes).where(table.owner == self._owner).order_by(table.created, table.id)
        with self._database.reading() as connection:
            rows = connection.execute(statement).all()
        return [
            Vote(row.a, row.b, row.choice, row.created, row.tags or ())
            for row in rows
            if row.a is not None and row.b is not None and row.choice in get_args(Choice)
        ]

    def add(self, added: Iterable[Vote]) -> int:
        """Add the votes that are not there yet, in one transaction. Returns their number. Raises LimitError."""
        rows = {str(row["id"]): row for row in map(self._row, added)}
        with self._database.writing() as connection:
            self._limits.lock_owner(connection, self._owner)
            existing = self._existing(connection, list(rows))
            new = [row for id, row in rows.items() if id not in existing]
            if new:
                self._check_count(connection, len(new))
                self._limits.check(connection, self._owner, sum(row["size"] for row in new))
                connection.execute(insert(votes), new)
        return len(new)

    def delete_all(self) -> None:
        """Delete all votes."""
        with self._database.writing() as connection:
            connection.execute(delete(votes).where(votes.c.owner == self._owner))

    def _check_count(self, connection: Connection, added: int) -> None:
        have = connection.scalar(select(func.count()).where(votes.c.owner == self._owner)) or 0
        if have + added > MAX_VOTES:
            raise LimitError(
                f"The most votes that one user may keep is {MAX_VOTES:,}, and you have {have:,}, so {added:,} more "
                "cannot be added.",
                "Export them, and delete those you have.",
            )

    def _row(self, vote: Vote) -> dict[str, Any]:
        """The columns of a vote. The id is a hash of its content, so that a vote is never there twice."""
        content = as_json([replace(vote, created=vote.created.astimezone(UTC))]).encode()
        return {
            "owner": self._owner,
            "id": hashlib.sha256(content).hexdigest(),
            "created": vote.created,
            "choice": vote.choice,
            "a": vote.a,
            "b": vote.b,
            "tags": vote.tags,
            "size": ROW_BYTES + len(content),
        }

    def _existing(self, connection: Connection, ids: list[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(ids), BATCH):
            selected = and_(votes.c.owner == self._owner, votes.c.id.in_(ids[start : start + BATCH]))
            found.update(connection.scalars(select(votes.c.id).where(selected)))
        return found


def move(connection: Connection, source: str, target: str) -> None:
    """Give the votes of `source` to `target`, which may have some of them already."""
    own = votes.alias("own")
    is_there = exists().where(own.c.owner == target, own.c.id == votes.c.id)
    connection.execute(delete(votes).where(votes.c.owner == source, is_there))
    connection.execute(update(votes).where(votes.c.owner == source).values(owner=target))
