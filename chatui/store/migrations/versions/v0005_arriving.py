"""Which conversations are on their way in, and when something last came of each: what is half in is not deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

ARRIVING = sa.text("arriving IS NOT NULL")


def upgrade() -> None:
    """Add the time, which only imports that are not at their end have."""
    op.add_column("conversations", sa.Column("arriving", sa.DateTime(timezone=True)))
    op.create_index(
        "conversations_arriving", "conversations", ["arriving"], sqlite_where=ARRIVING, postgresql_where=ARRIVING
    )
