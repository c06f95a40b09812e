"""Ratings from votes: published examples, small cases by hand, invariants, and the promised coverage of intervals."""

import csv
import io
import json
import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.errors import TransferError
from chatui.generation_settings import GenerationSettings
from chatui.models import compare, votes
from chatui.models.compare import ELO_START, SCALE, Array, Ranking, bradley_terry, elo, ranking, wins_needed
from chatui.models.votes import Choice, Contestant, Vote

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CHOICES: list[Choice] = ["a", "b", "both", "neither"]
OTHER_SIDE: dict[Choice, Choice] = {"a": "b", "b": "a", "both": "both", "neither": "neither"}

BASEBALL = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ],
    dtype=float,
)
"""Wins of Milwaukee, Detroit, Toronto, New York, Boston, Cleveland and Baltimore in the American League of 1987.

A. Agresti, Categorical Data Analysis, 2nd edition, table 10.10.
"""
BASEBALL_ABILITIES = (
    (1.5814, 0.3433),
    (1.4364, 0.3396),
    (1.2945, 0.3367),
    (1.2476, 0.3359),
    (1.1077, 0.3339),
    (0.6839, 0.3319),
)
"""(ability against Baltimore, standard error): vignette of R's BradleyTerry2, https://doi.org/10.18637/jss.v048.i09."""


def vote(a: str, b: str, choice: Choice, *tags: str, persona: str = "") -> Vote:
    return Vote(Contestant(a, persona), Contestant(b, persona), choice, NOON, tags)


def by_name(result: Ranking) -> dict[str, float]:
    return {rating.name: rating.rating for rating in result.ratings}


def some_votes(names: Sequence[str] = "wxyz") -> st.SearchStrategy[list[Vote]]:
    names = list(names)
    return st.lists(
        st.builds(vote, st.sampled_from(names), st.sampled_from(names), st.sampled_from(CHOICES)), max_size=40
    )


def test_the_abilities_of_baseball_teams_are_the_published_ones() -> None:
    strengths, covariance = bradley_terry(BASEBALL)
    for index, (ability, error) in enumerate(BASEBALL_ABILITIES):
        assert strengths[index] - strengths[-1] == pytest.approx(ability, abs=6e-5)
        variance = covariance[index, index] + covariance[-1, -1] - 2 * covariance[index, -1]
        assert math.sqrt(variance) == pytest.approx(error, abs=6e-5)


def test_the_example_of_wikipedia() -> None:
    """https://en.wikipedia.org/wiki/Bradley–Terry_model#Worked_example_of_solution_procedure."""
    wins = np.array([[0, 2, 0, 1], [3, 0, 5, 0], [0, 3, 0, 1], [4, 0, 3, 0]], dtype=float)
    assert np.exp(bradley_terry(wins)[0]) == pytest.approx([0.640, 1.043, 0.660, 2.270], abs=6e-4)


def test_two_by_hand() -> None:
    """Three wins to one are odds of 3; the Fisher information of their difference is 4 * 3/4 * 1/4."""
    result = ranking([vote("x", "y", choice) for choice in ("a", "a", "b", "a")])
    best, other = result.ratings
    assert (best.name, best.rank, other.rank, result.regularized, result.votes) == ("x", 1, 1, False, 4)
    assert best.rating - other.rating == pytest.approx(400 * math.log10(3))
    assert best.rating + other.rating == pytest.approx(2 * ELO_START)
    half_difference_error = math.sqrt(1 / (4 * 3 / 16)) / 2
    assert best.high - best.rating == pytest.approx(1.959964 * SCALE * half_difference_error)
    assert (best.wins, best.ties, best.losses, best.votes) == (3, 0, 1, 4)


def test_elo_by_hand() -> None:
    assert elo([("x", "y", 1.0)]) == {"x": 1016.0, "y": 984.0}
    after_two = elo([("x", "y", 1.0), ("y", "x", 0.5)])
    expected = 1 / (1 + 10 ** (32 / 400))
    assert after_two["y"] == pytest.approx(984 + 32 * (0.5 - expected))
    assert elo([("x", "y", 1.0)], k=4, start=1500) == {"x": 1502.0, "y": 1498.0}


@given(some_votes(), st.randoms())
def test_the_order_of_votes_changes_elo_alone(given_votes: list[Vote], order: random.Random) -> None:
    shuffled = list(given_votes)
    order.shuffle(shuffled)
    first, second = ranking(given_votes), ranking(shuffled)
    assert by_name(first) == pytest.approx(by_name(second), abs=1e-4)
    assert (first.groups, first.regularized) == (second.groups, second.regularized)
    for result in (first, second):
        assert sum(rating.elo for rating in result.ratings) == pytest.approx(ELO_START * len(result.ratings))


