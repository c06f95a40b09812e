"""Copies a whole database to one SQLite file while others write to it. Knows no tables."""

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

BATCH_ROWS = 1000


def backup(database: Database, target: Path, make_tables: Callable[[Database], None]) -> None:
    """Write a consistent copy to the new file `target`; `make_tables` creates the same tables in an empty database.

    Raises StoreError, also if `target` exists. A failed copy leaves no file.
    """
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    refused = StoreError(f"{target} is there already.", "Name a new file.")
    if target.exists():
        raise refused
    with database.as_store_errors():
        partial.touch(mode=0o600, exist_ok=False)
        try:
            if database.sqlite:
                _copy_pages(database, partial)
            else:
                _copy_rows(database, partial, make_tables)
            try:
                os.link(partial, target)  # unlike a rename, this never replaces a file
            except FileExistsError:
                raise refused from None
        finally:
            partial.unlink()


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
    """Copy all tables and columns that both databases have, whatever their revision."""
    source_metadata, sink_metadata = MetaData(), MetaData()
    source_metadata.reflect(source)
    sink_metadata.reflect(sink, only=lambda name, _: name in source_metadata.tables and name != REVISIONS)
    for table in sink_metadata.sorted_tables:
        sink.execute(table.delete())
        original = source_metadata.tables[table.name]
        columns = [original.c[column.name] for column in table.columns]
        statement = select(*columns).order_by(*original.primary_key).execution_options(yield_per=BATCH_ROWS)
        for rows in source.execute(statement).mappings().partitions():
            sink.execute(insert(table), [{name: _to_sqlite(value) for name, value in row.items()} for row in rows])


def _to_sqlite(value: Any) -> Any:
    """A value for SQLite, which stores times in UTC without a zone."""
    return value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) else value
