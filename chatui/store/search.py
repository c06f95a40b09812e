"""Finds conversations by words: by the database's index of words, and by comparing what has no words to speak of."""

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
from chatui.store.rows import info_of, there
from chatui.store.tables import conversations, messages
from chatui.text_cleaning import clean

WORDS_LIMIT = 16
INDEXES = ("message_words", "title_words")
MERGED_AT_ONCE = 200
"""Pages of an index that are written while others wait."""
CHARACTERS_LIMIT = 500
ROWS_AT_ONCE = 2000
ROWS_LIMIT = 20_000
"""No more matches than these are looked at, the newest ones."""

RECENT = 10_000
"""Where no index helps, no more rows than these are compared, the newest ones."""

AROUND = 60
"""Characters quoted before and after a match."""

UNPARTED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no spaces between words."""

ACCENTS = "".join(map(chr, range(0x300, 0x370)))


@dataclass(frozen=True)
class Query:
    """Words that an index knows, the last one perhaps only `begun`, and pieces that must occur as they are."""

    words: tuple[str, ...]
    begun: bool
    pieces: tuple[str, ...]


def parse_query(typed: str) -> Query:
    """What a user has typed, whatever that is."""
    typed = unicodedata.normalize("NFC", clean(typed[:CHARACTERS_LIMIT]).replace("\ufffd", " "))
    words: list[str] = []
    pieces: list[str] = []
    begun = False
    for written in typed.split()[:WORDS_LIMIT]:
        found = re.findall(r"[^\W_]+", written)
        begun = bool(found) and not UNPARTED.search(written) and not _has_signs(written)
        if begun:
            words += found
        else:
            pieces.append(written)
    return Query(tuple(words), begun, tuple(pieces))


def search(connection: Connection, owner: str, typed: str, limit: int) -> list[SearchHit]:
    """See OwnerStore.search(). A conversation is placed by its newest match, a matching title by its last turn."""
    query = parse_query(typed)
    if limit < 1 or not (query.words or query.pieces):
        return []
    titles = _matches(connection, owner, query, limit, conversations)
    texts = _matches(connection, owner, query, limit, messages)
    moments: dict[str, datetime] = {id: row.moment for id, row in titles.items()}
    for id, row in texts.items():
        moments[id] = max(row.moment, moments.get(id, row.moment))
    newest = sorted(moments, key=lambda id: moments[id], reverse=True)[:limit]
    listed = {row.id: info_of(row) for row in connection.execute(there(owner).where(conversations.c.id.in_(newest)))}
    quoted = {id: texts[id].seq for id in newest if id in texts}
    contents = _contents(connection, owner, list(quoted.values()))
    return [SearchHit(listed[id], *(excerpt(contents[quoted[id]], query) if id in quoted else ())) for id in newest]


def excerpt(content: str, query: Query) -> tuple[str, str, str]:
    """What stands before the first match, the match, and what stands after it; no match where none is plain to see."""
    whole = [rf"{re.escape(_folded(word))}(?![^\W_])" for word in query.words]
    if query.begun:
        whole[-1] = re.escape(_folded(query.words[-1]))
    patterns = [rf"(?<![^\W_])(?:{'|'.join(whole)})"] if whole else []
    patterns += [re.escape(_folded(piece)) for piece in query.pieces]
    match = re.search("|".join(patterns), _folded(content))
    start, end = match.span() if match else (0, 0)
    return content[max(0, start - AROUND) : start], content[start:end], content[end : end + AROUND]


def _matches(connection: Connection, owner: str, query: Query, limit: int, table: Table) -> dict[str, Row[Any]]:
    """The newest match in each conversation, until `limit` conversations have one."""
    found: dict[str, Row[Any]] = {}
    for matching, seq in _search_queries(connection, owner, query, table):
        last = None
        for _ in range(ROWS_LIMIT // ROWS_AT_ONCE):
            statement = matching if last is None else matching.where(seq < last)
            rows = connection.execute(statement.order_by(seq.desc()).limit(ROWS_AT_ONCE)).all()
            for row in rows:
                found.setdefault(row.conversation, row)
            if len(found) >= limit:
                return found
            if len(rows) < ROWS_AT_ONCE:
                break
            last = rows[-1].seq
    return found


SearchQuery = tuple[Select[Any], ColumnElement[int]]
"""A statement that finds matching rows, and the column that says how new they are."""


def _search_queries(connection: Connection, owner: str, query: Query, table: Table) -> list[SearchQuery]:
    """How to find matches; a later way is needed where an earlier one finds few."""
    said = table.c.content if table is messages else table.c.title
    pieces = [said.contains(piece, autoescape=True) for piece in query.pieces]
    if not query.words:
        return [_among_recent(owner, table, pieces)]
    found: FromClause
    if connection.dialect.name == "sqlite":
        index = TableClause("message_words" if table is messages else "title_words", column("rowid"))
        match = literal_column(index.name).op("MATCH")(_fts5(owner, query))
        found = _newest(select(index.c.rowid.label("seq")).where(match), index.c.rowid, pieces).subquery("found")
        return [_among(found, owner, table, pieces)]
    matches = literal_column(f"{table.name}.words").op("@@")(_tsquery(owner, query))
    own = select(table.c.seq).where(table.c.owner == owner, matches)
    found = _newest(own, table.c.seq, pieces).cte("found").prefix_with("MATERIALIZED")
    # This index gives matches in no order: for frequent words it is quicker to look at the newest rows one by one.
    return [_among_recent(owner, table, [matches, *pieces]), _among(found, owner, table, pieces)]


def _newest(matching: Select[Any], seq: ColumnElement[int], pieces: list[ColumnElement[bool]]) -> Select[Any]:
    """Not all matches of frequent words are compared with the pieces."""
    return matching.order_by(seq.desc()).limit(RECENT) if pieces else matching


def _among(found: FromClause, owner: str, table: Table, conditions: list[ColumnElement[bool]]) -> SearchQuery:
    return _rows(owner, table).join_from(table, found, found.c.seq == table.c.seq).where(*conditions), found.c.seq


def _rows(owner: str, table: Table) -> Select[Any]:
    """The owner's rows in conversations that are not deleted."""
    there = and_(conversations.c.owner == owner, conversations.c.deleted.is_(None))
    if table is conversations:
        return select(table.c.seq, table.c.id.label("conversation"), table.c.updated.label("moment")).where(there)
    return (
        select(table.c.seq, table.c.conversation, table.c.created.label("moment"))
        .join_from(table, conversations, conversations.c.id == table.c.conversation)
        .where(table.c.owner == owner, there)
    )


