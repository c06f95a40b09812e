"""The two replies of a comparison as Markdown, with and without what tells who wrote them. Pure."""

from chatui.i18n import _, join_isolated, translated
from chatui.ui.chat import transcript
from chatui.ui.markdown.markdown_escape import escape, plain
from chatui.ui.models.side_by_side import Label, Side, SideBySide
from chatui.ui.shared import error_messages


def reply_columns(comparison: SideBySide) -> tuple[str, str]:
    """The columns of both replies."""
    a, b = (_column(label, side, comparison.names_shown) for label, side in comparison.sides.items())
    return a, b


def verdict(comparison: SideBySide) -> str:
    """What the vote says, in one line of HTML; "" before it."""
    if comparison.choice is None:
        return ""
    line = {
        "a": _("You found A better."),
        "b": _("You found B better."),
        "both": _("You found both good."),
        "neither": _("You found neither good."),
    }[comparison.choice]
    note = _("This chat is temporary, so the vote is not kept.") if comparison.temporary else ""
    return f"<p>{plain(' '.join([line, note]).strip())}</p>"


def _column(label: Label, side: Side, names_shown: bool) -> str:
    """One reply below its label. Nothing follows the text, which could leave a block of code open."""
    name = f" {plain(side.contestant.name)}" if names_shown else ""
    lines = [f'<p class="compare-name"><b>{label.upper()}</b>{name}</p>']
    lines += [f'<p class="compare-facts">{plain(fact)}</p>' for fact in _facts(side, names_shown)]
    if names_shown and side.progress.reasoning:
        thought = plain(side.progress.reasoning)
        lines.append(f'<details class="compare-thought"><summary>{plain(_("Thought"))}</summary>{thought}</details>')
    return f"{''.join(lines)}\n\n{escape(side.progress.text)}"


def _facts(side: Side, names_shown: bool) -> list[str]:
    """Notes on a reply: its speed if names are shown, and how it ended."""
    facts = [transcript.speed(side.progress)] if names_shown else []
    if side.error is not None:
        facts.append(error_messages.error_line(side.error) if names_shown else _("This reply failed."))
    elif not side.ended:
        facts += [] if side.progress.text else [_("Waiting for the first words …")]
    elif side.stopped:
        facts.append(_("Stopped."))
    elif side.progress.finish is not None and side.progress.finish.reason == "length":
        facts.append(translated(transcript.LENGTH_NOTE))
    elif not side.progress.text:
        facts.append(translated(transcript.EMPTY_REPLY_NOTE))
    return [fact for fact in facts if fact]


def tally(added: int, known: int) -> str:
    """How many votes of a file were added, and how many were there already."""
    return join_isolated([_("Votes added: {count}.", count=added), _("Here already: {count}.", count=known)], " ")
