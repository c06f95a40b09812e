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
    lanes = "".join(
        f'<span class="{part}" style="width:{100 * count / context:.2f}%"></span>' for part, count in counts.items()
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
        f"<p>{warning}{legend} · {_('of {count} tokens', count=context)}</p></div>"
    )


def error_bar(error: ChatError) -> str:
    """The bar if the message cannot be sent as it is."""
    message, remedy = error_messages.localized(error)
    return f'<div class="context-bar"><p><b class="warning">{plain(message)}</b> {plain(remedy)}</p></div>'
