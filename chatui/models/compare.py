"""Ratings of contestants from votes: Elo after each vote, and Bradley-Terry over all votes, with confidence intervals.

Elo: https://en.wikipedia.org/wiki/Elo_rating_system#Mathematical_details. Bradley-Terry, intervals and ranks as in
Chatbot Arena: https://arxiv.org/abs/2403.04132. A vote for both or neither counts as half a win for each side.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chatui.i18n import N_
from chatui.models.votes import Choice, Contestant, Vote

Array = NDArray[np.float64]
Entrant = Literal["contestant", "model", "persona"]
"""What is rated: contestants as they are, or all contestants of one model or persona together."""

ELO_START = 1000.0
ELO_K = 32.0
"""The most points that one vote moves."""
SCALE = 400 / math.log(10)
"""Points of one unit of log-odds: 400 points are odds of 10 to 1, as in Elo."""
Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""
SCORES: dict[Choice, float] = {"a": 1.0, "b": 0.0, "both": 0.5, "neither": 0.5}
NAMES: dict[Entrant, Callable[[Contestant], str]] = {
    "contestant": lambda contestant: contestant.name,
    "model": lambda contestant: contestant.model,
    "persona": lambda contestant: contestant.persona,
}
MAX_STEPS = 200
PRECISION = 1e-10


@dataclass(frozen=True)
class Rating:
    """The rating of one entrant; `low` and `high` are the 95 % confidence interval of `rating`.

    `rank` is 1 + the number of entrants whose whole interval is above this one.
    """

    name: str
    elo: float
    rating: float
    low: float
    high: float
    rank: int
    votes: int
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Ranking:
    """The ratings, best first, from so many `votes`.

    Without `regularized`, they are the maximum of the likelihood. It does not exist where some entrants have never
    lost to, or tied with, the others. Then each entrant is given one tie with an imaginary average opponent.
    `groups` are the sets of entrants that votes connect; ratings of different groups cannot be compared.
    """

    ratings: tuple[Rating, ...]
    votes: int
    regularized: bool
    groups: tuple[frozenset[str], ...]


def ranking(votes: Iterable[Vote], entrant: Entrant = "contestant") -> Ranking:
    """Rate the entrants. Votes between two contestants that are the same entrant are left out."""
    name = NAMES[entrant]
    games = [(name(vote.a), name(vote.b), SCORES[vote.choice]) for vote in votes]
    games = [game for game in games if game[0] != game[1]]
    names = sorted({side for game in games for side in game[:2]})
    wins = np.zeros((len(names), len(names)))
    for a, b, score in games:
        wins[names.index(a), names.index(b)] += score
        wins[names.index(b), names.index(a)] += 1 - score
    regularized = not bool(_reachable(wins).all())
    strengths, covariance = bradley_terry(wins, prior=1.0 if regularized else 0.0)
    points, margins = ELO_START + SCALE * strengths, Z_95 * SCALE * np.sqrt(covariance.diagonal().clip(0.0))
    final_elo, counts = elo(games), _counts(games)
    ratings = [
        Rating(
            name=each,
            elo=final_elo[each],
            rating=float(points[index]),
            low=float(points[index] - margins[index]),
            high=float(points[index] + margins[index]),
            rank=1 + int((points - margins > points[index] + margins[index]).sum()),
            votes=sum(counts[each]),
            wins=counts[each][0],
            ties=counts[each][1],
            losses=counts[each][2],
        )
        for index, each in enumerate(names)
    ]
    ratings.sort(key=lambda rating: (-rating.rating, rating.name))
    return Ranking(tuple(ratings), len(games), regularized, _groups(names, wins))


def most_voted(votes: Iterable[Vote], entrant: Entrant, limit: int) -> tuple[list[Vote], int]:
    """The votes between the `limit` entrants that have the most votes, and the number of the other entrants."""
    name = NAMES[entrant]
    votes = list(votes)
    counts = Counter(side for vote in votes for side in {name(vote.a), name(vote.b)})
    kept = {entrant_name for entrant_name, _count in counts.most_common(limit)}
    return [vote for vote in votes if {name(vote.a), name(vote.b)} <= kept], len(counts) - len(kept)


def rankings_by_persona(votes: Iterable[Vote]) -> dict[str, Ranking]:
    """For each persona, the ranking of the models by the votes in which both sides had it."""
    votes = list(votes)
    shared = sorted({vote.a.persona for vote in votes if vote.a.persona == vote.b.persona})
    return {
        persona: ranking([vote for vote in votes if vote.a.persona == vote.b.persona == persona], "model")
        for persona in shared
    }


def rankings_by_tag(votes: Iterable[Vote], entrant: Entrant = "contestant") -> dict[str, Ranking]:
    """For each tag, the ranking by the votes that have it."""
    votes = list(votes)
    tags = sorted({tag for vote in votes for tag in vote.tags})
    return {tag: ranking([vote for vote in votes if tag in vote.tags], entrant) for tag in tags}


def elo(games: Iterable[tuple[str, str, float]], k: float = ELO_K, start: float = ELO_START) -> dict[str, float]:
    """The ratings after these games in their order; a game is (a, b, score of a: 1, 0.5 or 0)."""
    ratings: dict[str, float] = {}
    for a, b, score in games:
        first, second = ratings.setdefault(a, start), ratings.setdefault(b, start)
        change = k * (score - 1 / (1 + 10 ** ((second - first) / 400)))
        ratings[a], ratings[b] = first + change, second - change
    return ratings


def bradley_terry(wins: Array, prior: float = 0.0) -> tuple[Array, Array]:
    """(log-strengths with mean 0, their covariance matrix), from wins[i, j]: how often i won against j.

    i wins against j with the probability 1 / (1 + exp(strength j - strength i)). The strengths maximize the likelihood;
    without a `prior` the maximum must exist, see Ranking. `prior` is the number of ties of each entrant with an
    imaginary opponent of strength 0. The covariance is the inverse of the Fisher information at the maximum.
    """
    games = wins + wins.T
    strengths = np.zeros(len(wins))
    for _ in range(MAX_STEPS):
        gradient, information = _derivatives(strengths, wins, games, prior)
        step = np.linalg.pinv(information, hermitian=True) @ gradient
        if not np.abs(step).max(initial=0.0) > PRECISION:
            break
        size = 1.0
        before = _log_likelihood(strengths, wins, prior)
        while size > PRECISION and _log_likelihood(strengths + size * step, wins, prior) < before:
            size /= 2
        strengths = strengths + size * step
    _, information = _derivatives(strengths, wins, games, prior)
    count = len(wins)
    centre = np.eye(count) - 1 / max(count, 1)
    return centre @ strengths, centre @ np.linalg.pinv(information, hermitian=True) @ centre


def _derivatives(strengths: Array, wins: Array, games: Array, prior: float) -> tuple[Array, Array]:
    """The gradient of the log-likelihood, and the Fisher information."""
    expected = _win_probability(strengths[:, None] - strengths)
    against_prior = _win_probability(strengths)
    gradient = (wins - games * expected).sum(axis=1) + prior * (0.5 - against_prior)
    weights = games * expected * (1 - expected)
    diagonal = weights.sum(axis=1) + prior * against_prior * (1 - against_prior)
    return gradient, np.diag(diagonal) - weights


def _log_likelihood(strengths: Array, wins: Array, prior: float) -> float:
    of_games = -(wins * np.logaddexp(0.0, strengths - strengths[:, None])).sum()
    of_prior = -prior / 2 * (np.logaddexp(0.0, strengths) + np.logaddexp(0.0, -strengths)).sum()
    return float(of_games + of_prior)


def _win_probability(difference: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -difference))


def _reachable(links: Array) -> NDArray[np.bool_]:
    """Which entrants can be reached from which by links greater than 0. All by all: the maximum exists (Ford 1957)."""
    reached = (links > 0) | np.eye(len(links), dtype=bool)
    for _ in range(max(len(links), 1).bit_length()):
        reached = reached @ reached
    return np.asarray(reached)


def _groups(names: Sequence[str], wins: Array) -> tuple[frozenset[str], ...]:
    connected = _reachable(wins + wins.T)
    groups = {frozenset(name for name, inside in zip(names, row, strict=True) if inside) for row in connected}
    return tuple(sorted(groups, key=min))


def _counts(games: Iterable[tuple[str, str, float]]) -> dict[str, list[int]]:
    """[wins, ties, losses] of each entrant."""
    counts: dict[str, list[int]] = {}
    for a, b, score in games:
        index = {1.0: 0, 0.5: 1, 0.0: 2}[score]
        counts.setdefault(a, [0, 0, 0])[index] += 1
        counts.setdefault(b, [0, 0, 0])[2 - index] += 1
    return counts


def wins_needed(votes: int) -> int | None:
    """The fewest wins in so many votes between two that chance explains in less than 5 % of cases; None if too few.

    The exact two-sided binomial test against a win rate of one half.
    """
    tail = 0.0
    for losses in range(votes + 1):
        log_probability = math.lgamma(votes + 1) - math.lgamma(losses + 1) - math.lgamma(votes - losses + 1)
        tail += math.exp(log_probability - votes * math.log(2))
        if 2 * tail > 0.05:
            return votes - losses + 1 if losses else None
    return None


def evidence(result: Ranking) -> str:
    """Sentences that say what so many votes can show and what they cannot."""
    return " ".join(evidence_sentences(result))


def evidence_sentences(result: Ranking) -> list[str]:
    """What so many votes can show and what they cannot, in English."""
    votes, pairs = result.votes, len(result.ratings) * (len(result.ratings) - 1) // 2
    if not pairs:
        return [N_("There are no votes yet.")]
    each = votes // pairs
    if pairs > 1:
        sentences = [N_(f"{votes:,} votes over {pairs:,} pairs, {each:,} for each on average.")]
    else:
        sentences = [N_(f"{votes:,} votes over 1 pair.") if votes > 1 else N_("A single vote.")]
    needed = wins_needed(each)
    if needed is None:
        sentences.append(N_("Fewer than 6 votes for a pair show nothing: even if one side wins all, it may be chance."))
    else:
        share = f"{needed / each:.0%}"
        sentences.append(
            N_(
                f"With {each:,} votes, one of two has to win {needed:,} ({share}) before chance becomes an unlikely "
                "explanation (less than 5 %). Smaller differences cannot be shown by so few votes."
            )
        )
    sentences.append(N_("They say what you preferred for these questions, not which model is better for others."))
    if result.regularized:
        sentences.append(
            N_(
                "Some have never lost, or never won, against the rest, so that the ratings have no maximum of "
                "likelihood. Each is counted with one more tie against an average opponent."
            )
        )
    if len(result.groups) > 1:
        sentences.append(N_("No votes connect some of them with the others, so their ratings cannot be compared."))
    return sentences


def as_rows(result: Ranking) -> list[dict[str, Any]]:
    """The ratings as dicts for JSON or CSV, rounded to a tenth of a point."""
    return [
        {name: round(value, 1) if isinstance(value, float) else value for name, value in vars(rating).items()}
        for rating in result.ratings
    ]
