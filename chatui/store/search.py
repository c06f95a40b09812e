"""Full-text search in conversations: by the database's index, and by substring for what the index cannot find."""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    Table,
    TableClause,
    and_,
    cast,
    column,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from chatui.store.database import Database
from chatui.store.records import SearchHit
from chatui.store.rows import info_of, select_conversations
from chatui.store.tables import conversations, messages
from chatui.text_cleaning import clean

MAX_WORDS = 16
MAX_CHARACTERS = 500
INDEXES = ("message_words", "title_words")
MERGE_PAGES = 200
"""Pages of an index that one transaction merges, while other writers wait."""
BATCH_ROWS = 2000
MAX_ROWS = 20_000
"""A search reads at most so many matches, the newest ones."""

RECENT_ROWS = 10_000
"""Where no index applies, a search compares at most so many rows, the newest ones."""

EXCERPT_CHARACTERS = 60
"""Characters quoted before and after a match."""

UNSPACED_SCRIPTS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no spaces between words."""

ACCENTS = "".join(map(chr, range(0x300, 0x370)))


@dataclass(frozen=True)
class Query:
    """`words` for the index, the last one as a `prefix` or whole, and `substrings` that must occur literally."""

    words: tuple[str, ...]
    prefix: bool
    substrings: tuple[str, ...]


def parse_query(text: str) -> Query:
    """Parse the text of a search box; any text is valid."""
    text = unicodedata.normalize("NFC", clean(text[:MAX_CHARACTERS]).replace("\ufffd", " "))
    words: list[str] = []
    substrings: list[str] = []
    prefix = False
    for term in text.split()[:MAX_WORDS]:
        found = re.findall(r"[^\W_]+", term)
        prefix = bool(found) and not UNSPACED_SCRIPTS.search(term) and not _has_marks(term)
        if prefix:
            words += found
        else:
            substrings.append(term)
    return Query(tuple(words), prefix, tuple(substrings))


def search(connection: Connection, owner: str, text: str, limit: int) -> list[SearchHit]:
    """See OwnerStore.search(). Sorted by the newest match; for a matching title that is the time of the last turn."""
    query = parse_query(text)
    if limit < 1 or not (query.words or query.substrings):
        return []
    titles = _matches(connection, owner, query, limit, conversations)
    texts = _matches(connection, owner, query, limit, messages)
    moments: dict[str, datetime] = {id: row.moment for id, row in titles.items()}
    for id, row in texts.items():
        moments[id] = max(row.moment, moments.get(id, row.moment))
    newest = sorted(moments, key=lambda id: moments[id], reverse=True)[:limit]
    selected = select_conversations(owner).where(conversations.c.id.in_(newest))
    listed = {row.id: info_of(row) for row in connection.execute(selected)}
    quoted = {id: texts[id].seq for id in newest if id in texts}
    contents = _contents(connection, owner, list(quoted.values()))
    return [SearchHit(listed[id], *(excerpt(contents[quoted[id]], query) if id in quoted else ())) for id in newest]


def excerpt(content: str, query: Query) -> tuple[str, str, str]:
    """The text before the first match, the match, and the text after it.

    The match is empty if the index found a form of the word that this does not; the last part is then the start of
    `content`.
    """
    words = [rf"{re.escape(_fold(word))}(?![^\W_])" for word in query.words]
    if query.prefix:
        words[-1] = re.escape(_fold(query.words[-1]))
    patterns = [rf"(?<![^\W_])(?:{'|'.join(words)})"] if words else []
    patterns += [re.escape(_fold(substring)) for substring in query.substrings]
    match = re.search("|".join(patterns), _fold(content))
    start, end = match.span() if match else (0, 0)
    before, after = content[max(0, start - EXCERPT_CHARACTERS) : start], content[end : end + EXCERPT_CHARACTERS]
    return before, content[start:end], after


def _matches(connection: Connection, owner: str, query: Query, limit: int, table: Table) -> dict[str, Row[Any]]:
    """The newest matching row of each conversation, until `limit` conversations are found."""
    newest_rows: dict[str, Row[Any]] = {}
    for matching, seq in _search_queries(connection, owner, query, table):
        last = None
        for _ in range(MAX_ROWS // BATCH_ROWS):
            statement = matching if last is None else matching.where(seq < last)
            rows = connection.execute(statement.order_by(seq.desc()).limit(BATCH_ROWS)).all()
            for row in rows:
                newest_rows.setdefault(row.conversation, row)
            if len(newest_rows) >= limit:
                return newest_rows
            if len(rows) < BATCH_ROWS:
                break
            last = rows[-1].seq
    return newest_rows


SearchQuery = tuple[Select[Any], ColumnElement[int]]
"""A statement that selects matching rows, and the column that sorts them by age."""


def _search_queries(connection: Connection, owner: str, query: Query, table: Table) -> list[SearchQuery]:
    """The queries to run one after the other until enough conversations are found."""
    text = table.c.content if table is messages else table.c.title
    substrings = [text.contains(substring, autoescape=True) for substring in query.substrings]
    if not query.words:
        return [_select_recent(owner, table, substrings)]
    indexed_rows: FromClause
    if connection.dialect.name == "sqlite":
        index = TableClause("message_words" if table is messages else "title_words", column("rowid"))
        match = literal_column(index.name).op("MATCH")(_fts5(owner, query))
        indexed = select(index.c.rowid.label("seq")).where(match)
        indexed_rows = _limit_rows(indexed, index.c.rowid, substrings).subquery("found")
        return [_select_indexed(indexed_rows, owner, table, substrings)]
    matches = literal_column(f"{table.name}.words").op("@@")(_tsquery(owner, query))
    indexed = select(table.c.seq).where(table.c.owner == owner, matches)
    indexed_rows = _limit_rows(indexed, table.c.seq, substrings).cte("found").prefix_with("MATERIALIZED")
    # This index returns matches unsorted, so for frequent words a scan of the newest rows is quicker.
    return [
        _select_recent(owner, table, [matches, *substrings]),
        _select_indexed(indexed_rows, owner, table, substrings),
    ]


def _limit_rows(matching: Select[Any], seq: ColumnElement[int], substrings: list[ColumnElement[bool]]) -> Select[Any]:
    """Limit the matches of frequent words that are compared with the substrings, if there are any."""
    return matching.order_by(seq.desc()).limit(RECENT_ROWS) if substrings else matching


def _select_indexed(
    indexed_rows: FromClause, owner: str, table: Table, conditions: list[ColumnElement[bool]]
) -> SearchQuery:
    """Select the rows with a `seq` in `indexed_rows` that meet the conditions."""
    selected = _select_rows(owner, table).join_from(table, indexed_rows, indexed_rows.c.seq == table.c.seq)
    return selected.where(*conditions), indexed_rows.c.seq


def _select_rows(owner: str, table: Table) -> Select[Any]:
    """Select the owner's rows in conversations that are not deleted."""
    not_deleted = and_(conversations.c.owner == owner, conversations.c.deleted.is_(None))
    if table is conversations:
        return select(table.c.seq, table.c.id.label("conversation"), table.c.updated.label("moment")).where(not_deleted)
    return (
        select(table.c.seq, table.c.conversation, table.c.created.label("moment"))
        .join_from(table, conversations, conversations.c.id == table.c.conversation)
        .where(table.c.owner == owner, not_deleted)
    )


