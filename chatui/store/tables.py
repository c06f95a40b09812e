"""The current tables and column types, for SQLAlchemy. Earlier schemas are in the migrations."""

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
from chatui.models.votes import Contestant
from chatui.personas import Persona
from chatui.store.records import Author
from chatui.text_cleaning import clean

T = TypeVar("T")


class CleanText(TypeDecorator[str]):
    """Text that is cleaned when it is written, see text_cleaning.clean()."""

    impl = Text
    cache_ok = True

    @override
    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean(value)


class Time(TypeDecorator[datetime]):
    """A time in UTC, with its zone in Python. SQLite stores it without the zone, as text that sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """The value for the database. A time without a zone is read as UTC."""
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
    """A dataclass or tuple as JSON. Unknown fields of other versions of chatui are ignored, see lenient()."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: Any) -> None:
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
        """The dataclass from its JSON; None if a required field is invalid."""
        return None if value is None else lenient(self._adapter, json.loads(value))


def lenient(adapter: TypeAdapter[T], value: Any) -> T | None:
    """Validate `value` without its invalid fields; None if a field without a default is missing or invalid."""
    while True:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            location = error.errors(include_url=False)[0]["loc"]
        if not _remove(value, location):
            return None


def _remove(value: Any, location: tuple[int | str, ...]) -> bool:
    """Remove the value at `location` from nested dicts. Returns False if it is not in a dict."""
    for depth, key in enumerate(location):
        if not isinstance(value, dict) or key not in value:
            return False
        if depth == len(location) - 1 or not isinstance(value[key], dict):
            del value[key]
            return True
        value = value[key]
    return False


metadata = MetaData()
SEQ_TYPE = BigInteger().with_variant(Integer, "sqlite")

conversations = Table(
    "conversations",
    metadata,
    Column("seq", SEQ_TYPE, primary_key=True, autoincrement=True),
    Column("id", CleanText, nullable=False),
    Column("owner", CleanText, nullable=False),
    Column("title", CleanText, nullable=False),
    Column("named", Boolean, nullable=False),
    Column("persona", Json(Persona), nullable=False),
    Column("card", CleanText),
    Column("leaf", CleanText),
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
    Column("seq", SEQ_TYPE, primary_key=True, autoincrement=True),
    Column("id", CleanText, nullable=False),
    Column("owner", CleanText, nullable=False),
    Column("conversation", CleanText, nullable=False),
    Column("parent", CleanText),
    Column("role", CleanText, nullable=False),
    Column("state", CleanText, nullable=False),
    Column("created", Time, nullable=False),
    Column("heartbeat", Time),
    Column("lease", CleanText),
    Column("stop_requested", Boolean),
    Column("rating", CleanText),
    Column("note", CleanText, nullable=False),
    Column("error", CleanText, nullable=False),
    Column("content", CleanText, nullable=False),
    Column("reasoning", CleanText, nullable=False),
    Column("author", Json(Author)),
    Column("finish", Json(Finish)),
    Column("dropped", Integer, nullable=False, server_default="0"),
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
    Column("owner", CleanText, primary_key=True),
    Column("message", CleanText, primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("page_first", Float),
    Column("page_last", Float),
    ForeignKeyConstraint(["owner", "message"], ["messages.owner", "messages.id"]),
)

personas = Table(
    "personas",
    metadata,
    Column("seq", SEQ_TYPE, primary_key=True, autoincrement=True),
    Column("id", CleanText, nullable=False),
    Column("owner", CleanText, nullable=False),
    Column("persona", Json(Persona), nullable=False),
    Column("card", CleanText),
    Column("size", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("owner", "id", name="personas_of_owner"),
    Index("personas_sizes", "owner", "size"),
    sqlite_autoincrement=True,
)

cards = Table(
    "cards",
    metadata,
    Column("owner", CleanText, primary_key=True),
    Column("hash", CleanText, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("avatar", CleanText, nullable=False),
    Column("card", CleanText, nullable=False),
    Index("cards_sizes", "owner", "size"),
)

votes = Table(
    "votes",
    metadata,
    Column("owner", CleanText, primary_key=True),
    Column("id", CleanText, primary_key=True),
    Column("created", Time, nullable=False),
    Column("choice", CleanText, nullable=False),
    Column("a", Json(Contestant), nullable=False),
    Column("b", Json(Contestant), nullable=False),
    Column("tags", Json(tuple[str, ...]), nullable=False),
    Column("size", BigInteger, nullable=False),
    Index("votes_sizes", "owner", "size"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", CleanText, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

adoptions = Table(
    "adoptions",
    metadata,
    Column("source", CleanText, primary_key=True),
    Column("target", CleanText, primary_key=True),
    Column("accepted", Boolean, nullable=False),
    Column("moment", Time, nullable=False),
)

logins = Table(
    "logins",
    metadata,
    Column("token", CleanText, primary_key=True),
    Column("name", CleanText, nullable=False),
    Column("proof", LargeBinary, nullable=False),
    Column("seen", Time, nullable=False),
    Index("logins_seen", "seen"),
)

token_counts = Table(
    "token_counts",
    metadata,
    Column("user", CleanText, primary_key=True),
    Column("day", CleanText, primary_key=True),
    Column("tokens", BigInteger, nullable=False),
)
