"""What is large of a persona, its card and its picture: kept once for each content, however many conversations it has.

A row of a conversation or a persona has the rest, and the hash of these. Every function here asks for the owner.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, insert, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from chatui.personas import Persona
from chatui.store.quotas import ROW_BYTES, byte_length
from chatui.store.tables import cards, conversations, personas
from chatui.text_cleaning import clean


@dataclass(frozen=True)
class StoredPersona:
    """A persona as it is kept: without its card and picture, and those by their hash; None where it has neither."""

    persona: Persona
    hash: str | None = None
    avatar: str = ""
    card: str = ""

    @classmethod
    def of(cls, persona: Persona) -> Self:
        """Takes a tenth of a second for the largest card: best done before others wait for the database."""
        if persona.card is None and not persona.avatar:
            return cls(persona)
        card = clean(json.dumps(persona.card, ensure_ascii=False))
        digest = hashlib.sha256(f"{persona.avatar}\0{card}".encode()).hexdigest()
        return cls(replace(persona, avatar="", card=None), digest, persona.avatar, card)

    @property
    def size(self) -> int:
        """The bytes that the card and the picture take in a row of their own."""
        return ROW_BYTES + byte_length(self.avatar) + byte_length(self.card)

    @property
    def columns(self) -> dict[str, Any]:
        """The values of a row that refers to it."""
        return {"persona": self.persona, "card": self.hash}


def new_bytes(connection: Connection, owner: str, parted: StoredPersona) -> int:
    """What keep() would add."""
    if parted.hash is None:
        return 0
    mine = and_(cards.c.owner == owner, cards.c.hash == parted.hash)
    return parted.size if connection.scalar(select(cards.c.hash).where(mine)) is None else 0


def keep(connection: Connection, owner: str, parted: StoredPersona) -> None:
    """Have its card there, and locked, until the row that refers to it is."""
    if parted.hash is None:
        return
    mine = and_(cards.c.owner == owner, cards.c.hash == parted.hash)
    if connection.scalar(select(cards.c.hash).where(mine).with_for_update()) is not None:
        return
    insert_or = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert
    values = {"owner": owner, "hash": parted.hash, "avatar": parted.avatar, "card": parted.card, "size": parted.size}
    same = {"hash": parted.hash}
    connection.execute(
        insert_or(cards).values(values).on_conflict_do_update(index_elements=["owner", "hash"], set_=same)
    )


def whole(connection: Connection, owner: str, rows: Iterable[Any]) -> list[Persona]:
    """The personas of rows, each with its card and picture."""
    kept = [(row.persona or Persona(name=""), row.card) for row in rows]
    hashes = {hash for _, hash in kept if hash is not None}
    found = _found(connection, owner, hashes) if hashes else {}
    return [replace(persona, **found.get(hash, {})) for persona, hash in kept]


def _found(connection: Connection, owner: str, hashes: Iterable[str]) -> Mapping[str | None, Mapping[str, Any]]:
    mine = and_(cards.c.owner == owner, cards.c.hash.in_(hashes))
    rows = connection.execute(select(cards).where(mine))
    return {row.hash: {"avatar": row.avatar, "card": json.loads(row.card)} for row in rows}


def give(connection: Connection, source: str, target: str, some: ColumnElement[bool]) -> None:
    """Let `target` have the cards of `source` for which `some` is so."""
    theirs = select(cards.c.hash).where(cards.c.owner == target)
    names = ("hash", "avatar", "card", "size")
    copied = select(literal(target), *(cards.c[name] for name in names))
    copied = copied.where(cards.c.owner == source, some, cards.c.hash.not_in(theirs))
    connection.execute(insert(cards).from_select(["owner", *names], copied))


def remove_unused(connection: Connection, owner: str) -> int:
    """Remove the owner's cards that nothing refers to any more. Returns how many bytes those had.

    Looked for again once they are locked: a conversation may have begun with one meanwhile.
    """
    unused = and_(cards.c.owner == owner, ~_refers(conversations, owner), ~_refers(personas, owner))
    hashes = connection.scalars(select(cards.c.hash).where(unused).with_for_update()).all()
    if not hashes:
        return 0
    gone = delete(cards).where(unused, cards.c.hash.in_(hashes)).returning(cards.c.size)
    return sum(connection.scalars(gone))


def _refers(table: Table, owner: str) -> ColumnElement[bool]:
    refers = and_(table.c.owner == owner, table.c.card == cards.c.hash)
    return exists(select(table.c.seq).where(refers).correlate(cards))
