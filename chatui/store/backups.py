"""Copies of a whole database as one SQLite file, made while others write to it. Knows no conversation."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, MetaData, insert, select
from sqlalchemy.engine import Connection

from chatui.errors import StoreError
from chatui.store.database import ALL_OWNERS, REVISIONS, Database

ROWS_AT_ONCE = 1000


def backup(database: Database, target: Path, make_tables: Callable[[Database], None]) -> None:
    """Write all that is there now to the new file `target`; `make_tables` makes the same tables in an empty database.

    Raises StoreError, also where `target` is there already; nothing half-written is left behind.
    """
    half = target.with_name(f"{target.name}.{os.getpid()}.part")
    refused = StoreError(f"{target} is there already.", "Name a new file.")
    if target.exists():
        raise refused
    with database.named_errors():
        half.touch(mode=0o600, exist_ok=False)
        try:
            if database.sqlite:
                _copy_pages(database, half)
            else:
                _copy_rows(database, half, make_tables)
            try:
                os.link(half, target)  # unlike a rename, this never replaces a file
            except FileExistsError:
                raise refused from None
        finally:
            half.unlink()


def _copy_pages(database: Database, target: Path) -> None:
    with closing(database.engine.raw_connection()) as source, closing(sqlite3.connect(target)) as copied:
        source.driver_connection.backup(copied)  # type: ignore[union-attr]
        copied.execute("PRAGMA journal_mode = DELETE")


def _copy_rows(database: Database, target: Path, make_tables: Callable[[Database], None]) -> None:
    fresh = Database(URL.create("sqlite", database=str(target)))
    options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", ALL_OWNERS: True}
    try:
        make_tables(fresh)
        with database.engine.connect().execution_options(**options) as source, fresh.maintaining() as sink:
            _copy_tables(source, sink)
    finally:
        fresh.close()


def _copy_tables(source: Connection, sink: Connection) -> None:
    """What the two databases call the same, whatever version of the tables that is."""
    here, there = MetaData(), MetaData()
    here.reflect(source)
    there.reflect(sink, only=lambda name, _: name in here.tables and name != REVISIONS)
    for table in there.sorted_tables:
        sink.execute(table.delete())
        columns = [here.tables[table.name].c[column.name] for column in table.columns]
        statement = (
            select(*columns).order_by(*here.tables[table.name].primary_key).execution_options(yield_per=ROWS_AT_ONCE)
        )
        for rows in source.execute(statement).mappings().partitions():
            sink.execute(insert(table), [{name: _plain(value) for name, value in row.items()} for row in rows])


def _plain(value: Any) -> Any:
    """SQLite keeps times in UTC without saying so."""
    return value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) else value
