"""Limits the space that all owners take together. A guest who comes with a new identity each time has no other limit.

It applies to guests only. New chats are refused before existing ones: those may use a part of the reserve.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, select, text

from chatui.errors import FullError
from chatui.owners import GUEST
from chatui.settings import MB

RESERVE_DIVISOR = 4
"""New chats leave the whole reserve free; existing chats leave 1 / RESERVE_DIVISOR of it."""


@dataclass(frozen=True)
class SpaceLimits:
    """Limits in bytes; 0 is no limit. `min_free` must stay free on the disk, `total` is for the whole database."""

    min_free: int = 0
    total: int = 0

    def check(self, connection: Connection, owner: str, size: int, new: bool) -> None:
        """Check that an owner may add `size` bytes, as something `new` or to something existing. Raises FullError."""
        if not owner.startswith(GUEST):
            return
        min_free = self.min_free if new else self.min_free // RESERVE_DIVISOR
        if min_free and _free_disk_bytes(connection) - size < min_free:
            raise FullError(
                "The disk of this server is nearly full, so visitors cannot begin or add anything that is kept.",
                "What you have here is safe. Have a temporary chat, or ask whoever runs this server to free some space "
                "(--min-free-disk).",
            )
        total = self.total if new else self.total + self.total // RESERVE_DIVISOR
        if total and used_bytes(connection) + size > total:
            raise FullError(
                f"All chats of this server together take the {self.total / MB:,.0f} MB that they may, so visitors "
                "cannot begin or add anything that is kept.",
                "What you have here is safe. Have a temporary chat, or ask whoever runs this server for more room "
                "(--max-total-storage).",
            )


NO_LIMIT = SpaceLimits()


def used_bytes(connection: Connection) -> int:
    """The bytes that the database takes, in SQLite without its free pages."""
    if connection.dialect.name != "sqlite":
        return int(connection.scalar(select(func.pg_database_size(func.current_database()))) or 0)
    pages, free, size = (
        connection.scalar(text(f"PRAGMA {name}")) or 0 for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _free_disk_bytes(connection: Connection) -> float:
    """The free bytes of the disk with the database; infinite if the database is not a local file."""
    name = connection.engine.url.database
    if connection.dialect.name != "sqlite" or not name:
        return float("inf")
    try:
        return shutil.disk_usage(Path(name).parent).free
    except OSError:
        return float("inf")