def _among_recent(owner: str, table: Table, conditions: list[ColumnElement[bool]]) -> SearchQuery:
    newest = select(table.c.seq).where(table.c.owner == owner).order_by(table.c.seq.desc()).limit(1).offset(RECENT)
    since = func.coalesce(newest.scalar_subquery(), 0)
    return _rows(owner, table).where(table.c.seq > since, *conditions), table.c.seq


def _fts5(owner: str, query: Query) -> str:
    """In the language of SQLite's FTS5. The words are letters and digits only."""
    words = [f'"{word}"' for word in query.words]
    star = "*" if query.begun else ""
    return f'owner : "{owner.encode().hex()}" AND words : ({" AND ".join(words)}{star})'


def _tsquery(owner: str, query: Query) -> ColumnElement[Any]:
    """In the language of PostgreSQL; accents go as they go in the index."""
    plain = ["".join(c for c in unicodedata.normalize("NFD", word) if c not in ACCENTS) for word in query.words]
    star = ":*" if query.begun else ""
    words = func.to_tsquery(literal_column("'simple'"), " & ".join(f"'{word}'" for word in plain) + star)
    own = f"'owner:{hashlib.md5(owner.encode(), usedforsecurity=False).hexdigest()}'"
    return words.op("&&")(cast(own, TSQUERY))


def _contents(connection: Connection, owner: str, seqs: list[int]) -> dict[int, str]:
    statement = select(messages.c.seq, messages.c.content)
    rows = connection.execute(statement.where(messages.c.owner == owner, messages.c.seq.in_(seqs)))
    return {row.seq: row.content for row in rows}


def _has_signs(written: str) -> bool:
    """Whether it has signs that the two databases do not both take for a part of the word: marks, ½ or ²."""
    return any(unicodedata.category(letter) in ("Mn", "Mc", "Me", "No") for letter in written)


class _Letters(dict[int, str]):
    """Takes accents and capitals from a text letter by letter, so that places in it stay the same."""

    def __missing__(self, code: int) -> str:
        letters = unicodedata.normalize("NFD", chr(code)).rstrip(ACCENTS).lower()
        self[code] = letters if len(letters) == 1 else chr(code)
        return self[code]


LETTERS = _Letters()


def _folded(words: str) -> str:
    return words.translate(LETTERS)


def forget_removed(database: Database) -> None:
    """Take the words of what was removed out of SQLite's index, which only marks them until it is merged.

    In many short transactions, so that others may write in between.
    """
    for index in INDEXES if database.sqlite else ():
        pages, changes = -MERGED_AT_ONCE, 2  # a negative number merges all parts of an index; two changes are progress
        while changes >= 2:
            with database.maintaining() as connection:
                before = _changes(connection)
                connection.exec_driver_sql(f"INSERT INTO {index}({index}, rank) VALUES ('merge', {pages})")  # noqa: S608
                pages, changes = MERGED_AT_ONCE, _changes(connection) - before


def _changes(connection: Connection) -> int:
    return int(connection.execute(select(func.total_changes())).scalar_one())
