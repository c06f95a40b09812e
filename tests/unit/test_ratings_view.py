"""The ratings as HTML: every figure is there, nothing of a name is markup, and a large file costs little."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui import i18n
from chatui.models.compare import Entrant, ranking
from chatui.models.votes import Choice, Contestant, Vote
from chatui.ui.models import ratings_view
from chatui.ui.models.ratings_view import VoteFilter

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def votes(pattern: str, a: str = "small", b: str = "large", persona: str = "Poet", *tags: str) -> list[Vote]:
    choices: dict[str, Choice] = {"a": "a", "b": "b", "=": "both", "0": "neither"}
    return [
        Vote(Contestant(a, persona), Contestant(b, persona), choices[letter], NOON + timedelta(minutes=at), tags)
        for at, letter in enumerate(pattern)
    ]


def test_the_table_and_the_plot_have_the_ratings() -> None:
    given_votes = votes("aab=b0a")
    shown = ratings_view.ratings_view(given_votes, VoteFilter())
    for rating in ranking(given_votes, "model").ratings:
        assert f"<td>{rating.name}</td><td>{rating.rating:,.0f}</td>" in shown
        assert f"{rating.low:,.0f} to {rating.high:,.0f}" in shown
    assert "7 votes over 1 pair." in shown
    assert shown.count('class="interval"') == 2
    assert 'href="votes/export?format=csv"' in shown
    shares = [float(share) for share in re.findall(r"inset-inline-start:([\d.]+)%", shown)]
    assert all(0 <= share <= 100 for share in shares)


def test_votes_are_filtered_by_persona_and_tag() -> None:
    given_votes = [*votes("aa", persona="Poet"), *votes("bbb", "small", "large", "Critic", "code")]
    assert ratings_view.personas_in(given_votes) == ["Critic", "Poet"]
    assert ratings_view.tags_in_votes(given_votes) == ["code"]
    assert len(VoteFilter(persona="Poet").of(given_votes)) == 2
    assert len(VoteFilter(tag="code").of(given_votes)) == 3
    assert len(VoteFilter(persona="Poet", tag="code").of(given_votes)) == 0
    mixed = Vote(Contestant("m", "Poet"), Contestant("m", "Critic"), "a", NOON)
    assert VoteFilter(persona="Poet").of([mixed]) == []
    assert "None of your 5 votes" in ratings_view.ratings_view(given_votes, VoteFilter("persona"))


def test_without_votes_it_says_so_and_offers_no_files() -> None:
    shown = ratings_view.ratings_view([], VoteFilter())
    assert "There are no votes yet." in shown
    assert "votes/export" not in shown


def test_of_many_entrants_those_with_the_most_votes_are_rated() -> None:
    many = [vote for at in range(300) for vote in votes("ab", f"model-{at}", "large")]
    shown = ratings_view.ratings_view(many, VoteFilter())
    assert shown.count('class="interval"') == ratings_view.MAX_ENTRANTS
    assert f"{301 - ratings_view.MAX_ENTRANTS} others have fewer votes." in shown


@given(st.text().filter(lambda name: name != "other!"), st.sampled_from(["model", "persona", "contestant"]))
def test_names_are_never_markup(name: str, entrant: Entrant) -> None:
    def tags(name: str) -> int:
        pair = [Vote(Contestant(name, name), Contestant("other!", "other!"), "a", NOON, (name[:40] or "t",))]
        shown = ratings_view.ratings_view(pair, VoteFilter(entrant))
        return len(re.findall(r"<\w", shown.replace("<span></span>", "")))

    assert tags(name) == tags("name")


@pytest.mark.parametrize("language", i18n.LANGUAGES)
def test_it_speaks_every_language(language: str) -> None:
    with i18n.use_language(language):
        shown = ratings_view.ratings_view(votes("aab=b0a"), VoteFilter())
    assert ("They say what you preferred" in shown) == (language == "en")
    assert shown.count("<td>") == 2 * len(ratings_view.HEADERS)
