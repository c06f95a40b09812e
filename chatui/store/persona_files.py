"""Stores the large parts of personas, the card and the picture, once per owner and content in the table `cards`.

The rows of conversations and personas have the rest of the persona and the hash of these parts. Every function takes
the owner.
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
    """A persona without its card and picture, and these two with their `hash`, which is None if it has neither."""

    persona: Persona
    hash: str | None = None
    avatar: str = ""
    card: str = ""

    @classmethod
    def of(cls, persona: Persona) -> Self:
        """Split a persona. Takes 0.1 s for the largest card, so call it before the write transaction."""
        if persona.card is None and not persona.avatar:
            return cls(persona)
        card = clean(json.dumps(persona.card, ensure_ascii=False))
        digest = hashlib.sha256(f"{persona.avatar}\0{card}".encode()).hexdigest()
        return cls(replace(persona, avatar="", card=None), digest, persona.avatar, card)

    @property
    def size(self) -> int:
        """The bytes of the row with the card and the picture."""
        return ROW_BYTES + byte_length(self.avatar) + byte_length(self.card)

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of a row that refers to this persona."""
        return {"persona": self.persona, "card": self.hash}


def new_bytes(connection: Connection, owner: str, stored: StoredPersona) -> int:
    """The bytes that save() would add."""
    if stored.hash is None:
        return 0
    same = and_(cards.c.owner == owner, cards.c.hash == stored.hash)
    return stored.size if connection.scalar(select(cards.c.hash).where(same)) is None else 0


def save(connection: Connection, owner: str, stored: StoredPersona) -> None:
    """Insert the card if it is new, and lock it until the transaction ends: the row that refers to it follows."""
    if stored.hash is None:
        return
    same = and_(cards.c.owner == owner, cards.c.hash == stored.hash)
    if connection.scalar(select(cards.c.hash).where(same).with_for_update()) is not None:
        return
    upsert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert
    values = {"owner": owner, "hash": stored.hash, "avatar": stored.avatar, "card": stored.card, "size": stored.size}
    unchanged = {"hash": stored.hash}
    connection.execute(
        upsert(cards).values(values).on_conflict_do_update(index_elements=["owner", "hash"], set_=unchanged)
    )


def load_personas(connection: Connection, owner: str, rows: Iterable[Any]) -> list[Persona]:
    """The personas of rows, each with its card and picture."""
    stored = [(row.persona or Persona(name=""), row.card) for row in rows]
    hashes = {hash for _, hash in stored if hash is not None}
    files = _load_cards(connection, owner, hashes) if hashes else {}
    return [replace(persona, **files.get(hash, {})) for persona, hash in stored]


def _load_cards(connection: Connection, owner: str, hashes: Iterable[str]) -> Mapping[str | None, Mapping[str, Any]]:
    """The fields `avatar` and `card` of personas by their hash."""
    selected = and_(cards.c.owner == owner, cards.c.hash.in_(hashes))
    rows = connection.execute(select(cards).where(selected))
    return {row.hash: {"avatar": row.avatar, "card": json.loads(row.card)} for row in rows}


def copy_cards(connection: Connection, source: str, target: str, condition: ColumnElement[bool]) -> None:
    """Copy the cards of the owner `source` that meet `condition` to the owner `target`."""
    existing = select(cards.c.hash).where(cards.c.owner == target)
    names = ("hash", "avatar", "card", "size")
    copies = select(literal(target), *(cards.c[name] for name in names))
    copies = copies.where(cards.c.owner == source, condition, cards.c.hash.not_in(existing))
    connection.execute(insert(cards).from_select(["owner", *names], copies))


def remove_unused(connection: Connection, owner: str) -> int:
    """Delete the owner's cards to which no row refers. Returns their bytes.

    The condition is checked again after locking: a conversation may have started with one meanwhile.
    """
    unused = and_(cards.c.owner == owner, ~_is_used_in(conversations, owner), ~_is_used_in(personas, owner))
    hashes = connection.scalars(select(cards.c.hash).where(unused).with_for_update()).all()
    if not hashes:
        return 0
    deleted = delete(cards).where(unused, cards.c.hash.in_(hashes)).returning(cards.c.size)
    return sum(connection.scalars(deleted))


def _is_used_in(table: Table, owner: str) -> ColumnElement[bool]:
    uses = and_(table.c.owner == owner, table.c.card == cards.c.hash)
    return exists(select(table.c.seq).where(uses).correlate(cards))
