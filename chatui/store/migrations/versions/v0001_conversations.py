"""Creates conversations, messages, inspections, personas, the cookie secret and the search indexes."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

MOMENT = sa.DateTime(timezone=True)
KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the tables of the first version."""
    _conversations()
    _messages()
    op.create_table(
        "personas",
        sa.Column("seq", KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("persona", sa.Text, nullable=False),
        sa.UniqueConstraint("owner", "id", name="personas_of_owner"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "inspections",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("message", sa.Text, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("page_first", sa.Float),
        sa.Column("page_last", sa.Float),
        sa.ForeignKeyConstraint(["owner", "message"], ["messages.owner", "messages.id"], name="inspections_message"),
    )
    kept = op.create_table(
        "secrets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.execute(kept.insert().values(name="cookies", value=secrets.token_bytes(32)))
    statements = SQLITE_SEARCH if op.get_bind().dialect.name == "sqlite" else POSTGRESQL_SEARCH
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


def _conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("seq", KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("named", sa.Boolean, nullable=False),
        sa.Column("persona", sa.Text, nullable=False),
        sa.Column("leaf", sa.Text),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("archived", sa.Boolean, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("updated", MOMENT, nullable=False),
        sa.Column("deleted", MOMENT),
        sa.UniqueConstraint("owner", "id", name="conversations_of_owner"),
        sqlite_autoincrement=True,
    )
    there = sa.text("deleted IS NULL")
    op.create_index(
        "conversations_listed",
        "conversations",
        ["owner", "archived", "pinned", "updated", "seq"],
        sqlite_where=there,
        postgresql_where=there,
    )
    gone = sa.text("deleted IS NOT NULL")
    op.create_index("conversations_deleted", "conversations", ["deleted"], sqlite_where=gone, postgresql_where=gone)


def _messages() -> None:
    op.create_table(
        "messages",
        sa.Column("seq", KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("conversation", sa.Text, nullable=False),
        sa.Column("parent", sa.Text),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("heartbeat", MOMENT),
        sa.Column("rating", sa.Text),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("reasoning", sa.Text, nullable=False),
        sa.Column("author", sa.Text),
        sa.Column("finish", sa.Text),
        sa.UniqueConstraint("owner", "id", name="messages_of_owner"),
        sa.ForeignKeyConstraint(
            ["owner", "conversation"], ["conversations.owner", "conversations.id"], name="messages_conversation"
        ),
        sa.ForeignKeyConstraint(["owner", "parent"], ["messages.owner", "messages.id"], name="messages_parent"),
        sqlite_autoincrement=True,
    )
    op.create_index("messages_of_conversation", "messages", ["owner", "conversation", "seq"])
    op.create_index("messages_by_parent", "messages", ["owner", "parent"])
    op.create_index("messages_newest", "messages", ["owner", "seq"])
    running = sa.text("state = 'running'")
    op.create_index("messages_running", "messages", ["heartbeat"], sqlite_where=running, postgresql_where=running)


# The index is contentless. hex(owner) is one word, so a query finds the matches of one owner only.
# Deleting a row from such an index takes its original text, so a text changes only before it is indexed.
SQLITE_SEARCH = (
    "CREATE VIRTUAL TABLE message_words USING fts5"
    "(owner, words, content='', prefix='1 2 3', tokenize='unicode61 remove_diacritics 2')",
    "CREATE VIRTUAL TABLE title_words USING fts5"
    "(owner, words, content='', prefix='1 2 3', tokenize='unicode61 remove_diacritics 2')",
    "CREATE TRIGGER message_added AFTER INSERT ON messages WHEN new.state != 'running' BEGIN"
    " INSERT INTO message_words(rowid, owner, words) VALUES (new.seq, hex(new.owner), new.content); END",
    "CREATE TRIGGER message_ended AFTER UPDATE OF state ON messages"
    " WHEN old.state = 'running' AND new.state != 'running' BEGIN"
    " INSERT INTO message_words(rowid, owner, words) VALUES (new.seq, hex(new.owner), new.content); END",
    "CREATE TRIGGER message_removed AFTER DELETE ON messages WHEN old.state != 'running' BEGIN"
    " INSERT INTO message_words(message_words, rowid, owner, words)"
    " VALUES ('delete', old.seq, hex(old.owner), old.content); END",
    "CREATE TRIGGER title_added AFTER INSERT ON conversations BEGIN"
    " INSERT INTO title_words(rowid, owner, words) VALUES (new.seq, hex(new.owner), new.title); END",
    "CREATE TRIGGER title_changed AFTER UPDATE OF title ON conversations BEGIN"
    " INSERT INTO title_words(title_words, rowid, owner, words)"
    " VALUES ('delete', old.seq, hex(old.owner), old.title);"
    " INSERT INTO title_words(rowid, owner, words) VALUES (new.seq, hex(new.owner), new.title); END",
    "CREATE TRIGGER title_removed AFTER DELETE ON conversations BEGIN"
    " INSERT INTO title_words(title_words, rowid, owner, words)"
    " VALUES ('delete', old.seq, hex(old.owner), old.title); END",
)

# Like SQLite's tokenizer: no accents, and ASCII punctuation separates words. A tsvector is limited to 1 MB.
PLAIN = (
    "translate(regexp_replace(normalize(left({}, 100000), NFD), '[\u0300-\u036f]', '', 'g'),"
    " '!\"#$%&''()*+,-./:;<=>?@[\\]^_`{{|}}~', repeat(' ', 32))"
)
VECTOR = "to_tsvector('simple', " + PLAIN + ") || array_to_tsvector(ARRAY['owner:' || md5(owner)])"
POSTGRESQL_SEARCH = tuple(
    statement.replace("%", "%%")
    for statement in (
        "ALTER TABLE messages ADD COLUMN words tsvector GENERATED ALWAYS AS"
        f" (CASE WHEN state = 'running' THEN NULL ELSE {VECTOR.format('content')} END) STORED",
        "CREATE INDEX messages_words ON messages USING gin (words)",
        f"ALTER TABLE conversations ADD COLUMN words tsvector GENERATED ALWAYS AS ({VECTOR.format('title')}) STORED",
        "CREATE INDEX conversations_words ON conversations USING gin (words)",
    )
)