def _select_recent(owner: str, table: Table, conditions: list[ColumnElement[bool]]) -> SearchQuery:
    """Select among the owner's RECENT_ROWS newest rows those that meet the conditions."""
    newest = select(table.c.seq).where(table.c.owner == owner).order_by(table.c.seq.desc())
    since = func.coalesce(newest.limit(1).offset(RECENT_ROWS).scalar_subquery(), 0)
    return _select_rows(owner, table).where(table.c.seq > since, *conditions), table.c.seq


def _fts5(owner: str, query: Query) -> str:
    """The query in the syntax of SQLite's FTS5. The words have letters and digits only, so they need no escaping."""
    words = [f'"{word}"' for word in query.words]
    star = "*" if query.prefix else ""
    return f'owner : "{owner.encode().hex()}" AND words : ({" AND ".join(words)}{star})'


def _tsquery(owner: str, query: Query) -> ColumnElement[Any]:
    """The query for PostgreSQL. Accents are removed as in the index."""
    plain = ["".join(c for c in unicodedata.normalize("NFD", word) if c not in ACCENTS) for word in query.words]
    star = ":*" if query.prefix else ""
    words = func.to_tsquery(literal_column("'simple'"), " & ".join(f"'{word}'" for word in plain) + star)
    of_owner = f"'owner:{hashlib.md5(owner.encode(), usedforsecurity=False).hexdigest()}'"
    return words.op("&&")(cast(of_owner, TSQUERY))


def _contents(connection: Connection, owner: str, seqs: list[int]) -> dict[int, str]:
    statement = select(messages.c.seq, messages.c.content)
    rows = connection.execute(statement.where(messages.c.owner == owner, messages.c.seq.in_(seqs)))
    return {row.seq: row.content for row in rows}


def _has_marks(term: str) -> bool:
    """Whether a term has characters that only one of the databases indexes as part of a word: marks, ½ or ²."""
    return any(unicodedata.category(character) in ("Mn", "Mc", "Me", "No") for character in term)


class _FoldTable(dict[int, str]):
    """A table for str.translate() that removes accents and case and keeps the length of the text."""

    def __missing__(self, code: int) -> str:
        letters = unicodedata.normalize("NFD", chr(code)).rstrip(ACCENTS).lower()
        self[code] = letters if len(letters) == 1 else chr(code)
        return self[code]


FOLD_TABLE = _FoldTable()


def _fold(text: str) -> str:
    return text.translate(FOLD_TABLE)


def purge_removed_words(database: Database) -> None:
    """Remove the words of deleted rows from SQLite's index, which only marks them as deleted until it is merged.

    Runs in short transactions, so that others can write in between.
    """
    for index in INDEXES if database.sqlite else ():
        pages, changes = -MERGE_PAGES, 2  # FTS5: a negative number merges all segments; under two changes is the end
        while changes >= 2:
            with database.maintaining() as connection:
                before = _total_changes(connection)
                connection.exec_driver_sql(f"INSERT INTO {index}({index}, rank) VALUES ('merge', {pages})")  # noqa: S608
                pages, changes = MERGE_PAGES, _total_changes(connection) - before


def _total_changes(connection: Connection) -> int:
    return int(connection.execute(select(func.total_changes())).scalar_one())
