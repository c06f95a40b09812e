"""How a reply came about -> what the Inspect view shows. Pure: knows no component and no store."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from chatui.chat import Finish, ModelInfo, Prompt, Source
from chatui.inspection import Inspection
from chatui.store.records import PageTimes, StoredMessage
from chatui.traces import Traces
from chatui.ui.transcript import plain

SOURCES: dict[Source, str] = {
    "template": "template",
    "persona": "persona",
    "user": "earlier user",
    "reply": "earlier reply",
    "message": "this message",
    "start": "generation prompt",
}
COLOURS = {
    "template": "#a8a29e",
    "persona": "#c084fc",
    "earlier user": "#60a5fa",
    "earlier reply": "#4ade80",
    "this message": "#fb923c",
    "generation prompt": "#f472b6",
    "remembered": "#4ade80",
    "read anew": "#fb923c",
}
LIKELY = {
    "over 90 %": (0.9, "#22c55e"),
    "50 to 90 %": (0.5, "#84cc16"),
    "10 to 50 %": (0.1, "#ca8a04"),
    "1 to 10 %": (0.01, "#ea580c"),
    "below 1 %": (0.0, "#dc2626"),
}
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
NAMES = {
    "model": "model",
    "penalties": "penalties",
    "temperature": "temperature",
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
    return [(visible(piece), SOURCES[source]) for piece, source in zip(prompt.pieces, sources(prompt), strict=True)]


def by_cache(inspection: Inspection) -> Coloured:
    """The prompt's tokens by whether they were read for this reply, or remembered from an earlier one."""
    cached = inspection.finish.cached_tokens if inspection.finish else 0
    pieces = enumerate(inspection.prompt.pieces)
    return [(visible(piece), "remembered" if at < cached else "read anew") for at, piece in pieces]


def prompt_summary(inspection: Inspection) -> str:
    """How many tokens came from where, what was remembered, and what was left out and why."""
    prompt, finish = inspection.prompt, inspection.finish
    counts = dict.fromkeys(SOURCES.values(), 0)
    for span in prompt.spans:
        counts[SOURCES[span.source]] += span.tokens
    parts = " · ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    lines = [f"**{len(prompt.token_ids):,} tokens**: {parts}."]
    if finish is not None:
        anew = len(prompt.token_ids) - finish.cached_tokens
        lines.append(
            f"{finish.cached_tokens:,} were remembered from an earlier prompt, {anew:,} were read for this reply."
        )
    if prompt.dropped:
        lines.append(
            f"The {prompt.dropped:,} oldest messages were left out: with them the conversation and the room kept for "
            f"the reply would not fit the context of {inspection.model.context_length:,} tokens."
        )
    else:
        lines.append("Nothing was left out.")
    lines += map(plain, prompt.notes)
    return "\n\n".join(lines)


def messages_json(prompt: Prompt) -> str:
    """The conversation as the list of messages that `pipe(chat)` takes."""
    turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
    return json.dumps(turns, ensure_ascii=False, indent=2)


def by_probability(inspection: Inspection) -> Coloured:
    """The reply's tokens, coloured by the probability that the model gave them."""
    return [(visible(inspection.texts.get(trace.id, "")), _likely(trace.probability)) for trace in inspection.traces]


def _likely(probability: float) -> str:
    return next(name for name, (least, _) in LIKELY.items() if probability >= least)


def tokens_summary(inspection: Inspection) -> str:
    """How sure the model was, all in all."""
    traces = inspection.traces
    if not traces:
        return "No tokens were kept of this reply."
    first = traces.ranks.count(1) / len(traces)
    entropy = sum(traces.entropies) / len(traces)
    return (
        f"**{len(traces):,} tokens**; {first:.0%} of them were the model's likeliest. On average it was undecided by "
        f"{entropy:.2f} bits, as between {2**entropy:.1f} equally likely tokens. Choose a token to see what else it "
        "could have been."
    )


