"""Adds adoptions and logins, and updates the search index when a conversation changes its owner."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add both tables, and for SQLite the triggers that update the search index."""
    op.create_table(
        "adoptions",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("moment", MOMENT, nullable=False),
    )
    op.create_table(
        "logins",
        sa.Column("token", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("proof", sa.LargeBinary, nullable=False),
        sa.Column("seen", MOMENT, nullable=False),
    )
    op.create_index("logins_seen", "logins", ["seen"])
    if op.get_bind().dialect.name == "sqlite":
        for statement in SQLITE_SEARCH:
            op.get_bind().exec_driver_sql(statement)


SQLITE_SEARCH = (
    "CREATE TRIGGER message_moved AFTER UPDATE OF owner ON messages WHEN old.state != 'running' BEGIN"
    " INSERT INTO message_words(message_words, rowid, owner, words)"
    " VALUES ('delete', old.seq, hex(old.owner), old.content);"
    " INSERT INTO message_words(rowid, owner, words) VALUES (new.seq, hex(new.owner), new.content); END",
    "CREATE TRIGGER title_moved AFTER UPDATE OF owner ON conversations BEGIN"
    " INSERT INTO title_words(title_words, rowid, owner, words)"
    " VALUES ('delete', old.seq, hex(old.owner), old.title);"
    " INSERT INTO title_words(rowid, owner, words) VALUES (new.seq, hex(new.owner), new.title); END",
)
