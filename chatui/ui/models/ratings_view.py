"""Ratings by votes as HTML: a table, a plot of the intervals, what the votes can tell, and the formulas. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatui.i18n import N_, _, format_number, ngettext, translated
from chatui.models.compare import Entrant, Ranking, Rating, evidence_sentences, most_voted, ranking
from chatui.models.votes import Vote
from chatui.ui.markdown.markdown_escape import plain

MAX_ENTRANTS = 40
"""Entrants that are rated and shown: those with the most votes."""
MAX_CHOICES = 200
HEADERS = (
    N_("Rank"),
    N_("Name"),
    N_("Rating"),
    N_("95 % interval"),
    N_("Elo"),
    N_("Votes"),
    N_("Won"),
    N_("Equal"),
    N_("Lost"),
)
ENTRANTS: tuple[tuple[str, Entrant], ...] = (
    (N_("Models"), "model"),
    (N_("Personas"), "persona"),
    (N_("Models with persona and settings"), "contestant"),
)
FORMULAS = (
    (
        N_("Bradley-Terry rating"),
        N_(
            "P(i wins against j) = 1 ÷ (1 + exp(sⱼ − sᵢ)). The strengths s make all votes together the likeliest; the "
            "rating is 1000 + 400 ÷ ln 10 × s. A vote for both or neither counts half for each side."
        ),
    ),
    (
        N_("95 % interval"),
        N_(
            "Rating ± 1.96 × standard error, from the inverse of the Fisher information at the maximum. If the votes "
            "were cast again many times, 95 of 100 such intervals would contain the true rating."
        ),
    ),
    (N_("Rank"), N_("1 + the number of those whose whole interval is above this one, as in Chatbot Arena.")),
    (
        N_("Elo"),
        N_(
            "After each vote: R ← R + 32 × (S − E), with S = 1, ½ or 0 and E = 1 ÷ (1 + 10^((R of the other − R) ÷ "
            "400)). All start at 1000. Unlike the rating, it depends on the order of the votes."
        ),
    ),
)
SOURCES = (
    ("Chatbot Arena (arXiv 2403.04132)", "https://arxiv.org/abs/2403.04132"),
    ("Elo (Wikipedia)", "https://en.wikipedia.org/wiki/Elo_rating_system"),
)


@dataclass(frozen=True)
class VoteFilter:
    """What is rated, and by which votes: those in which both sides have the persona, and that have the tag."""

    entrant: Entrant = "model"
    persona: str | None = None
    tag: str | None = None

    def of(self, votes: Iterable[Vote]) -> list[Vote]:
        """The votes that count."""
        return [
            vote
            for vote in votes
            if self.persona is None or vote.a.persona == vote.b.persona == self.persona
            if self.tag is None or self.tag in vote.tags
        ]


def personas_in(votes: Iterable[Vote]) -> list[str]:
    """The personas that both sides of some vote have, sorted."""
    return sorted({vote.a.persona for vote in votes if vote.a.persona == vote.b.persona})[:MAX_CHOICES]


def tags_in_votes(votes: Iterable[Vote]) -> list[str]:
    """The tags of the votes, sorted."""
    return sorted({tag for vote in votes for tag in vote.tags})[:MAX_CHOICES]


def ratings_view(votes: Sequence[Vote], chosen: VoteFilter) -> str:
    """Evidence, plot, table, formulas, and links to the votes as files."""
    kept, others = most_voted(chosen.of(votes), chosen.entrant, MAX_ENTRANTS)
    result = ranking(kept, chosen.entrant)
    sentences = [translated(sentence) for sentence in evidence_sentences(result)]
    if not result.ratings and votes:
        sentences = [_("None of your {count} votes are between two of these.", count=len(votes))]
    if others:
        sentences.append(ngettext("{count} other has fewer votes.", "{count} others have fewer votes.", others))
    parts = [f'<p class="vote-evidence">{plain(" ".join(sentences))}</p>']
    if result.ratings:
        parts += [_plot(result.ratings), _table(result), _formulas()]
    if votes:
        parts.append(_links(len(votes)))
    return "".join(parts)


def _table(result: Ranking) -> str:
    head = "".join(f"<th>{plain(_(header))}</th>" for header in HEADERS)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(rating))}</tr>" for rating in result.ratings)
    return f'<div class="vote-table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(rating: Rating) -> list[str]:
    counts = (rating.votes, rating.wins, rating.ties, rating.losses)
    return [
        format_number(rating.rank),
        _name(rating),
        format_number(rating.rating),
        _interval(rating),
        format_number(rating.elo),
        *map(format_number, counts),
    ]


def _name(rating: Rating) -> str:
    return plain(" ".join(rating.name.split())) or plain(_("No persona"))


def _interval(rating: Rating) -> str:
    return plain(_("{low} to {high}", low=format_number(rating.low), high=format_number(rating.high)))


def _plot(ratings: Sequence[Rating]) -> str:
    """A row for each entrant: its interval as a bar on a common scale, and its rating as a point on it."""
    low, high = min(rating.low for rating in ratings), max(rating.high for rating in ratings)
    span = max(high - low, 1.0)

    def share(points: float) -> str:
        return f"{min(100.0, max(0.0, 100 * (points - low) / span)):.2f}%"

    rows = "".join(
        f'<div class="vote-row"><span class="name">{_name(rating)}</span><span class="scale">'
        f'<span class="interval" style="inset-inline-start:{share(rating.low)};'
        f'width:{100 * (rating.high - rating.low) / span:.2f}%"></span>'
        f'<span class="point" style="inset-inline-start:{share(rating.rating)}"></span></span>'
        f'<span class="size">{format_number(rating.rating)}</span></div>'
        for rating in ratings
    )
    edges = f"<span>{format_number(low)}</span><span>{format_number(high)}</span>"
    title = plain(_("Ratings and their 95 % intervals"))
    hint = plain(_("Where two intervals overlap much, the votes cannot tell the two apart."))
    return (
        f'<div class="vote-plot"><h4>{title}</h4>{rows}'
        f'<div class="vote-row"><span class="name"></span><span class="edges">{edges}</span>'
        f'<span class="size"></span></div><p class="hint">{hint}</p></div>'
    )


def _formulas() -> str:
    items = "".join(
        f"<details><summary><span>{plain(_(name))}</span></summary><p>{plain(_(formula))}</p></details>"
        for name, formula in FORMULAS
    )
    links = " · ".join(f'<a href="{address}">{plain(name)}</a>' for name, address in SOURCES)
    return (
        f'<details class="numbers"><summary>{plain(_("How it is computed"))}</summary>{items}<p>{links}</p></details>'
    )


def _links(count: int) -> str:
    votes = plain(ngettext("{count} vote is kept.", "{count} votes are kept.", count))
    links = " · ".join(
        f'<a class="download" href="votes/export?format={form}">{plain(label)}</a>'
        for form, label in (("json", _("Export as JSON")), ("csv", _("Export as CSV")))
    )
    return f'<p class="vote-files">{votes} {links}</p>'