@given(some_votes())
def test_swapped_sides_change_nothing(given_votes: list[Vote]) -> None:
    swapped = [Vote(each.b, each.a, OTHER_SIDE[each.choice], each.created) for each in given_votes]
    first, second = ranking(given_votes), ranking(swapped)
    assert by_name(first) == pytest.approx(by_name(second), abs=1e-4)
    assert [rating.wins for rating in first.ratings] == [
        {rating.name: rating.wins for rating in second.ratings}[rating.name] for rating in first.ratings
    ]


@given(some_votes())
def test_mirrored_votes_mirror_the_ratings(given_votes: list[Vote]) -> None:
    mirrored = [Vote(each.a, each.b, OTHER_SIDE[each.choice], each.created) for each in given_votes]
    first, second = by_name(ranking(given_votes)), by_name(ranking(mirrored))
    assert {name: 2 * ELO_START - rating for name, rating in second.items()} == pytest.approx(first, abs=1e-4)


@given(some_votes())
def test_every_result_is_finite_and_its_intervals_hold_the_rating(given_votes: list[Vote]) -> None:
    result = ranking(given_votes)
    for rating in result.ratings:
        assert math.isfinite(rating.rating)
        assert rating.low <= rating.rating <= rating.high
        assert rating.votes == rating.wins + rating.ties + rating.losses > 0
    assert sum(rating.wins for rating in result.ratings) == sum(rating.losses for rating in result.ratings)
    assert [rating.rating for rating in result.ratings] == sorted(by_name(result).values(), reverse=True)
    assert {name for group in result.groups for name in group} == set(by_name(result))
    json.dumps(compare.as_rows(result), allow_nan=False)
    assert compare.evidence(result)


@given(some_votes())
def test_the_maximum_of_the_likelihood_is_where_expected_wins_are_the_real_ones(given_votes: list[Vote]) -> None:
    """The likelihood equations, where no prior was needed."""
    result = ranking(given_votes)
    if result.regularized:
        return
    ratings, expected = by_name(result), dict.fromkeys(by_name(result), 0.0)
    for each in given_votes:
        if each.a != each.b:
            chance = 1 / (1 + 10 ** ((ratings[each.b.model] - ratings[each.a.model]) / 400))
            expected[each.a.model] += chance
            expected[each.b.model] += 1 - chance
    real = {rating.name: rating.wins + rating.ties / 2 for rating in result.ratings}
    assert expected == pytest.approx(real, abs=1e-5)


def drawn_votes(strengths: Array, per_pair: int, generator: np.random.Generator) -> Array:
    """Wins of simulated votes."""
    wins = np.zeros((len(strengths), len(strengths)))
    for a in range(len(strengths)):
        for b in range(a):
            wins[a, b] = generator.binomial(per_pair, 1 / (1 + math.exp(strengths[b] - strengths[a])))
            wins[b, a] = per_pair - wins[a, b]
    return wins


def test_intervals_hold_the_true_strengths_as_often_as_promised() -> None:
    """In 400 simulations with 4 contestants; 4 standard deviations of the count are allowed."""
    generator, strengths = np.random.default_rng(7), np.array([0.9, 0.2, -0.3, -0.8])
    held = 0
    for _ in range(400):
        estimate, covariance = bradley_terry(drawn_votes(strengths, 40, generator))
        held += int(abs(estimate[0] - strengths[0]) <= compare.Z_95 * math.sqrt(covariance[0, 0]))
    assert abs(held - 0.95 * 400) <= 4 * math.sqrt(400 * 0.95 * 0.05)


def test_many_votes_find_the_true_strengths() -> None:
    strengths = np.array([1.0, 0.5, 0.0, -1.5])
    estimate, _ = bradley_terry(drawn_votes(strengths, 20_000, np.random.default_rng(3)))
    assert estimate == pytest.approx(strengths, abs=0.03)


def test_one_that_always_wins_is_rated_with_a_tie_more_and_said_so() -> None:
    result = ranking([vote("x", "y", "a")] * 5)
    assert result.regularized
    assert result.ratings[0].name == "x"
    assert "never lost" in compare.evidence(result)
    assert not ranking([vote("x", "y", "a")] * 5 + [vote("x", "y", "both")]).regularized


def test_groups_without_votes_between_them_are_told() -> None:
    result = ranking([vote("x", "y", "both"), vote("v", "w", "both")])
    assert result.groups == (frozenset({"v", "w"}), frozenset({"x", "y"}))
    assert "cannot be compared" in compare.evidence(result)


