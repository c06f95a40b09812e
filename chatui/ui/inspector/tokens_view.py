"""The Tokens page of the Inspect view: each token of the reply by its probability, with its alternatives. Pure."""

import math

from chatui.i18n import N_, _, format_number, format_percent, ngettext
from chatui.inspection import Inspection
from chatui.server_facts import NO_CONTINUING
from chatui.traces import OWN_IDS, TokenTrace
from chatui.ui.inspector import remote_view
from chatui.ui.inspector.token_text import HighlightedTokens, visible_text
from chatui.ui.markdown.markdown_escape import plain

PROBABILITY_BANDS = {
    N_("over 90 %"): (0.9, "#22c55e"),
    N_("50 to 90 %"): (0.5, "#84cc16"),
    N_("10 to 50 %"): (0.1, "#ca8a04"),
    N_("1 to 10 %"): (0.01, "#ea580c"),
    N_("below 1 %"): (0.0, "#dc2626"),
}
"""Label of each band, its lower bound and its colour, highest first."""
PROBABILITY_COLOURS = {label: colour for label, (_bound, colour) in PROBABILITY_BANDS.items()}
STEP_LABELS = {
    "model": N_("model"),
    "penalties": N_("penalties"),
    "temperature": N_("temperature"),
    "top_k": "top-k",
    "top_p": "top-p",
    "min_p": "min-p",
}
"""Column headings of the sampler's steps."""


def tokens_by_probability(inspection: Inspection) -> HighlightedTokens:
    """The reply's tokens, each with the band of the probability that the model gave it."""
    labels = {label: _(label) for label in PROBABILITY_BANDS}
    texts = inspection.texts
    return [
        (visible_text(texts.get(trace.id, "")), labels[_probability_band(trace.probability)])
        for trace in inspection.traces
    ]


def _probability_band(probability: float) -> str:
    return next(label for label, (bound, _colour) in PROBABILITY_BANDS.items() if probability >= bound)


def summary(inspection: Inspection) -> str:
    """The reply's number of tokens, the share with rank 1, and the mean entropy."""
    traces = inspection.traces
    if inspection.model.server is not None:
        return remote_view.tokens_summary(inspection, inspection.model.server)
    if not traces:
        return _("No tokens were kept of this reply.")
    entropy = sum(traces.entropies) / len(traces)
    return ngettext(
        "**{count} token**; the entropy was {bits} bits, as between {choices} equally likely tokens. Choose "
        "the token to see what else it could have been.",
        "**{count} tokens**; {share} of them were the model's likeliest. The mean entropy was {bits} bits, as "
        "between {choices} equally likely tokens. Choose a token to see what else it could have been.",
        len(traces),
        share=format_percent(traces.ranks.count(1) / len(traces)),
        bits=format_number(entropy, 2),
        choices=format_number(2**entropy, 1),
    )


def alternatives(inspection: Inspection, message_id: str, position: int) -> str:
    """A table of the likeliest tokens at a position, with their probabilities after each step of the sampler.

    Each row has a link that branches the reply with that token.
    """
    trace = inspection.traces[position]
    headings = "".join(f"<th>{_(STEP_LABELS.get(name, name))}</th>" for name in trace.names)
    rows = "".join(_alternative(inspection, message_id, position, trace, column) for column in range(len(trace.ids)))
    title = _title(trace, position)
    server = inspection.model.server
    if server is not None and not server.continues:
        title += " " + _(NO_CONTINUING)
    if _is_forced(inspection, position):
        title += " " + _("The model did not choose it: the thought was ended here, so that the answer begins.")
    if inspection.finish is not None and position in inspection.finish.accepted_positions:
        title += " " + _("It came without a decode step: the tokens before it repeated earlier text.")
    return (
        f"{title}\n\n"
        f'<table class="alternatives"><thead><tr><th>{_("token")}</th><th>{_("id")}</th>{headings}<td></td></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def _title(trace: TokenTrace, position: int) -> str:
    """What is known of a token. A server tells no entropy, and the ranks of the likeliest only."""
    values: dict[str, str | int] = {
        "position": position + 1,
        "rank": remote_view.rank_text(trace.rank),
        "share": _probability(trace.probability),
        "seconds": format_number(trace.at, 3),
    }
    if math.isnan(trace.entropy):
        return _("Token {position}: rank {rank}, probability {share}, after {seconds} s.", **values)
    return _(
        "Token {position}: rank {rank}, probability {share}, entropy {bits} bits, after {seconds} s.",
        bits=format_number(trace.entropy, 2),
        **values,
    )


def _alternative(inspection: Inspection, message_id: str, position: int, trace: TokenTrace, column: int) -> str:
    id = trace.ids[column]
    probabilities = "".join(f"<td>{_probability(step[column])}</td>" for step in trace.steps)
    text = f"<code>{plain(visible_text(inspection.texts.get(id, '')))}</code>"
    server = inspection.model.server
    shown_id = "–" if id >= OWN_IDS or (server is not None and not server.tells_ids) else str(id)
    if id == trace.id:
        row_class, action = " class=chosen", _("given") if _is_forced(inspection, position) else _("chosen")
    elif server is not None and not server.continues:
        row_class, action = "", ""
    else:
        row_class = ""
        action = f'<a class="act" href="#other={message_id}={position}.{id}">{_("Go on from it")}</a>'
    return f"<tr{row_class}><td>{text}</td><td>{shown_id}</td>{probabilities}<td>{action}</td></tr>"


def _is_forced(inspection: Inspection, position: int) -> bool:
    return inspection.finish is not None and position in inspection.finish.forced_positions


def _probability(probability: float) -> str:
    return "–" if probability <= 0 else format_percent(probability, 4 if probability < 0.001 else 2)
