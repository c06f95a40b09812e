"""How much all that is kept may take together: one who comes as somebody new each time has no other limit.

It holds for guests only, and stops what is new before what is there: chats that have begun go on longer.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, select, text

from chatui.errors import FullError
from chatui.owners import GUEST

MB = 10**6
RESERVE_DIVISOR = 4
"""Of what guests' new chats leave, a quarter is left by those that have begun too."""


@dataclass(frozen=True)
class FreeSpace:
    """So many bytes must stay free on the disk, and so many may be taken by all; 0 is no limit."""

    free: int = 0
    total: int = 0

    def check(self, connection: Connection, owner: str, size: int, new: bool) -> None:
        """Whether an owner may add so many bytes, to what is there or as something `new`. Raises FullError."""
        if not owner.startswith(GUEST):
            return
        free = self.free if new else self.free // RESERVE_DIVISOR
        if free and _free(connection) - size < free:
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


NO_LIMIT = FreeSpace()


def used_bytes(connection: Connection) -> int:
    """The bytes that the database takes; in SQLite without the pages that are free for what comes next."""
    if connection.dialect.name != "sqlite":
        return int(connection.scalar(select(func.pg_database_size(func.current_database()))) or 0)
    pages, free, size = (
        connection.scalar(text(f"PRAGMA {name}")) or 0 for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _free(connection: Connection) -> float:
    """The bytes that are free where the database is; without end where it is no file of this computer."""
    name = connection.engine.url.database
    if connection.dialect.name != "sqlite" or not name:
        return float("inf")
    try:
        return shutil.disk_usage(Path(name).parent).free
    except OSError:
        return float("inf")
