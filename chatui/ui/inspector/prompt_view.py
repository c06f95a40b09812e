"""The Prompt page of the Inspect view: each token of the prompt by source and by cache, and a summary. Pure."""

import json
from collections.abc import Sequence

from chatui.chat import Prompt, Source
from chatui.i18n import N_, _, format_number, ngettext, translated
from chatui.inspection import Inspection
from chatui.ui.inspector import remote_view
from chatui.ui.inspector.token_text import HighlightedTokens, visible_text
from chatui.ui.markdown.markdown_escape import plain

SOURCE_LABELS: dict[Source, str] = {
    "template": N_("template"),
    "persona": N_("persona"),
    "user": N_("earlier user"),
    "reply": N_("earlier reply"),
    "message": N_("this message"),
    "start": N_("generation prompt"),
}
SOURCE_COLOURS = {
    "template": "#a8a29e",
    "persona": "#c084fc",
    "earlier user": "#60a5fa",
    "earlier reply": "#4ade80",
    "this message": "#fb923c",
    "generation prompt": "#f472b6",
}
UNTOLD_TEXT = N_("This server does not tell the text of its prompts.")
UNTOLD_TEMPLATE = N_("This server does not tell its chat template.")
CACHE_COLOURS = {N_("cached"): "#4ade80", N_("computed"): "#fb923c"}


def token_sources(prompt: Prompt) -> list[Source]:
    """The source of each token of the prompt."""
    return [span.source for span in prompt.spans for _ in range(span.tokens)]


def tokens_by_source(prompt: Prompt) -> HighlightedTokens:
    """The prompt's tokens, each with the label of its source."""
    pieces = shown_pieces(prompt)
    if not prompt.spans:
        return [(piece, None) for piece in pieces]
    return [
        (visible_text(piece), _(SOURCE_LABELS[source]))
        for piece, source in zip(pieces, token_sources(prompt), strict=True)
    ]


def shown_pieces(prompt: Prompt) -> Sequence[str]:
    """The text of each token; the ids where the texts are not told."""
    return prompt.token_texts if prompt.ends else [f"{id} " for id in prompt.token_ids]


def tokens_by_cache(inspection: Inspection) -> HighlightedTokens:
    """The prompt's tokens, each labelled as cached or computed for this reply; none where that is not told."""
    finish, is_remote = inspection.finish, inspection.model.server is not None
    cached_tokens = finish.told_cached_tokens if finish else None if is_remote else 0
    if cached_tokens is None:
        return []
    cached, computed = _("cached"), _("computed")
    return [
        (visible_text(piece), cached if position < cached_tokens else computed)
        for position, piece in enumerate(shown_pieces(inspection.prompt))
    ]


def summary(inspection: Inspection) -> str:
    """Token counts by source and by cache, and which messages were dropped and why."""
    prompt, finish = inspection.prompt, inspection.finish
    server = inspection.model.server
    lines = [_counts(prompt)] if prompt.ends or server is None else [*remote_view.prompt_lines(inspection, server)]
    if server is not None:
        lines.append(remote_view.cache_line(inspection, server))
    elif finish is not None:
        lines.append(
            _(
                "{known} cached from an earlier prompt, {count} computed for this reply.",
                known=finish.cached_tokens,
                count=len(prompt.token_ids) - finish.cached_tokens,
            )
        )
    lines.append(_dropped(inspection))
    if prompt.arguments:
        given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in prompt.arguments.items())
        lines.append(_("The chat template was also given {arguments}.", arguments=f"<code>{plain(given)}</code>"))
    lines += map(plain, prompt.notes)
    return "\n\n".join(lines)


def _counts(prompt: Prompt) -> str:
    """The tokens by source."""
    counts = [(label, prompt.source_tokens(source)) for source, label in SOURCE_LABELS.items()]
    parts = " · ".join(f"{_(label)} {format_number(count)}" for label, count in counts if count)
    return ngettext("**{count} token**: {parts}.", "**{count} tokens**: {parts}.", len(prompt.token_ids), parts=parts)


def _dropped(inspection: Inspection) -> str:
    """How many messages were left out, and why."""
    dropped, limit = inspection.prompt.dropped, inspection.model.context_length
    if dropped and not limit:
        return ngettext(
            "The {count} oldest message was left out: the conversation is too long.",
            "The {count} oldest messages were left out: the conversation is too long.",
            dropped,
        )
    if dropped:
        return ngettext(
            "The {count} oldest message was left out: with it the conversation and the room kept for the reply "
            "would not fit the context of {limit} tokens.",
            "The {count} oldest messages were left out: with them the conversation and the room kept for the reply "
            "would not fit the context of {limit} tokens.",
            dropped,
            limit=limit,
        )
    if inspection.model.server is not None:
        return _("Nothing was left out here.")
    return _("Nothing was left out.")


def text_or_reason(inspection: Inspection, text: str, reason: str) -> str:
    """The text; if it is empty since the server does not tell it, the reason."""
    return text or (translated(reason) if inspection.model.server is not None else "")


def messages_json(prompt: Prompt) -> str:
    """The conversation as the list of messages that `pipe(chat)` takes."""
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    return json.dumps(messages, ensure_ascii=False, indent=2)
