"""Who writes a running reply, and whether somebody wants it stopped: for several servers on one database."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what only running replies have; without a lease a server of an older version writes them."""
    op.add_column("messages", sa.Column("lease", sa.Text))
    op.add_column("messages", sa.Column("stop_requested", sa.Boolean))
