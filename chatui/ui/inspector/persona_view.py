"""The Persona page of the Inspect view: what the persona costs in each turn, and replies side by side. Pure."""

from chatui import estimates
from chatui.chat import Finish, Prompt
from chatui.i18n import N_, _, format_number, ngettext
from chatui.inspection import Inspection
from chatui.ui.inspector import remote_view
from chatui.ui.inspector.formula_rows import FormulaRow, figure_row, formula_list
from chatui.ui.markdown import markdown_escape

MIN_MEASURED_TOKENS = 32
"""Prompt tokens that must have been computed for a meaningful prefill speed."""


def persona_view(inspection: Inspection) -> str:
    """Tokens, prefill time, keys and values, and share of the context of the persona."""
    prompt, model, anatomy = inspection.prompt, inspection.model, inspection.model.anatomy
    tokens = prompt.source_tokens("persona")
    if model.server is not None and not prompt.ends:
        return remote_view.persona(model.server)
    rows = [
        FormulaRow(
            N_("The persona"),
            N_(f"{tokens:,} tokens") if tokens != 1 else N_("one token"),
            N_(f"of {len(prompt.token_ids):,} tokens of the prompt"),
        ),
        *(_prefill_rows(prompt, inspection.finish, tokens) if model.server is None else ()),
    ]
    if anatomy is not None:
        rows.append(figure_row(estimates.turn(anatomy, tokens), N_("Its KV cache")))
    if model.context_length:
        share = N_(f"{tokens:,} ÷ {model.context_length:,} tokens")
        rows.append(FormulaRow(N_("Its part of the context"), f"{tokens / model.context_length:.1%}", share))
    return formula_list(rows)


def _prefill_rows(prompt: Prompt, finish: Finish | None, tokens: int) -> list[FormulaRow]:
    """The time to compute the persona without the cache, by the speed of this reply's prefill."""
    if finish is None:
        return []
    read = len(prompt.token_ids) - finish.cached_tokens
    if finish.prefill_seconds > 0 and read >= MIN_MEASURED_TOKENS:
        each = finish.prefill_seconds / read
        formula = N_(
            f"{tokens:,} tokens × {1000 * each:.2f} ms, the prefill of this prompt; nothing where it is cached"
        )
        return [FormulaRow(N_("Its prefill, not cached"), f"{1000 * tokens * each:,.0f} ms", formula)]
    formula = (
        N_(f"Only {read:,} tokens of this prompt were computed, too few to tell the speed of the prefill.")
        if read != 1
        else N_("Only one token of this prompt was computed, too few to tell the speed of the prefill.")
    )
    return [FormulaRow(N_("Its prefill, not cached"), N_("not this time: it was cached"), formula)]


def reply_column(title: str, text: str, finish: Finish | None, persona_tokens: int) -> str:
    """One of two replies side by side, as Markdown: title, token counts and speeds, text."""
    parts = [ngettext("persona {count} token", "persona {count} tokens", persona_tokens)] if persona_tokens else []
    if finish is not None:
        parts.append(_reply_facts(finish))
    facts = " · ".join(parts)
    return f"**{title}**\n\n<small>{facts}</small>\n\n{markdown_escape.escape(text)}"


def _reply_facts(finish: Finish) -> str:
    """The token counts and speeds of a reply."""
    seconds, speed = format_number(finish.prefill_seconds, 2), format_number(finish.tokens_per_second, 1)
    if not finish.prompt_tokens:
        return _(
            "tokens in not told, prefill {seconds} s · {generated} out, {speed} tokens/s",
            seconds=seconds,
            generated=finish.completion_tokens,
            speed=speed,
        )
    return ngettext(
        "{count} token in, prefill {seconds} s · {generated} out, {speed} tokens/s",
        "{count} tokens in, prefill {seconds} s · {generated} out, {speed} tokens/s",
        finish.prompt_tokens,
        seconds=seconds,
        generated=finish.completion_tokens,
        speed=speed,
    )
