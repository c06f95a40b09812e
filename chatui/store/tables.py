"""The tables as they are now, and how values are kept in them. What they once were is in the migrations."""

import json
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from chatui.chat import Finish
from chatui.personas import Persona
from chatui.store.records import Author
from chatui.text_cleaning import clean

T = TypeVar("T")


class Words(TypeDecorator[str]):
    """Text, cleaned."""

    impl = Text
    cache_ok = True

    @override
    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean(value)


class Time(TypeDecorator[datetime]):
    """A time in UTC, aware both ways; SQLite keeps it without its zone, as text that sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """What is sent to the database. A time without a zone is taken as UTC."""
        if value is None:
            return None
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """A dataclass as JSON. Fields that another version of chatui knew are passed over, see lenient()."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.kind = kind
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    @override
    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return clean(json.dumps(self._adapter.dump_python(value), ensure_ascii=False))

    @override
    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """What the database gives back; None where it can no longer be understood at all."""
        return None if value is None else lenient(self._adapter, json.loads(value))


def lenient(adapter: TypeAdapter[T], value: Any) -> T | None:
    """`value` without the parts that are not allowed; None where a part without a default is missing."""
    while True:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            place = error.errors(include_url=False)[0]["loc"]
        if not _removed(value, place):
            return None


def _removed(value: Any, place: tuple[int | str, ...]) -> bool:
    """Take what is at `place` out of nested dicts; False where it is not in one."""
    for depth, key in enumerate(place):
        if not isinstance(value, dict) or key not in value:
            return False
        if depth == len(place) - 1 or not isinstance(value[key], dict):
            del value[key]
            return True
        value = value[key]
    return False


metadata = MetaData()
key = BigInteger().with_variant(Integer, "sqlite")

conversations = Table(
    "conversations",
    metadata,
    Column("seq", key, primary_key=True, autoincrement=True),
    Column("id", Words, nullable=False),
    Column("owner", Words, nullable=False),
    Column("title", Words, nullable=False),
    Column("named", Boolean, nullable=False),
    Column("persona", Json(Persona), nullable=False),
    Column("card", Words),
    Column("leaf", Words),
    Column("pinned", Boolean, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("created", Time, nullable=False),
    Column("updated", Time, nullable=False),
    Column("deleted", Time),
    Column("arriving", Time),
    Column("size", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("owner", "id", name="conversations_of_owner"),
    Index("conversations_sizes", "owner", "size"),
    Index(
        "conversations_of_card",
        "owner",
        "card",
        sqlite_where=text("card IS NOT NULL"),
        postgresql_where=text("card IS NOT NULL"),
    ),
    Index(
        "conversations_listed",
        "owner",
        "archived",
        "pinned",
        "updated",
        "seq",
        sqlite_where=text("deleted IS NULL"),
        postgresql_where=text("deleted IS NULL"),
    ),
    Index(
        "conversations_deleted",
        "deleted",
        sqlite_where=text("deleted IS NOT NULL"),
        postgresql_where=text("deleted IS NOT NULL"),
    ),
    Index(
        "conversations_arriving",
        "arriving",
        sqlite_where=text("arriving IS NOT NULL"),
        postgresql_where=text("arriving IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

messages = Table(
    "messages",
    metadata,
    Column("seq", key, primary_key=True, autoincrement=True),
    Column("id", Words, nullable=False),
    Column("owner", Words, nullable=False),
    Column("conversation", Words, nullable=False),
    Column("parent", Words),
    Column("role", Words, nullable=False),
    Column("state", Words, nullable=False),
    Column("created", Time, nullable=False),
    Column("heartbeat", Time),
    Column("lease", Words),
    Column("stop_requested", Boolean),
    Column("rating", Words),
    Column("note", Words, nullable=False),
    Column("error", Words, nullable=False),
    Column("content", Words, nullable=False),
    Column("reasoning", Words, nullable=False),
    Column("author", Json(Author)),
    Column("finish", Json(Finish)),
    UniqueConstraint("owner", "id", name="messages_of_owner"),
    ForeignKeyConstraint(["owner", "conversation"], ["conversations.owner", "conversations.id"]),
    ForeignKeyConstraint(["owner", "parent"], ["messages.owner", "messages.id"]),
    Index("messages_of_conversation", "owner", "conversation", "seq"),
    Index("messages_by_parent", "owner", "parent"),
    Index("messages_newest", "owner", "seq"),
    Index(
        "messages_running_of",
        "owner",
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    Index(
        "messages_running",
        "heartbeat",
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    sqlite_autoincrement=True,
)

inspections = Table(
    "inspections",
    metadata,
    Column("owner", Words, primary_key=True),
    Column("message", Words, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("page_first", Float),
    Column("page_last", Float),
    ForeignKeyConstraint(["owner", "message"], ["messages.owner", "messages.id"]),
)

personas = Table(
    "personas",
    metadata,
    Column("seq", key, primary_key=True, autoincrement=True),
    Column("id", Words, nullable=False),
    Column("owner", Words, nullable=False),
    Column("persona", Json(Persona), nullable=False),
    Column("card", Words),
    Column("size", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("owner", "id", name="personas_of_owner"),
    Index("personas_sizes", "owner", "size"),
    sqlite_autoincrement=True,
)

cards = Table(
    "cards",
    metadata,
    Column("owner", Words, primary_key=True),
    Column("hash", Words, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("avatar", Words, nullable=False),
    Column("card", Words, nullable=False),
    Index("cards_sizes", "owner", "size"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", Words, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

adoptions = Table(
    "adoptions",
    metadata,
    Column("source", Words, primary_key=True),
    Column("target", Words, primary_key=True),
    Column("accepted", Boolean, nullable=False),
    Column("moment", Time, nullable=False),
)

logins = Table(
    "logins",
    metadata,
    Column("token", Words, primary_key=True),
    Column("name", Words, nullable=False),
    Column("proof", LargeBinary, nullable=False),
    Column("seen", Time, nullable=False),
    Index("logins_seen", "seen"),
)