def alternatives(inspection: Inspection, message: str, at: int) -> str:
    """What else token number `at` could have been, before and after each step of the sampler, with links to go on."""
    trace = inspection.traces[at]
    head = "".join(f"<th>{NAMES.get(name, name)}</th>" for name in trace.names)
    rows = []
    for place, id in enumerate(trace.ids):
        shares = "".join(f"<td>{_percent(step[place])}</td>" for step in trace.steps)
        text = f"<code>{plain(visible(inspection.texts.get(id, '')))}</code>"
        chosen = id == trace.id
        link = "chosen" if chosen else f'<a class="act" href="#other={message}={at}.{id}">Go on from it</a>'
        rows.append(f"<tr{' class=chosen' if chosen else ''}><td>{text}</td><td>{id}</td>{shares}<td>{link}</td></tr>")
    return (
        f"Token {at + 1:,}: rank {trace.rank:,}, probability {_percent(trace.probability)}, "
        f"undecided by {trace.entropy:.2f} bits, after {trace.at:.3f} s.\n\n"
        f'<table class="alternatives"><thead><tr><th>token</th><th>id</th>{head}<th></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _percent(share: float) -> str:
    return "–" if share <= 0 else f"{share:.4%}" if share < 0.001 else f"{share:.2%}"


def text_until(inspection: Inspection, at: int, other: int) -> str:
    """The reply's text up to token number `at`, and the token `other` in its place."""
    ids = [*inspection.traces.tokens[:at], other]
    hidden = set(inspection.model.stop_ids)
    data = b"".join(_bytes(inspection.texts.get(id, "")) for id in ids if id not in hidden)
    return data.decode(errors="ignore")


def begun(inspection: Inspection, reply: StoredMessage, at: int, other: int) -> StoredMessage:
    """The reply up to token number `at` and with `other` in its place, what was thought apart from what was said."""
    text = text_until(inspection, at, other)
    given = reply.author
    thinking = bool(reply.reasoning) and not (given and given.prefix)
    if not thinking:
        return replace(reply, content=(given.prefix if given else "") + text, reasoning="")
    thought, closed, said = text.partition("</think>")
    thought = (given.prefix_reasoning if given else "") + thought.removeprefix("<think>").lstrip("\n")
    return replace(reply, content=said.lstrip("\n"), reasoning=thought.rstrip("\n") if closed else thought)


def _bytes(text: str) -> bytes:
    parts = BYTE.findall(text)
    spelled = bool(parts) and len(text) == 6 * len(parts)
    return bytes(int(part, 16) for part in parts) if spelled else text.encode()


def time_view(inspection: Inspection, page: PageTimes | None) -> str:
    """A waterfall of the turn, then the speed of the model and that of the page."""
    finish, prompt = inspection.finish, inspection.prompt
    if finish is None:
        return "The times of this reply were not kept."
    asked = max(0.0, finish.queue_seconds - prompt.template_seconds - prompt.tokenize_seconds)
    anew = len(prompt.token_ids) - finish.cached_tokens
    speed = f"{anew / finish.prefill_seconds:,.0f} tokens/s" if finish.prefill_seconds > 0 else ""
    writing = finish.decode_seconds - finish.text_seconds
    parts = [
        ("waiting in the queue", asked, ""),
        ("chat template", prompt.template_seconds, f"{len(prompt.messages)} messages"),
        ("tokenizer", prompt.tokenize_seconds, f"{len(prompt.token_ids):,} tokens"),
        ("reading the prompt", finish.prefill_seconds, f"{anew:,} tokens, {speed}".rstrip(", ")),
        (
            "writing the reply",
            writing,
            f"{finish.completion_tokens:,} tokens, {finish.tokens_per_second:,.1f} tokens/s",
        ),
        ("tokens into text", finish.text_seconds, "spread over the writing"),
    ]
    model = sum(seconds for _, seconds, _ in parts)
    if page is not None:
        parts.append(("to the browser", max(0.0, page.last - model), f"last text shown after {page.last:.3f} s"))
    return "\n".join([_waterfall(parts), _page_speed(finish, page), _pace(inspection.traces)])


def _waterfall(parts: Sequence[tuple[str, float, str]]) -> str:
    total = sum(seconds for _, seconds, _ in parts) or 1.0
    starts = accumulate((seconds for _, seconds, _ in parts), initial=0.0)
    rows = [
        f"<tr><td>{name}<small>{plain(note)}</small></td>"
        f'<td class="lane"><span class="bar" style="margin-left:{100 * start / total:.2f}%;'
        f'width:{max(0.3, 100 * seconds / total):.2f}%"></span></td><td>{1000 * seconds:,.1f} ms</td></tr>'
        for (name, seconds, note), start in zip(parts, starts, strict=False)
    ]
    return f'<table class="waterfall"><tbody>{"".join(rows)}</tbody></table>\n'


def _page_speed(finish: Finish, page: PageTimes | None) -> str:
    lines = [
        f"**Model**: first token after {finish.queue_seconds + finish.prefill_seconds:.3f} s, then "
        f"{finish.tokens_per_second:,.1f} tokens/s"
        + (
            f", {1000 * finish.decode_seconds / (finish.completion_tokens - 1):.2f} ms each"
            if finish.completion_tokens > 1
            else ""
        )
        + (f"; {finish.rows:.1f} replies were written at once" if finish.rows > 1.05 else "")
        + "."
    ]
    if page is None:
        lines.append("**Page**: no tab saw all of this reply being written.")
    else:
        lines.append(
            f"**Page**: first text on the screen after {page.first:.3f} s, the last after {page.last:.3f} s; in all "
            f"{finish.completion_tokens / max(page.last, 1e-3):,.1f} tokens/s from the question on."
        )
    return "\n\n".join(lines) + "\n"


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
    return (
        f"**Milliseconds for each token**: median {middle:.2f}, slowest {ordered[-1]:.2f}; the upper edge is "
        f"{top:.1f}.\n\n"
        f'<svg class="pace" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Milliseconds for each token">'
        f'<line x1="0" x2="{width}" y1="{line}" y2="{line}"></line>'
        f'<polyline points="{points}"></polyline></svg>\n'
    )


def why(inspection: Inspection, before: Inspection | None, reply: StoredMessage) -> str:
    """Why it stopped, why the start of the prompt was or was not remembered, and what is known of the template."""
    parts = (
        ("Why it stopped", _why_stopped(inspection, reply)),
        ("Why so much of the prompt was read", _why_read(inspection, before)),
        ("What the model's chat template does", _template(inspection.model)),
    )
    return "\n\n".join(f"#### {title}\n\n{text}" for title, text in parts)


def _why_stopped(inspection: Inspection, reply: StoredMessage) -> str:
    finish = inspection.finish
    if finish is None or finish.reason == "cancelled":
        return {
            "stopped": "It was stopped by hand.",
            "interrupted": "The server ended before the reply did.",
            "failed": f"It failed: {plain(reply.error)}",
        }.get(reply.state, "It has not ended.")
    if finish.reason == "stop_token":
        spelled = f"<code>{plain(visible(finish.stopped_by))}</code>"
        return f"The model wrote the token {spelled} (id {finish.stop_id}), which ends a reply."
    if finish.reason == "stop_string":
        return f"The text came to the stop string <code>{plain(visible(finish.stopped_by))}</code>."
    return f"It reached a limit: {plain(finish.stopped_by)}."


def _why_read(inspection: Inspection, before: Inspection | None) -> str:
    prompt, finish = inspection.prompt, inspection.finish
    total = len(prompt.token_ids)
    if finish is None:
        return "How much of it was read was not kept."
    cached = finish.cached_tokens
    if before is None:
        first = "This is the first reply of its conversation"
        if cached:
            return f"{first}: {cached:,} of {total:,} tokens were remembered from another one, which began alike."
        return f"{first}, and no other one began like it: all {total:,} tokens were read."
    known = [*before.prompt.token_ids, *before.traces.tokens]
    common = next((at for at, (a, b) in enumerate(zip(known, prompt.token_ids, strict=False)) if a != b), None)
    if common is None:
        common = min(len(known), total)
    lines = [f"{cached:,} of {total:,} tokens were remembered."]
    if common < min(len(known), total):
        lines.append(_cause(inspection, before, known, common))
    elif cached + 1 < common:
        lines.append(
            f"The first {common:,} tokens are those of the turn before, yet its keys and values were gone: other "
            "conversations have used the slot, or the server was started anew."
        )
    else:
        lines.append("All of the turn before was there; only what is new was read.")
    return " ".join(lines)


def _cause(inspection: Inspection, before: Inspection, known: Sequence[int], common: int) -> str:
    prompt = inspection.prompt
    source = sources(prompt)[common] if prompt.spans else "template"
    here = plain(visible(inspection.prompt.pieces[common] if prompt.ends else ""))
    if before.prompt.dropped != prompt.dropped:
        cause = "the oldest messages were left out since, so all that follows them moved"
    elif source == "persona" or _of(before.prompt, "persona") != _of(prompt, "persona"):
        cause = "the persona is another one"
    elif before.model.name != inspection.model.name:
        cause = "another model wrote the turn before"
    elif common >= len(before.prompt.token_ids) and "<think>" in _text(before):
        cause = "the template leaves out what the model thought in earlier turns"
    elif common >= len(before.prompt.token_ids) - 1:
        cause = "the template writes the end of a reply, or the reply itself, with other tokens than the model did"
    else:
        cause = f"an earlier message was changed ({SOURCES[source]})"
    was = plain(visible(_spelled(before, known, common)))
    return (
        f"The first token that differs from the turn before is number {common + 1:,}: <code>{here}</code> in place of "
        f"<code>{was}</code>. The cause: {cause}."
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
        return "It was not kept."
    lines = [
        "- The system role is its own: the persona is sent in it."
        if facts.system == "native"
        else "- It has no system role: the persona is folded into the first message.",
        f"- Turns {'must' if facts.alternates else 'need not'} alternate.",
        f"- It {'knows' if facts.thinks else 'does not know'} &lt;think&gt; tags.",
        f"- It {'can' if facts.tools else 'cannot'} tell the model of tools.",
    ]
    return "\n".join(lines)
