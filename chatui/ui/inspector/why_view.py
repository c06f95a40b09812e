"""The Why page of the Inspect view: why a reply stopped, why its prompt was or was not cached, its template. Pure."""

from collections.abc import Sequence

from chatui.chat import Prompt, Source
from chatui.i18n import _, translated
from chatui.inspection import Inspection
from chatui.server_facts import ServerFacts
from chatui.store.records import StoredMessage
from chatui.traces import OWN_IDS
from chatui.ui.inspector import remote_view
from chatui.ui.inspector.prompt_view import SOURCE_LABELS, token_sources
from chatui.ui.inspector.token_text import visible_text
from chatui.ui.markdown.markdown_escape import plain


def why_view(inspection: Inspection, previous: Inspection | None, reply: StoredMessage) -> str:
    """The three sections of the page; `previous` is the inspection of the turn before, if it is stored."""
    sections = (
        (_("Why it stopped"), _stop_reason(inspection, reply)),
        (_("How much of the prompt was cached, and why"), _cache_use(inspection, previous)),
        (_("What the model's chat template does"), _template(inspection)),
    )
    return "\n\n".join(f"#### {title}\n\n{text}" for title, text in sections)


def _stop_reason(inspection: Inspection, reply: StoredMessage) -> str:
    finish = inspection.finish
    if finish is None or finish.reason == "cancelled":
        return {
            "stopped": _("It was stopped by hand."),
            "interrupted": _("The server ended before the reply did."),
            "failed": _("It failed: {error}", error=plain(" ".join(map(translated, reply.error.split("\n"))))),
        }.get(reply.state, _("It has not ended."))
    server = inspection.model.server
    if server is not None and not finish.stopped_by:
        return remote_view.stop_reason(finish, server)
    if finish.reason == "stop_token":
        token = _code(finish.stopped_by)
        return _(
            "The model wrote the token {token} (id {id}), which ends a reply.", token=token, id=f"{finish.stop_id}"
        )
    if finish.reason == "stop_string":
        return _("The text came to the stop string {text}.", text=_code(finish.stopped_by))
    return _("It reached a limit: {limit}.", limit=plain(translated(finish.stopped_by)))


def _cache_use(inspection: Inspection, previous: Inspection | None) -> str:
    """How much of the prompt was cached, and why not more of it."""
    prompt, finish = inspection.prompt, inspection.finish
    total = len(prompt.token_ids)
    if finish is None:
        return _("How much of it was cached was not kept.")
    if inspection.model.server is not None:
        return _remote_cache_use(inspection, inspection.model.server, previous)
    cached = finish.cached_tokens
    if previous is None:
        return _first_cache_use(cached, total)
    if previous.model.name != inspection.model.name:
        return _cache_use_after_change(previous.model.name, cached, total)
    previous_ids = _turn_ids(previous)
    common = _common_tokens(previous_ids, prompt.token_ids)
    lines = [_("{known} of {count} tokens were cached.", known=cached, count=total)]
    if common < min(len(previous_ids), total):
        lines.append(_first_difference(inspection, previous, common))
    elif cached + 1 < common:
        lines.append(
            _(
                "The first {count} tokens are those of the turn before, but its KV cache was gone: other "
                "conversations needed the room, or the server was restarted.",
                count=common,
            )
        )
    else:
        lines.append(_("All of the turn before was cached; only what is new was computed."))
    return " ".join(lines)


def _turn_ids(inspection: Inspection) -> list[int]:
    """The ids of the tokens of prompt and reply; of the prompt only where a server does not tell the others."""
    chosen = inspection.traces.chosen_ids
    return [*inspection.prompt.token_ids, *(chosen if all(id < OWN_IDS for id in chosen) else ())]


def _common_tokens(before: Sequence[int], now: Sequence[int]) -> int:
    """How many tokens are the same from the beginning on."""
    pairs = enumerate(zip(before, now, strict=False))
    return next((position for position, (old, new) in pairs if old != new), min(len(before), len(now)))