def test_by_model_persona_and_tag() -> None:
    hot, cold = (Contestant("m", "Poet", GenerationSettings(temperature=value, seed=3)) for value in (1.5, 0.0))
    assert hot.name == "m · Poet · temperature=1.5"
    given_votes = [
        Vote(hot, cold, "a", NOON, ("code",)),
        vote("m", "n", "b", "code", persona="Poet"),
        vote("m", "n", "a", "law"),
    ]
    assert {rating.name for rating in ranking(given_votes[:1]).ratings} == {hot.name, cold.name}
    assert ranking(given_votes[:1], "model").ratings == ()
    assert ranking(given_votes, "model").votes == 2
    by_persona, by_tag = compare.rankings_by_persona(given_votes), compare.rankings_by_tag(given_votes, "model")
    assert {persona: result.ratings[0].name for persona, result in by_persona.items()} == {"": "m", "Poet": "n"}
    assert {tag: result.ratings[0].name for tag, result in by_tag.items()} == {"code": "n", "law": "m"}


@pytest.mark.parametrize(("count", "needed"), [(0, None), (5, None), (6, 6), (10, 9), (20, 15), (100, 61), (1000, 532)])
def test_the_wins_that_chance_does_not_explain(count: int, needed: int | None) -> None:
    assert wins_needed(count) == needed

    def chance(wins: int) -> float:
        return math.ldexp(sum(math.comb(count, each) for each in range(wins, count + 1)), 1 - count)

    if needed is None:
        assert chance(count) > 0.05
    else:
        assert chance(needed) < 0.05 < chance(needed - 1)


def test_what_votes_can_show_is_said_in_a_sentence() -> None:
    evidence = compare.evidence(ranking([vote("x", "y", choice) for choice in ("a", "b") * 5]))
    assert "10 votes over 1 pair" in evidence
    assert "has to win 9 (90%)" in evidence
    assert "show nothing" in compare.evidence(ranking([vote("x", "y", "a")] * 5))
    assert compare.evidence(ranking([])) == "There are no votes yet."


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
ANY_CONTESTANT = st.builds(
    Contestant, TEXTS, TEXTS, st.builds(GenerationSettings, temperature=st.floats(0, 2), seed=st.none() | st.just(7))
)
ANY_VOTE = st.builds(
    Vote,
    ANY_CONTESTANT,
    ANY_CONTESTANT,
    st.sampled_from(CHOICES),
    st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)),
    st.lists(TEXTS.filter(bool), max_size=2).map(tuple),
)


@given(st.lists(ANY_VOTE, max_size=4))
def test_votes_come_back_from_their_file(given_votes: list[Vote]) -> None:
    assert votes.from_json(votes.as_json(given_votes).encode()) == given_votes
    header, *rows = csv.reader(io.StringIO(votes.as_csv(given_votes), newline=""))
    assert tuple(header) == votes.COLUMNS
    assert [row[1] for row in rows] == [each.choice for each in given_votes]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)


@pytest.mark.parametrize("data", [b"", b"{}", b'[{"a": 1}]', b"\xff"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(TransferError, match="no votes of chatui"):
        votes.from_json(data)


def test_only_the_entrants_with_the_most_votes_are_kept() -> None:
    few = [vote("x", "y", "a"), vote("x", "y", "b"), vote("x", "z", "a"), vote("w", "z", "b")]
    kept, others = compare.most_voted(few, "model", 2)
    assert (kept, others) == (few[:2], 2)
    assert compare.most_voted(few, "model", 9) == (few, 0)
    assert compare.most_voted([], "model", 9) == ([], 0)


def test_tags_are_words_without_repetition() -> None:
    assert votes.tags_in(" code,maths  code ") == ("code", "maths")
    assert votes.tags_in("") == ()
    assert len(votes.tags_in(" ".join(map(str, range(99))))) == votes.MAX_TAGS
    assert votes.tags_in("x" * 99) == ("x" * votes.MAX_TAG_LENGTH,)


@pytest.mark.parametrize(
    "change",
    [
        {"created": "2026-01-01T12:00:00"},
        {"created": "0001-01-01T00:00:00+14:00"},
        {"created": "9999-12-31T23:59:59-14:00"},
        {"choice": "c"},
        {"tags": ["x" * 41]},
        {"tags": [str(number) for number in range(11)]},
        {"a": {"model": "m" * 5000}},
        {"a": {"model": "m", "settings": {"temperature": 1e9}}},
    ],
    ids=["no zone", "first year", "last year", "choice", "long tag", "many tags", "long name", "settings"],
)
def test_a_file_with_an_invalid_vote_is_refused(change: dict[str, object]) -> None:
    valid = json.loads(votes.as_json([vote("x", "y", "a", "t")]))
    assert len(votes.from_json(json.dumps(valid).encode())) == 1
    with pytest.raises(TransferError):
        votes.from_json(json.dumps([{**valid[0], **change}]).encode())


def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "MAX_FILE_BYTES", 100)
    with pytest.raises(TransferError, match="larger"):
        votes.from_json(votes.as_json([vote("x", "y", "a")]).encode())
