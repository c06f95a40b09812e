"""Adds how many of the oldest messages were left out of a reply's prompt; 0 for existing replies."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column."""
    op.add_column("messages", sa.Column("dropped", sa.Integer, nullable=False, server_default="0"))
