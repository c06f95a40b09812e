"""How a reply came about -> what the Inspect view shows. Pure: knows no component and no store."""

import html
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from chatui.chat import Finish, ModelInfo, Prompt, Source
from chatui.i18n import N_, _, ngettext, number, percent, translated
from chatui.inspection import Inspection
from chatui.store.records import PageTimes, StoredMessage
from chatui.traces import Traces
from chatui.ui.chat.transcript import plain

SOURCES: dict[Source, str] = {
    "template": N_("template"),
    "persona": N_("persona"),
    "user": N_("earlier user"),
    "reply": N_("earlier reply"),
    "message": N_("this message"),
    "start": N_("generation prompt"),
}
COLOURS = {
    "template": "#a8a29e",
    "persona": "#c084fc",
    "earlier user": "#60a5fa",
    "earlier reply": "#4ade80",
    "this message": "#fb923c",
    "generation prompt": "#f472b6",
}
CACHED_COLOURS = {N_("remembered"): "#4ade80", N_("read anew"): "#fb923c"}
LIKELY = {
    N_("over 90 %"): (0.9, "#22c55e"),
    N_("50 to 90 %"): (0.5, "#84cc16"),
    N_("10 to 50 %"): (0.1, "#ca8a04"),
    N_("1 to 10 %"): (0.01, "#ea580c"),
    N_("below 1 %"): (0.0, "#dc2626"),
}
LIKELY_COLOURS = {name: colour for name, (_least, colour) in LIKELY.items()}
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
NAMES = {
    "model": N_("model"),
    "penalties": N_("penalties"),
    "temperature": N_("temperature"),
    "top_k": "top-k",
    "top_p": "top-p",
    "min_p": "min-p",
}

Coloured = list[tuple[str, str | None]]
"""As gr.HighlightedText takes it."""


def visible(text: str) -> str:
    """A token's text with its white space to be seen; ◦ for a part of a character that an earlier token shows."""
    if not text:
        return "◦"
    return text.replace(" ", "·").replace("\t", "⇥").replace("\r", "␍").replace("\n", "⏎\n")


def sources(prompt: Prompt) -> list[Source]:
    """Where each token of the prompt came from."""
    return [span.source for span in prompt.spans for _ in range(span.tokens)]


def by_source(prompt: Prompt) -> Coloured:
    """The prompt's tokens, coloured by where they came from."""
    return [(visible(piece), _(SOURCES[source])) for piece, source in zip(prompt.pieces, sources(prompt), strict=True)]


def by_cache(inspection: Inspection) -> Coloured:
    """The prompt's tokens by whether they were read for this reply, or remembered from an earlier one."""
    cached = inspection.finish.cached_tokens if inspection.finish else 0
    pieces = enumerate(inspection.prompt.pieces)
    remembered, anew = _("remembered"), _("read anew")
    return [(visible(piece), remembered if at < cached else anew) for at, piece in pieces]


def prompt_summary(inspection: Inspection) -> str:
    """How many tokens came from where, what was remembered, and what was left out and why."""
    prompt, finish = inspection.prompt, inspection.finish
    counts = dict.fromkeys(SOURCES.values(), 0)
    for span in prompt.spans:
        counts[SOURCES[span.source]] += span.tokens
    parts = " · ".join(f"{_(name)} {number(count)}" for name, count in counts.items() if count)
    lines = [
        ngettext("**{count} token**: {parts}.", "**{count} tokens**: {parts}.", len(prompt.token_ids), parts=parts)
    ]
    if finish is not None:
        anew = len(prompt.token_ids) - finish.cached_tokens
        lines.append(
            ngettext(
                "{known} were remembered from an earlier prompt, {count} was read for this reply.",
                "{known} were remembered from an earlier prompt, {count} were read for this reply.",
                anew,
                known=finish.cached_tokens,
            )
        )
    if prompt.dropped:
        lines.append(
            ngettext(
                "The {count} oldest message was left out: with it the conversation and the room kept for the reply "
                "would not fit the context of {most} tokens.",
                "The {count} oldest messages were left out: with them the conversation and the room kept for the reply "
                "would not fit the context of {most} tokens.",
                prompt.dropped,
                most=inspection.model.context_length,
            )
        )
    else:
        lines.append(_("Nothing was left out."))
    lines += map(plain, prompt.notes)
    return "\n\n".join(lines)


