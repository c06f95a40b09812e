"""Adds leases and stop requests of running replies, for several servers on one database."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns of running replies. The replies of an older version's server have no lease."""
    op.add_column("messages", sa.Column("lease", sa.Text))
    op.add_column("messages", sa.Column("stop_requested", sa.Boolean))