def _remote_cache_use(inspection: Inspection, server: ServerFacts, previous: Inspection | None) -> str:
    """How much was cached as far as it is told, and where the prompt differs from the turn before."""
    told, ids = remote_view.cache_line(inspection, server), inspection.prompt.token_ids
    if previous is None or previous.model.name != inspection.model.name or not (ids and previous.prompt.token_ids):
        return told
    previous_ids = _turn_ids(previous)
    common = _common_tokens(previous_ids, ids)
    if common < min(len(previous_ids), len(ids)):
        return f"{told} {_first_difference(inspection, previous, common)}"
    return f"{told} {_('The first {count} tokens are those of the turn before.', count=common)}"


def _first_cache_use(cached: int, total: int) -> str:
    if cached:
        return _(
            "This is the first reply of its conversation: {known} of {count} tokens were cached from another one "
            "with the same prefix.",
            known=cached,
            count=total,
        )
    return _(
        "This is the first reply of its conversation, and no other one has its prefix: all {count} tokens were "
        "computed.",
        count=total,
    )


def _cache_use_after_change(model: str, cached: int, total: int) -> str:
    """Of a reply after one of another `model`, whose keys and values do not fit this one's."""
    name = _code(model)
    if cached:
        return _(
            "Another model, {name}, wrote the turn before, and no model can use the KV cache of another. The {known} "
            "of {count} tokens that were cached are from an earlier prompt of this model.",
            name=name,
            known=cached,
            count=total,
        )
    return _(
        "Another model, {name}, wrote the turn before, and no model can use the KV cache of another: all {count} "
        "tokens were computed.",
        name=name,
        count=total,
    )


def _first_difference(inspection: Inspection, previous: Inspection, position: int) -> str:
    """The first token that differs from those of the turn before, and the cause."""
    prompt = inspection.prompt
    new = prompt.token_texts[position] if prompt.ends else f"{prompt.token_ids[position]}"
    return _(
        "The first token that differs from the turn before is number {position}: {here} in place of {before}. The "
        "cause: {cause}.",
        position=position + 1,
        here=_code(new),
        before=_code(_token_text(previous, position)),
        cause=_cause(inspection, previous, position),
    )


def _cause(inspection: Inspection, previous: Inspection, position: int) -> str:
    prompt = inspection.prompt
    source = token_sources(prompt)[position] if prompt.spans else "template"
    if previous.prompt.dropped != prompt.dropped:
        return _("the oldest messages were left out since, so all that follows them moved")
    if source == "persona" or _source_text(previous.prompt, "persona") != _source_text(prompt, "persona"):
        return _("the persona is another one")
    if position >= len(previous.prompt.token_ids) and "<think>" in _raw_reply(previous):
        return _("the template leaves out what the model thought in earlier turns")
    if position >= len(previous.prompt.token_ids) - 1:
        return _("the template writes the end of a reply, or the reply itself, with other tokens than the model did")
    return _("an earlier message was changed ({source})", source=_(SOURCE_LABELS[source]))


def _code(text: str) -> str:
    return f"<code>{plain(visible_text(text))}</code>"


def _source_text(prompt: Prompt, source: Source) -> str:
    pieces = zip(prompt.token_texts, token_sources(prompt), strict=False)
    return "".join(piece for piece, piece_source in pieces if piece_source == source)


def _token_text(inspection: Inspection, position: int) -> str:
    """The text of the token at a position of prompt and reply together; its id where the text is not told."""
    pieces = inspection.prompt.token_texts
    if position < len(pieces):
        return pieces[position]
    ids = [*inspection.prompt.token_ids, *inspection.traces.chosen_ids]
    return inspection.texts.get(ids[position], f"{ids[position]}")


def _raw_reply(inspection: Inspection) -> str:
    """The generated text with the end of the prompt, which may have opened the reasoning."""
    return inspection.prompt.text[-20:] + "".join(
        inspection.texts.get(token, "") for token in inspection.traces.chosen_ids
    )


def _template(inspection: Inspection) -> str:
    facts, server = inspection.model.template, inspection.model.server
    if server is not None:
        return "\n".join(f"- {line}" for line in remote_view.template_lines(inspection, server))
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