def messages_json(prompt: Prompt) -> str:
    """The conversation as the list of messages that `pipe(chat)` takes."""
    turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
    return json.dumps(turns, ensure_ascii=False, indent=2)


def by_probability(inspection: Inspection) -> Coloured:
    """The reply's tokens, coloured by the probability that the model gave them."""
    names = {name: _(name) for name in LIKELY}
    texts = inspection.texts
    return [(visible(texts.get(trace.id, "")), names[_likely(trace.probability)]) for trace in inspection.traces]


def _likely(probability: float) -> str:
    return next(name for name, (least, _colour) in LIKELY.items() if probability >= least)


def tokens_summary(inspection: Inspection) -> str:
    """How sure the model was, all in all."""
    traces = inspection.traces
    if not traces:
        return _("No tokens were kept of this reply.")
    first = traces.ranks.count(1) / len(traces)
    entropy = sum(traces.entropies) / len(traces)
    return ngettext(
        "**{count} token**; the model was undecided by {bits} bits, as between {choices} equally likely tokens. Choose "
        "the token to see what else it could have been.",
        "**{count} tokens**; {share} of them were the model's likeliest. On average it was undecided by {bits} bits, "
        "as between {choices} equally likely tokens. Choose a token to see what else it could have been.",
        len(traces),
        share=percent(first),
        bits=number(entropy, 2),
        choices=number(2**entropy, 1),
    )


