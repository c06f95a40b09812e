"""Moves cards and pictures of personas to a table of their own, with one row per content."""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

ROW = 300
AT_ONCE = 10
"""Rows of one batch; each may have megabytes."""


def upgrade() -> None:
    """Add the table and the columns that refer to it, and move the existing content."""
    cards = op.create_table(
        "cards",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("avatar", sa.Text, nullable=False),
        sa.Column("card", sa.Text, nullable=False),
    )
    op.create_index("cards_sizes", "cards", ["owner", "size"])
    for name in ("conversations", "personas"):
        op.add_column(name, sa.Column("card", sa.Text))
        _move(op.get_bind(), name, cards)
    refers = sa.text("card IS NOT NULL")
    op.create_index(
        "conversations_of_card", "conversations", ["owner", "card"], sqlite_where=refers, postgresql_where=refers
    )


def _move(connection: sa.Connection, name: str, cards: sa.Table) -> None:
    table = sa.table(name, *map(sa.column, ("seq", "owner", "persona", "card", "size")))
    seq = 0
    while True:
        some = sa.select(table.c.seq, table.c.owner, table.c.persona).where(table.c.seq > seq)
        rows = connection.execute(some.order_by(table.c.seq).limit(AT_ONCE)).all()
        if not rows:
            return
        for seq, owner, text in rows:
            persona = _read(text)
            avatar, card = persona.pop("avatar", None) or "", persona.pop("card", None)
            if not isinstance(avatar, str) or not (avatar or isinstance(card, dict)):
                continue
            kept = json.dumps(card, ensure_ascii=False)
            hash = hashlib.sha256(f"{avatar}\0{kept}".encode()).hexdigest()
            there = sa.select(cards.c.hash).where(cards.c.owner == owner, cards.c.hash == hash)
            if connection.scalar(there) is None:
                size = ROW + len(avatar.encode()) + len(kept.encode())
                values = {"owner": owner, "hash": hash, "avatar": avatar, "card": kept, "size": size}
                connection.execute(cards.insert().values(values))
            left = json.dumps(persona, ensure_ascii=False)
            moved = len(text.encode()) - len(left.encode())
            changed = {"persona": left, "card": hash, "size": table.c.size - moved}
            connection.execute(table.update().where(table.c.seq == seq).values(changed))


def _read(text: str) -> dict[str, Any]:
    """The JSON object of a row; {} if it is invalid, and then the row stays as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
