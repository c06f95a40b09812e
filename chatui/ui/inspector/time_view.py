"""The Time page of the Inspect view: a waterfall of the turn, speeds, and the time of each token. Pure."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from chatui.chat import Finish
from chatui.i18n import _, format_number, ngettext
from chatui.inspection import Inspection
from chatui.server_facts import ServerFacts
from chatui.store.records import PageTimes
from chatui.traces import Traces
from chatui.ui.markdown.markdown_escape import plain


@dataclass(frozen=True)
class Phase:
    """A phase of a turn: its name, its duration in seconds, and a note."""

    name: str
    seconds: float
    note: str = ""


def time_view(inspection: Inspection, page: PageTimes | None) -> str:
    """The waterfall, the speeds of the model and of the page, and a chart of the time of each token."""
    finish = inspection.finish
    if finish is None:
        return _("The times of this reply were not kept.")
    phases = _phases(inspection, finish)
    if page is not None:
        note = _("last text shown after {seconds} s", seconds=format_number(page.last, 3))
        seconds = page.last - sum(phase.seconds for phase in phases)
        phases.append(Phase(_("to the browser"), max(0.0, seconds), note))
    source = f"{_times_source(inspection.model.server, finish)}\n\n" if inspection.model.server is not None else ""
    return "\n".join([_waterfall(phases), source + _speeds(finish, page), _token_times(inspection.traces)])


def _times_source(server: ServerFacts, finish: Finish) -> str:
    """Which of the times are the server's."""
    name = plain(server.software)
    if finish.timed_by_server:
        return _("Prefill and decode are the times of {software}; the others were measured here.", software=name)
    return _("{software} tells no times: all were measured here, the way to the server among them.", software=name)


def _phases(inspection: Inspection, finish: Finish) -> list[Phase]:
    prompt, is_remote = inspection.prompt, inspection.model.server is not None
    queue_seconds = max(0.0, finish.queue_seconds - prompt.template_seconds - prompt.tokenize_seconds)
    messages = ngettext("{count} message", "{count} messages", len(prompt.messages))
    uncached = (len(prompt.token_ids) or finish.prompt_tokens) - finish.cached_tokens
    prefill = "" if is_remote and uncached <= 0 else _tokens(uncached)
    if prefill and finish.prefill_seconds > 0 and finish.told_cached_tokens is not None:
        prefill += ", " + _speed(uncached / finish.prefill_seconds, 0)
    decode = _tokens(finish.completion_tokens)
    if finish.completion_tokens > 1:
        decode += ", " + _speed(finish.tokens_per_second)
    if is_remote:
        first = _("prefill") if finish.timed_by_server else _("until the first token")
        return [
            Phase(_("queue"), queue_seconds),
            Phase(first, finish.prefill_seconds, prefill),
            Phase(_("decode"), finish.decode_seconds, decode),
        ]
    return [
        Phase(_("queue"), queue_seconds),
        Phase(_("chat template"), prompt.template_seconds, messages),
        Phase(_("tokenizer"), prompt.tokenize_seconds, _tokens(len(prompt.token_ids))),
        Phase(_("prefill"), finish.prefill_seconds, prefill),
        Phase(_("decode"), finish.decode_seconds - finish.text_seconds, decode),
        Phase(_("detokenization"), finish.text_seconds, _("spread over the decode")),
    ]


def _waterfall(phases: Sequence[Phase]) -> str:
    total = sum(phase.seconds for phase in phases) or 1.0
    starts = accumulate((phase.seconds for phase in phases), initial=0.0)
    rows = [
        f"<tr><td>{phase.name}<small>{plain(phase.note)}</small></td>"
        f'<td class="lane"><span class="bar" style="margin-left:{100 * start / total:.2f}%;'
        f'width:{max(0.3, 100 * phase.seconds / total):.2f}%"></span></td>'
        f"<td>{format_number(1000 * phase.seconds, 1)} ms</td></tr>"
        for phase, start in zip(phases, starts, strict=False)
    ]
    return f'<table class="waterfall"><tbody>{"".join(rows)}</tbody></table>\n'


def _speeds(finish: Finish, page: PageTimes | None) -> str:
    first = format_number(finish.queue_seconds + finish.prefill_seconds, 3)
    if finish.completion_tokens > 1:
        milliseconds = 1000 * finish.decode_seconds / (finish.completion_tokens - 1)
        speed = _speed(finish.tokens_per_second)
        speed = _("{speed}, {milliseconds} ms each", speed=speed, milliseconds=format_number(milliseconds, 2))
        lines = [_("**Model**: time to first token {seconds} s, then {speed}.", seconds=first, speed=speed)]
    else:
        lines = [_("**Model**: time to first token {seconds} s.", seconds=first)]
    if finish.rows > 1.05:
        lines[0] += " " + _("Mean batch size: {count}.", count=format_number(finish.rows, 1))
    if finish.reasoning_tokens:
        lines.append(_thinking(finish))
    if finish.accepted_positions:
        lines.append(
            _(
                "**Prompt lookup**: {accepted} came without a decode step, for the reply repeated earlier text.",
                accepted=_tokens(len(finish.accepted_positions)),
            )
        )
    if page is None:
        lines.append(_("**Page**: no tab saw all of this reply being written."))
    else:
        lines.append(
            _(
                "**Page**: first text on the screen after {first} s, the last after {last} s; in all {speed} from the "
                "question on.",
                first=format_number(page.first, 3),
                last=format_number(page.last, 3),
                speed=_speed(finish.completion_tokens / max(page.last, 1e-3)),
            )
        )
    return "\n\n".join(lines) + "\n"


def _thinking(finish: Finish) -> str:
    """The tokens and seconds of the decoding that were thinking, and those that were the answer."""
    return _(
        "**Thinking**: {thought} in {thought_seconds} s. **Answer**: {answer} in {answer_seconds} s.",
        thought=_tokens(finish.reasoning_tokens),
        thought_seconds=format_number(finish.reasoning_seconds, 3),
        answer=_tokens(finish.completion_tokens - finish.reasoning_tokens),
        answer_seconds=format_number(max(0.0, finish.decode_seconds - finish.reasoning_seconds), 3),
    )


def _tokens(count: int) -> str:
    return ngettext("{count} token", "{count} tokens", count)


def _speed(tokens_per_second: float, digits: int = 1) -> str:
    return _("{speed} tokens/s", speed=format_number(tokens_per_second, digits))


def _token_times(traces: Traces) -> str:
    """A line chart of the milliseconds before each token; outliers are cut off at its upper edge."""
    gaps = [1000 * (later - earlier) for earlier, later in pairwise(traces.at)]
    if len(gaps) < 2:
        return ""
    ordered = sorted(gaps)
    top = max(1.5 * ordered[int(0.98 * (len(gaps) - 1))], 1e-3)
    median = ordered[len(gaps) // 2]
    width, height = 720, 120
    points = " ".join(
        f"{width * index / (len(gaps) - 1):.1f},{height - height * min(gap, top) / top:.1f}"
        for index, gap in enumerate(gaps)
    )
    median_line = f"{height - height * median / top:.1f}"
    title = _(
        "**Milliseconds for each token**: median {median}, slowest {slowest}; the upper edge is {top}.",
        median=format_number(median, 2),
        slowest=format_number(ordered[-1], 2),
        top=format_number(top, 1),
    )
    return (
        f"{title}\n\n"
        f'<svg class="pace" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(_("Milliseconds for each token"))}">'
        f'<line x1="0" x2="{width}" y1="{median_line}" y2="{median_line}"></line>'
        f'<polyline points="{points}"></polyline></svg>\n'
    )