def alternatives(inspection: Inspection, message: str, at: int) -> str:
    """What else token number `at` could have been, before and after each step of the sampler, with links to go on."""
    trace = inspection.traces[at]
    head = "".join(f"<th>{_(NAMES.get(name, name))}</th>" for name in trace.names)
    rows = []
    for place, id in enumerate(trace.ids):
        shares = "".join(f"<td>{_percent(step[place])}</td>" for step in trace.steps)
        text = f"<code>{plain(visible(inspection.texts.get(id, '')))}</code>"
        chosen = id == trace.id
        link = _("chosen") if chosen else f'<a class="act" href="#other={message}={at}.{id}">{_("Go on from it")}</a>'
        rows.append(f"<tr{' class=chosen' if chosen else ''}><td>{text}</td><td>{id}</td>{shares}<td>{link}</td></tr>")
    said = _(
        "Token {place}: rank {rank}, probability {share}, undecided by {bits} bits, after {seconds} s.",
        place=at + 1,
        rank=trace.rank,
        share=_percent(trace.probability),
        bits=number(trace.entropy, 2),
        seconds=number(trace.at, 3),
    )
    return (
        f"{said}\n\n"
        f'<table class="alternatives"><thead><tr><th>{_("token")}</th><th>{_("id")}</th>{head}<td></td></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _percent(share: float) -> str:
    return "–" if share <= 0 else percent(share, 4 if share < 0.001 else 2)


def text_until(inspection: Inspection, at: int, other: int) -> str:
    """The reply's text up to token number `at`, and the token `other` in its place."""
    ids = [*inspection.traces.tokens[:at], other]
    hidden = set(inspection.model.stop_ids)
    data = b"".join(_bytes(inspection.texts.get(id, "")) for id in ids if id not in hidden)
    return data.decode(errors="ignore")


def begun(inspection: Inspection, reply: StoredMessage, at: int, other: int) -> StoredMessage:
    """The reply up to token number `at` and with `other` in its place, what was thought apart from what was said.

    How the model marks its thoughts shows in what stands around them in all that it wrote.
    """
    text = text_until(inspection, at, other)
    given = reply.author
    if not reply.reasoning or (given and given.prefix):
        return replace(reply, content=(given.prefix if given else "") + text, reasoning="")
    before = given.prefix_reasoning if given else ""
    whole = _written(inspection)
    thought = reply.reasoning.removeprefix(before).strip("\n")
    start = max(0, whole.find(thought))
    end = start + len(thought)
    said = whole.find(reply.content.strip("\n"), end) if reply.content else -1
    closing = whole[end:said].strip() if said >= 0 else ""
    kept = _written(inspection, at)
    if said >= 0 and len(kept) >= said:
        return replace(reply, content=text[said:].lstrip("\n"), reasoning=before + thought)
    mark = inspection.texts.get(other, "").strip()
    if mark and closing.startswith(mark):
        return replace(reply, content="", reasoning=before + kept[start:].rstrip("\n"))
    return replace(reply, content="", reasoning=before + text[start:])


def _written(inspection: Inspection, at: int | None = None) -> str:
    """What the model wrote, up to token number `at`."""
    data = b"".join(_bytes(inspection.texts.get(id, "")) for id in inspection.traces.tokens[:at])
    return data.decode(errors="ignore")


def _bytes(text: str) -> bytes:
    parts = BYTE.findall(text)
    spelled = bool(parts) and len(text) == 6 * len(parts)
    return bytes(int(part, 16) for part in parts) if spelled else text.encode()


def time_view(inspection: Inspection, page: PageTimes | None) -> str:
    """A waterfall of the turn, then the speed of the model and that of the page."""
    finish, prompt = inspection.finish, inspection.prompt
    if finish is None:
        return _("The times of this reply were not kept.")
    asked = max(0.0, finish.queue_seconds - prompt.template_seconds - prompt.tokenize_seconds)
    anew = len(prompt.token_ids) - finish.cached_tokens
    read = ngettext("{count} token", "{count} tokens", anew)
    if finish.prefill_seconds > 0:
        read += ", " + _speed(anew / finish.prefill_seconds, 0)
    written = ngettext("{count} token", "{count} tokens", finish.completion_tokens)
    writing = finish.decode_seconds - finish.text_seconds
    parts = [
        (_("waiting in the queue"), asked, ""),
        (
            _("chat template"),
            prompt.template_seconds,
            ngettext("{count} message", "{count} messages", len(prompt.messages)),
        ),
        (
            _("tokenizer"),
            prompt.tokenize_seconds,
            ngettext("{count} token", "{count} tokens", len(prompt.token_ids)),
        ),
        (_("reading the prompt"), finish.prefill_seconds, read),
        (
            _("writing the reply"),
            writing,
            f"{written}, {_speed(finish.tokens_per_second)}" if finish.completion_tokens > 1 else written,
        ),
        (_("tokens into text"), finish.text_seconds, _("spread over the writing")),
    ]
    model = sum(seconds for _name, seconds, _note in parts)
    if page is not None:
        shown = _("last text shown after {seconds} s", seconds=number(page.last, 3))
        parts.append((_("to the browser"), max(0.0, page.last - model), shown))
    return "\n".join([_waterfall(parts), _page_speed(finish, page), _pace(inspection.traces)])


def _waterfall(parts: Sequence[tuple[str, float, str]]) -> str:
    total = sum(seconds for _name, seconds, _note in parts) or 1.0
    starts = accumulate((seconds for _name, seconds, _note in parts), initial=0.0)
    rows = [
        f"<tr><td>{name}<small>{plain(note)}</small></td>"
        f'<td class="lane"><span class="bar" style="margin-left:{100 * start / total:.2f}%;'
        f'width:{max(0.3, 100 * seconds / total):.2f}%"></span></td><td>{number(1000 * seconds, 1)} ms</td></tr>'
        for (name, seconds, note), start in zip(parts, starts, strict=False)
    ]
    return f'<table class="waterfall"><tbody>{"".join(rows)}</tbody></table>\n'


def _page_speed(finish: Finish, page: PageTimes | None) -> str:
    first = number(finish.queue_seconds + finish.prefill_seconds, 3)
    if finish.completion_tokens > 1:
        each = 1000 * finish.decode_seconds / (finish.completion_tokens - 1)
        speed = _speed(finish.tokens_per_second)
        speed = _("{speed}, {milliseconds} ms each", speed=speed, milliseconds=number(each, 2))
        lines = [_("**Model**: first token after {seconds} s, then {speed}.", seconds=first, speed=speed)]
    else:
        lines = [_("**Model**: first token after {seconds} s.", seconds=first)]
    if finish.rows > 1.05:
        lines[0] += " " + _("{count} replies were written at once.", count=number(finish.rows, 1))
    if page is None:
        lines.append(_("**Page**: no tab saw all of this reply being written."))
    else:
        lines.append(
            _(
                "**Page**: first text on the screen after {first} s, the last after {last} s; in all {speed} from the "
                "question on.",
                first=number(page.first, 3),
                last=number(page.last, 3),
                speed=_speed(finish.completion_tokens / max(page.last, 1e-3)),
            )
        )
    return "\n\n".join(lines) + "\n"


def _speed(tokens_per_second: float, digits: int = 1) -> str:
    return _("{speed} tokens/s", speed=number(tokens_per_second, digits))


def _pace(traces: Traces) -> str:
    """Milliseconds for each token, drawn."""
    gaps = [1000 * (later - earlier) for earlier, later in pairwise(traces.at)]
    if len(gaps) < 2:
        return ""
    ordered = sorted(gaps)
    top = max(1.5 * ordered[int(0.98 * (len(gaps) - 1))], 1e-3)
    width, height = 720, 120
    points = " ".join(
        f"{width * at / (len(gaps) - 1):.1f},{height - height * min(gap, top) / top:.1f}" for at, gap in enumerate(gaps)
    )
    middle = ordered[len(gaps) // 2]
    line = f"{height - height * middle / top:.1f}"
    said = _(
        "**Milliseconds for each token**: median {median}, slowest {slowest}; the upper edge is {top}.",
        median=number(middle, 2),
        slowest=number(ordered[-1], 2),
        top=number(top, 1),
    )
    return (
        f"{said}\n\n"
        f'<svg class="pace" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(_("Milliseconds for each token"))}">'
        f'<line x1="0" x2="{width}" y1="{line}" y2="{line}"></line>'
        f'<polyline points="{points}"></polyline></svg>\n'
    )


def why(inspection: Inspection, before: Inspection | None, reply: StoredMessage) -> str:
    """Why it stopped, why the start of the prompt was or was not remembered, and what is known of the template."""
    parts = (
        (_("Why it stopped"), _why_stopped(inspection, reply)),
        (_("Why so much of the prompt was read"), _why_read(inspection, before)),
        (_("What the model's chat template does"), _template(inspection.model)),
    )
    return "\n\n".join(f"#### {title}\n\n{text}" for title, text in parts)


def _why_stopped(inspection: Inspection, reply: StoredMessage) -> str:
    finish = inspection.finish
    if finish is None or finish.reason == "cancelled":
        return {
            "stopped": _("It was stopped by hand."),
            "interrupted": _("The server ended before the reply did."),
            "failed": _("It failed: {error}", error=plain(" ".join(map(translated, reply.error.split("\n"))))),
        }.get(reply.state, _("It has not ended."))
    if finish.reason == "stop_token":
        spelled = f"<code>{plain(visible(finish.stopped_by))}</code>"
        return _(
            "The model wrote the token {token} (id {id}), which ends a reply.", token=spelled, id=f"{finish.stop_id}"
        )
    if finish.reason == "stop_string":
        spelled = f"<code>{plain(visible(finish.stopped_by))}</code>"
        return _("The text came to the stop string {text}.", text=spelled)
    return _("It reached a limit: {limit}.", limit=plain(translated(finish.stopped_by)))


def _why_read(inspection: Inspection, before: Inspection | None) -> str:
    prompt, finish = inspection.prompt, inspection.finish
    total = len(prompt.token_ids)
    if finish is None:
        return _("How much of it was read was not kept.")
    cached = finish.cached_tokens
    if before is None:
        if cached:
            return _(
                "This is the first reply of its conversation: {known} of {count} tokens were remembered from another "
                "one, which began alike.",
                known=cached,
                count=total,
            )
        return _(
            "This is the first reply of its conversation, and no other one began like it: all {count} tokens were "
            "read.",
            count=total,
        )
    known = [*before.prompt.token_ids, *before.traces.tokens]
    common = next((at for at, (a, b) in enumerate(zip(known, prompt.token_ids, strict=False)) if a != b), None)
    if common is None:
        common = min(len(known), total)
    lines = [_("{known} of {count} tokens were remembered.", known=cached, count=total)]
    if common < min(len(known), total):
        lines.append(_cause(inspection, before, known, common))
    elif cached + 1 < common:
        lines.append(
            _(
                "The first {count} tokens are those of the turn before, yet its keys and values were gone: other "
                "conversations have used the slot, or the server was started anew.",
                count=common,
            )
        )
    else:
        lines.append(_("All of the turn before was there; only what is new was read."))
    return " ".join(lines)


def _cause(inspection: Inspection, before: Inspection, known: Sequence[int], common: int) -> str:
    prompt = inspection.prompt
    source = sources(prompt)[common] if prompt.spans else "template"
    here = plain(visible(inspection.prompt.pieces[common] if prompt.ends else ""))
    if before.prompt.dropped != prompt.dropped:
        cause = _("the oldest messages were left out since, so all that follows them moved")
    elif source == "persona" or _of(before.prompt, "persona") != _of(prompt, "persona"):
        cause = _("the persona is another one")
    elif before.model.name != inspection.model.name:
        cause = _("another model wrote the turn before")
    elif common >= len(before.prompt.token_ids) and "<think>" in _text(before):
        cause = _("the template leaves out what the model thought in earlier turns")
    elif common >= len(before.prompt.token_ids) - 1:
        cause = _("the template writes the end of a reply, or the reply itself, with other tokens than the model did")
    else:
        cause = _("an earlier message was changed ({source})", source=_(SOURCES[source]))
    was = plain(visible(_spelled(before, known, common)))
    return _(
        "The first token that differs from the turn before is number {place}: {here} in place of {before}. The cause: "
        "{cause}.",
        place=common + 1,
        here=f"<code>{here}</code>",
        before=f"<code>{was}</code>",
        cause=cause,
    )


def _of(prompt: Prompt, source: Source) -> str:
    pieces = zip(prompt.pieces, sources(prompt), strict=False)
    return "".join(piece for piece, from_where in pieces if from_where == source)


def _text(inspection: Inspection) -> str:
    return inspection.prompt.text[-20:] + "".join(inspection.texts.get(token, "") for token in inspection.traces.tokens)


def _spelled(before: Inspection, known: Sequence[int], at: int) -> str:
    pieces = before.prompt.pieces
    return pieces[at] if at < len(pieces) else before.texts.get(known[at], "")


def _template(model: ModelInfo) -> str:
    facts = model.template
    if facts is None:
        return _("It was not kept.")
    lines = [
        _("The system role is its own: the persona is sent in it.")
        if facts.system == "native"
        else _("It has no system role: the persona is folded into the first message."),
        _("Turns must alternate.") if facts.alternates else _("Turns need not alternate."),
        _("It knows {tags} tags.", tags="&lt;think&gt;")
        if facts.thinks
        else _("It does not know {tags} tags.", tags="&lt;think&gt;"),
        _("It can tell the model of tools.") if facts.tools else _("It cannot tell the model of tools."),
    ]
    return "\n".join(f"- {line}" for line in lines)
