"""The context bar under the message box: how full the model's context is, counted with its tokenizer."""

from chatui.chat import ModelInfo, Prompt
from chatui.errors import ChatError
from chatui.generation_settings import GenerationSettings
from chatui.i18n import N_, _, format_number, ngettext
from chatui.ui.markdown.markdown_escape import plain
from chatui.ui.shared import error_messages

PARTS = {
    "persona": N_("persona"),
    "history": N_("history"),
    "draft": N_("your message"),
    "reserve": N_("room for the reply"),
}


def bar(info: ModelInfo, prompt: Prompt, settings: GenerationSettings, blank: bool) -> str:
    """The tokens of persona, history, draft and the reserve for the reply; `blank` if the draft is empty."""
    counts = dict.fromkeys(("persona", "history", "draft"), 0)
    for span in prompt.spans:
        part = {"persona": "persona", "message": "draft"}.get(span.source, "history")
        counts[part] += span.tokens
    if blank:
        counts["draft"] = 0
    counts["reserve"] = info.reserved_tokens(settings)
    context = info.context_length
    whole = context or max(1, sum(counts.values()))
    lanes = "".join(
        f'<span class="{part}" style="width:{100 * count / whole:.2f}%"></span>' for part, count in counts.items()
    )
    legend = " · ".join(f"{_(PARTS[part])} {format_number(count)}" for part, count in counts.items() if count)
    warning = ""
    if prompt.dropped:
        dropped = ngettext(
            "The {count} oldest message will be left out.",
            "The {count} oldest messages will be left out.",
            prompt.dropped,
        )
        warning = f'<b class="warning">{dropped}</b> '
    return (
        f'<div class="context-bar"><div class="context-lanes">{lanes}</div>'
        f"<p>{warning}{legend} · {_limit(context)}</p></div>"
    )


def untold_bar(info: ModelInfo, used: int) -> str:
    """The bar where the server does not tell the tokens of prompts: `used` by the last turn, 0 if that is not known."""
    lanes = ""
    if used and info.context_length:
        share = min(100.0, 100 * used / info.context_length)
        lanes = f'<div class="context-lanes"><span class="history" style="width:{share:.2f}%"></span></div>'
    count = ngettext("the last turn took {count} token", "the last turn took {count} tokens", used) if used else ""
    software = info.server.software if info.server is not None else info.name
    not_told = _("{software} does not tell the tokens of a message before it is sent", software=plain(software))
    line = " · ".join(filter(None, (count, _limit(info.context_length) if count else "", not_told)))
    return f'<div class="context-bar">{lanes}<p>{line}</p></div>'


def _limit(context: int) -> str:
    return _("of {count} tokens", count=context) if context else _("of a context whose size the server does not tell")


def error_bar(error: ChatError) -> str:
    """The bar if the message cannot be sent as it is."""
    message, remedy = error_messages.localized(error)
    return f'<div class="context-bar"><p><b class="warning">{plain(message)}</b> {plain(remedy)}</p></div>'
