"""What the Inspect view says of a reply that another server wrote: what that tells, and by name what it does not. Pure.

What a server does not tell is never guessed. Token counts are those of the server.
"""

from collections.abc import Iterable

from chatui import estimates
from chatui.chat import Finish
from chatui.i18n import N_, _, format_number, format_percent, localize_numbers, ngettext
from chatui.inspection import Inspection
from chatui.server_facts import ServerActivity, ServerFacts
from chatui.ui.inspector.formula_rows import FormulaRow, formula_list
from chatui.ui.markdown.markdown_escape import plain
from chatui.units import human_bytes, human_count

THINK_TAG = "<think>"


def prompt_tokens(inspection: Inspection) -> int:
    """The number of tokens of the prompt: of those that are told, else as the server counts them; 0 if unknown."""
    finish = inspection.finish
    return len(inspection.prompt.token_ids) or (finish.prompt_tokens if finish is not None else 0)


def prompt_lines(inspection: Inspection, server: ServerFacts) -> Iterable[str]:
    """What is told of a prompt whose text is not."""
    name = plain(server.software)
    count = prompt_tokens(inspection)
    if count:
        yield _counted(count)
    else:
        yield _("{software} does not tell how many tokens the prompt has.", software=name)
    if inspection.prompt.token_ids:
        yield _("{software} tells the ids of the prompt's tokens, but not their texts.", software=name)
    else:
        yield _(
            "{software} does not tell the prompt that it made of the messages: neither its text nor its tokens. The "
            "messages below are those that it was sent.",
            software=name,
        )


def _counted(count: int) -> str:
    return ngettext("**{count} token**, as the server counts.", "**{count} tokens**, as the server counts.", count)


def cache_line(inspection: Inspection, server: ServerFacts) -> str:
    """How much of the prompt was cached, as far as it is told."""
    cached = inspection.finish.told_cached_tokens if inspection.finish else None
    count = prompt_tokens(inspection)
    if cached is None:
        name = plain(server.software)
        return _("{software} does not tell how many tokens of the prompt were in its cache.", software=name)
    if not cached:
        return _("No token of the prompt was cached, says the server.")
    if not count:
        return ngettext(
            "{count} token was cached, says the server.", "{count} tokens were cached, says the server.", cached
        )
    return _("{known} of {count} tokens were cached, as the server counts.", known=cached, count=count)


def tokens_summary(inspection: Inspection, server: ServerFacts) -> str:
    """What is told of the reply's tokens. `ranks` of 0 are not among the alternatives that were told."""
    traces, finish, name = inspection.traces, inspection.finish, plain(server.software)
    if not traces:
        count = finish.completion_tokens if finish is not None else 0
        untold = _("{software} does not tell the tokens of this reply, nor their probabilities.", software=name)
        return f"{_counted(count)} {untold}" if count else untold
    told = ngettext(
        "**{count} token**; {share} of them were the model's likeliest.",
        "**{count} tokens**; {share} of them were the model's likeliest.",
        len(traces),
        share=format_percent(traces.ranks.count(1) / len(traces)),
    )
    untold = _("{software} tells the likeliest alternatives of each, but not the entropy.", software=name)
    return f"{told} {untold} {_('Choose a token to see what else it could have been.')}"


def memory(inspection: Inspection, server: ServerFacts, activity: ServerActivity | None) -> str:
    """The sizes that are told, also of the KV cache as it is now, and that nothing else is."""
    model = inspection.model
    told = N_(f"As {server.software} tells it.")
    rows = []
    if model.parameters:
        rows.append(FormulaRow(N_("Parameters"), f"{human_count(model.parameters)} ({model.parameters:,})", told))
    if model.weight_bytes:
        rows.append(FormulaRow(N_("Weights"), human_bytes(model.weight_bytes), told))
    rows += _cache_rows(activity or ServerActivity(), told)
    untold = _(
        "{software} tells no more of what its model takes in memory, nor how much there is.",
        software=plain(server.software),
    )
    return (formula_list(rows) if rows else "") + f"\n\n{untold}\n\n"


def _cache_rows(activity: ServerActivity, told: str) -> Iterable[FormulaRow]:
    """What is told of the KV cache of all conversations, at the time that the page was opened."""
    if tokens := activity.cache_tokens:
        yield FormulaRow(N_("KV cache, all conversations"), N_(f"{tokens:,} tokens"), told)
    if activity.cache_usage is not None:
        in_use = N_("By the replies that it writes now.")
        yield FormulaRow(N_("KV cache in use"), f"{activity.cache_usage:.1%}", in_use)
    if activity.cache_hits is not None:
        since = N_("Of all the tokens of prompts since it was started.")
        yield FormulaRow(N_("Prompt tokens that were cached"), f"{activity.cache_hits:.1%}", since)


def ceiling(inspection: Inspection, server: ServerFacts, activity: ServerActivity | None) -> str:
    """The speed of the reply, with whom it shares the server now, and that its highest possible one is not known."""
    return f"{_speed(inspection, server)}\n\n{_load(server, activity or ServerActivity())}"


def _load(server: ServerFacts, activity: ServerActivity) -> str:
    """The replies that the server writes now, and those that wait."""
    name = plain(server.software)
    if activity.running is None:
        return _("{software} does not tell how many replies it is writing now.", software=name)
    told = N_(f"As {server.software} tells it, when this page was opened.")
    writing = f"{activity.running:,} / {activity.places:,}" if activity.places else f"{activity.running:,}"
    rows = [FormulaRow(N_("Replies being written"), writing, told)]
    if activity.waiting is not None:
        rows.append(FormulaRow(N_("Replies waiting"), f"{activity.waiting:,}", told))
    return formula_list(rows)


def _speed(inspection: Inspection, server: ServerFacts) -> str:
    """The speed of the reply."""
    finish = inspection.finish
    untold = _(
        "{software} does not tell how fast its device reads its memory, so the highest possible speed is not known.",
        software=plain(server.software),
    )
    if finish is None or finish.completion_tokens < 2 or not finish.decode_seconds:
        return untold
    speed = localize_numbers(estimates.human_speed(finish.tokens_per_second))
    return f"{_('**This reply**: {speed} tokens/s.', speed=speed)} {untold}"


def stop_reason(finish: Finish, server: ServerFacts) -> str:
    """Why a reply ended that was not cut."""
    name = plain(server.software)
    if finish.reason == "length":
        return _("It reached a limit of tokens, says {software}.", software=name)
    if finish.reason == "stop_string":
        return _("{software} says that its text came to a stop string.", software=name)
    return _("{software} says that the model ended it; it does not tell by which token.", software=name)


def template_lines(inspection: Inspection, server: ServerFacts) -> Iterable[str]:
    """What is known of the chat template."""
    facts, name = inspection.model.template, plain(server.software)
    if facts is None or not facts.text:
        yield _("{software} does not tell its chat template.", software=name)
    else:
        yield _("{software} tells it; it is on the page Prompt.", software=name)
        yield (
            _("It knows {tags} tags.", tags="&lt;think&gt;")
            if THINK_TAG in facts.text
            else _("It does not know {tags} tags.", tags="&lt;think&gt;")
        )
    if facts is not None and facts.alternates:
        yield _("It took system messages only as parts of others, and turns only if they alternate.")


def persona(server: ServerFacts) -> str:
    """What the persona costs where the prompt's tokens are not told."""
    return _(
        "{software} does not tell the tokens of the prompt, so what the persona takes of them is not known.",
        software=plain(server.software),
    )


def rank_text(rank: int) -> str:
    """A token's rank; 0 is not among the alternatives that were told."""
    return format_number(rank) if rank else _("not among those told")
