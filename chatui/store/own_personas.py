"""Reads and writes the personas that a user has saved. Every function takes the caller's connection and the owner."""

from sqlalchemy import Connection, and_, insert, select, update
from sqlalchemy import delete as delete_rows

from chatui.errors import NotFoundError
from chatui.personas import Persona
from chatui.store import persona_files
from chatui.store.persona_files import StoredPersona
from chatui.store.quotas import Quotas, persona_size
from chatui.store.records import OwnPersona
from chatui.store.rows import new_id
from chatui.store.tables import personas


def list_personas(connection: Connection, owner: str) -> list[OwnPersona]:
    """All personas with their cards and pictures, the oldest first."""
    rows = connection.execute(select(personas).where(personas.c.owner == owner).order_by(personas.c.seq)).all()
    loaded = persona_files.load_personas(connection, owner, rows)
    return [OwnPersona(row.id, persona) for row, persona in zip(rows, loaded, strict=True)]


def list_summaries(connection: Connection, owner: str) -> list[OwnPersona]:
    """All personas without their cards and pictures, the oldest first."""
    table = personas.c
    statement = select(table.id, table.persona).where(table.owner == owner).order_by(table.seq)
    return [OwnPersona(row.id, row.persona or Persona(name="")) for row in connection.execute(statement)]


def get(connection: Connection, owner: str, id: str) -> Persona:
    """The persona with this id. Raises NotFoundError."""
    selected = select(personas).where(personas.c.owner == owner, personas.c.id == id)
    loaded = persona_files.load_personas(connection, owner, connection.execute(selected).all())
    if not loaded:
        raise NotFoundError("persona")
    return loaded[0]


def add(connection: Connection, owner: str, limits: Quotas, stored: StoredPersona) -> str:
    """Insert a persona. Returns its id. Raises LimitError."""
    size = persona_size(stored.persona)
    card_bytes = persona_files.new_bytes(connection, owner, stored)
    limits.check(connection, owner, size + card_bytes, personas=1)
    persona_files.save(connection, owner, stored)
    id = new_id()
    connection.execute(insert(personas).values(id=id, owner=owner, size=size, **stored.columns))
    return id


def replace(connection: Connection, owner: str, limits: Quotas, stored: StoredPersona, id: str) -> None:
    """Replace the persona with this id. Raises NotFoundError, or LimitError where it would take more bytes."""
    size = persona_size(stored.persona)
    card_bytes = persona_files.new_bytes(connection, owner, stored)
    saved = and_(personas.c.owner == owner, personas.c.id == id)
    previous_size = connection.scalar(select(personas.c.size).where(saved))
    if previous_size is None:
        raise NotFoundError("persona")
    connection.execute(update(personas).where(saved).values(size=size, **stored.columns))
    freed = persona_files.remove_unused(connection, owner)
    if size + card_bytes > previous_size + freed:
        limits.check(connection, owner, card_bytes)
    persona_files.save(connection, owner, stored)


def delete(connection: Connection, owner: str, id: str) -> None:
    """Delete the persona with this id, and its card if nothing else refers to it. Raises NotFoundError."""
    saved = and_(personas.c.owner == owner, personas.c.id == id)
    if not connection.execute(delete_rows(personas).where(saved)).rowcount:
        raise NotFoundError("persona")
    persona_files.remove_unused(connection, owner)
