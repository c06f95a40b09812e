"""Adds the sizes of conversations and personas, and an index of running replies, for the quotas of owners."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ROW = 300


def upgrade() -> None:
    """Add both columns, computed for existing rows, and the indexes that sum them by owner."""
    bytes_of = "octet_length({})" if op.get_bind().dialect.name == "postgresql" else "length(CAST({} AS BLOB))"
    for table in ("conversations", "personas"):
        op.add_column(table, sa.Column("size", sa.BigInteger, nullable=False, server_default="0"))
    op.execute(f"UPDATE personas SET size = {ROW} + {bytes_of.format('persona')}")  # noqa: S608
    texts = " + ".join(bytes_of.format(f"m.{column}") for column in ("content", "reasoning", "error", "note"))
    author = f"coalesce({ROW} + {bytes_of.format('m.author')}, 0)"
    op.execute(
        f"UPDATE conversations SET size = {ROW} + {bytes_of.format('persona')} + {bytes_of.format('title')}"  # noqa: S608
        f" + coalesce((SELECT sum({ROW} + {texts} + {author}) FROM messages m"
        " WHERE m.owner = conversations.owner AND m.conversation = conversations.id), 0)"
        " + coalesce((SELECT sum(length(i.data)) FROM messages m"
        " JOIN inspections i ON i.owner = m.owner AND i.message = m.id"
        " WHERE m.owner = conversations.owner AND m.conversation = conversations.id), 0)"
    )
    op.create_index("conversations_sizes", "conversations", ["owner", "size"])
    op.create_index("personas_sizes", "personas", ["owner", "size"])
    running = sa.text("state = 'running'")
    op.create_index("messages_running_of", "messages", ["owner"], sqlite_where=running, postgresql_where=running)
