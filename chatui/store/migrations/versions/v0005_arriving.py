"""Adds the time of the last import batch, which tells unfinished imports from deleted conversations."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ARRIVING = sa.text("arriving IS NOT NULL")


def upgrade() -> None:
    """Add the column, which is set for unfinished imports only."""
    op.add_column("conversations", sa.Column("arriving", sa.DateTime(timezone=True)))
    op.create_index(
        "conversations_arriving", "conversations", ["arriving"], sqlite_where=ARRIVING, postgresql_where=ARRIVING
    )
