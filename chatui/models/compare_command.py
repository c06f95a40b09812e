"""`chatui models compare`: the ratings by votes, as a table, JSON or CSV."""

import argparse
from collections.abc import Callable
from pathlib import Path

from chatui.errors import ChatError
from chatui.models import compare
from chatui.models.compare import Ranking
from chatui.models.listing import as_json, as_table
from chatui.models.votes import Vote, as_csv, from_json
from chatui.models.votes import as_json as votes_json

HEADER = ("rank", "name", "rating", "95 % interval", "Elo", "votes", "wins", "ties", "losses")
EXPORTS = {"json": votes_json, "csv": as_csv}

StoredVotes = Callable[[str, str], list[Vote]]
"""Reads the stored votes of (login, data folder): those of local use for "", in the default folder for ""."""


def add_subcommand(add: Callable[[str, Callable[[argparse.Namespace], str], str], argparse.ArgumentParser]) -> None:
    """Add compare to `chatui models`."""
    parser = add("compare", show_ratings, "Rate models, personas and settings by your votes.")
    parser.add_argument("--by", choices=compare.NAMES, default="contestant", help="what is rated")
    parser.add_argument("--tag", help="only votes with this tag")
    parser.add_argument("--persona", help="only votes in which both sides have this persona")
    parser.add_argument("--login", default="", metavar="NAME", help="votes of this login of a shared server")
    parser.add_argument("--data-dir", default="", metavar="FOLDER", help="folder of the database, as for run")
    parser.add_argument("--file", type=Path, help="a JSON file of votes in place of the stored ones")
    parser.add_argument("--export", choices=EXPORTS, help="print the votes themselves")


def show_ratings(options: argparse.Namespace) -> str:
    """The ratings by the chosen votes, or these votes."""
    votes = [
        vote
        for vote in (_read(options.file) if options.file else options.votes(options.login, options.data_dir))
        if options.tag is None or options.tag in vote.tags
        if options.persona is None or vote.a.persona == vote.b.persona == options.persona
    ]
    if options.export:
        return EXPORTS[options.export](votes).rstrip("\r\n")
    result = compare.ranking(votes, options.by)
    return _json(result) if options.json else _text(result)


def _read(file: Path) -> list[Vote]:
    try:
        return from_json(file.read_bytes())
    except OSError as error:
        raise ChatError(f"{file} cannot be read: {error.strerror}.") from None


def _json(result: Ranking) -> str:
    return as_json(
        {
            "ratings": compare.as_rows(result),
            "votes": result.votes,
            "regularized": result.regularized,
            "groups": [sorted(group) for group in result.groups],
            "evidence": compare.evidence(result),
        }
    )


def _text(result: Ranking) -> str:
    if not result.ratings:
        return compare.evidence(result)
    rows = [
        (
            str(rating.rank),
            rating.name,
            f"{rating.rating:.0f}",
            f"{rating.low:.0f} to {rating.high:.0f}",
            f"{rating.elo:.0f}",
            *map(str, (rating.votes, rating.wins, rating.ties, rating.losses)),
        )
        for rating in result.ratings
    ]
    return f"{as_table(HEADER, rows)}\n\n{compare.evidence(result)}"
