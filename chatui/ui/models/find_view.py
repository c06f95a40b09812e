"""HTML of the tab Find: the form, the list of found models, and one model with what fetching it would take. Pure.

Names, cards and files of the Hub are written by strangers: everything from there goes through `text` or `link`.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from chatui.backend import NO_OWN_MODELS
from chatui.errors import ChatError, HubError
from chatui.i18n import _, format_number, join_isolated, localize_numbers, translated
from chatui.models.facts import ModelFacts
from chatui.models.fetch import DownloadPlan
from chatui.models.file_choice import GgufChoice
from chatui.models.fit import TIGHT, Device, best_fit
from chatui.models.hub import HubModel, page_url
from chatui.models.leaderboards import BY_DOMAIN, LeaderboardResults
from chatui.models.model_card import Evaluation
from chatui.ui.models import model_row
from chatui.ui.models.find_query import FILTERS, FindQuery
from chatui.ui.models.model_row import number, size, text
from chatui.ui.shared import error_messages
from chatui.units import human_bytes, human_count

HTTP_URL = re.compile(r"https?://[^\s\"'<>\\$`{}|^]{1,500}")
BITS = ((16, "bfloat16"), (8, "8 bit"), (4.5, "4 bit"))
"""Bits of a weight by precision. Scales take half a bit where weights have 4."""
MAX_EVALUATIONS = 40
TOKENS_PAGE = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class FoundModel:
    """A model with what fetching it takes. `problem` is why it cannot be fetched; there is no `plan` then.

    `choices` are the GGUF files of which one is fetched. `results` is None while leaderboards are being asked.
    """

    model: HubModel
    facts: ModelFacts
    plan: DownloadPlan | None = None
    problem: HubError | None = None
    choices: tuple[GgufChoice, ...] = ()
    is_fetched: bool = False
    has_token: bool = False
    results: tuple[LeaderboardResults, ...] | None = None


def action(name: str, query: str, label: str, kind: str = "") -> str:
    """A link that sends an action with a query string to the tab."""
    return model_row.action_link("find", f"{name}={query}", label, kind)


def link(url: str, label: str) -> str:
    """A link to a page on the web; the label alone if the address is none."""
    if not HTTP_URL.fullmatch(url):
        return text(label)
    return f'<a href="{html.escape(url)}">{text(label)}</a>'


def form() -> str:
    """The search box and the filters."""
    search = html.escape(_("Part of the name, or nothing for all"))
    filters = "".join(_select(name, values) for name, values in FILTERS.items())
    return (
        '<form name="models-find=search=" class="find-form"><div class="find-box">'
        f'<input type="search" name="text" maxlength="100" autocomplete="off" placeholder="{search}" title="{search}">'
        f"<button>{text(_('Search the Hub'))}</button></div>"
        f'<div class="find-filters">{filters}</div></form>'
        f"<details><summary>{text(_('A token, for gated and private models'))}</summary>{token_form()}</details>"
    )


def token_form() -> str:
    """The form for the user's token of the Hub."""
    kept = _("It is kept on this server, in a file that only the account of the server may read. It is never shown.")
    return (
        f'<form name="models-find=token=" class="find-token"><label>{text(_("Paste a token of yours here:"))} '
        '<input type="password" name="token" autocomplete="off" maxlength="300" required></label> '
        f"<button>{text(_('Keep it and go on'))}</button></form>"
        f'<p class="facts">{link(TOKENS_PAGE, _("Make a token on the Hub"))}. {text(kept)}</p>'
    )


def _select(name: str, values: Mapping[str, str]) -> str:
    label = {
        "size": _("Size"),
        "domain": _("Domain"),
        "language": _("Language"),
        "licence": _("Licence"),
        "library": _("Format"),
        "sort": _("Sorted by"),
    }[name]
    options = "".join(
        f'<option value="{html.escape(value)}">{text(translated(shown))}</option>' for value, shown in values.items()
    )
    return f'<label>{text(label)} <select name="{name}" class="at-once">{options}</select></label>'


def not_allowed() -> str:
    """What users see who may not fetch models."""
    return f"<p>{text(_('Only the operator of this server may fetch models.'))}</p>"


def no_models_here() -> str:
    """What is shown where the server runs no models of its own."""
    return f"<p>{' '.join(text(_(sentence)) for sentence in NO_OWN_MODELS)}</p>"


def asking() -> str:
    """What is shown until the Hub has answered."""
    return f'<p class="find-asking">{text(_("Asking the Hub …"))}</p>'


def failure(error: ChatError, again: str = "") -> str:
    """An error as a sentence, with a link to `again` if given."""
    retry = f" {again}" if again else ""
    return f'<div><p class="model-failed">{text(error_text(error))}{retry}</p></div>'


def error_text(error: ChatError) -> str:
    """An error as a sentence and a remedy. Those for a terminal are replaced by what can be done in the page."""
    if not isinstance(error, HubError) or "HF_TOKEN" not in error.remedy:
        return error_messages.error_line(error)
    remedy = {
        "gated": _("Accept its licence on its page, then paste a token below."),
        "missing": _("Check the spelling; for a private one paste a token below."),
    }.get(error.kind, _("Paste a valid token below."))
    return f"{translated(error.message)} {remedy}"


def search_failure(error: ChatError, query: FindQuery) -> str:
    """A search that has failed: chats and the models that are here go on."""
    rest = _("Models that are on this computer can be used all the same: see the tab Here.")
    again = action("search", query.encoded(), _("Try again"))
    return failure(error, again).replace("</div>", f"<p>{text(rest)}</p></div>")


def results(query: FindQuery, models: Sequence[HubModel], has_more: bool, devices: Sequence[Device]) -> str:
    """The found models, with leaderboards of the domain."""
    if not models:
        return f"<div><p>{text(_('No model was found.'))}</p>{leaderboard_links(query)}</div>"
    rows = "".join(_row(model, query, devices) for model in models)
    following = query.next_page() if has_more else None
    more = f"<p>{action('more', following.encoded(), _('More'), 'find-more')}</p>" if following else ""
    return f'<div class="model-list">{leaderboard_links(query)}{rows}{more}</div>'


def leaderboard_links(query: FindQuery) -> str:
    """Links to the leaderboards of the query's domain."""
    boards = BY_DOMAIN[query.domain]
    links = ", ".join(link(board.url, board.name) for board in boards)
    return f'<p class="facts">{text(_("Leaderboards:"))} {links}</p>'


def _row(model: HubModel, query: FindQuery, devices: Sequence[Device]) -> str:
    marks = f' <span class="model-mark">{text(_("gated"))}</span>' if model.gated else ""
    marks += f' <span class="model-mark">{text(_("private"))}</span>' if model.private else ""
    return (
        f'<div class="model-row"><div class="model-top">'
        f"{action('model', query.encoded(model=model.id), model.id, 'find-name')}{marks}</div>"
        f'<p class="facts">{facts_line(model)}</p>{weights_verdict(model.total_parameters, devices)}</div>'
    )


def facts_line(model: HubModel) -> str:
    """The short facts of a model on the Hub."""
    count = model.total_parameters
    parts = [
        _("{count} parameters", count=localize_numbers(human_count(count))) if count else _("size not stated"),
        model.licence or _("no licence stated"),
        "GGUF" if "gguf" in model.tags else "",
        _("{count} downloads", count=localize_numbers(human_count(model.downloads))),
        _("updated {date}", date=f"{model.updated:%Y-%m-%d}") if model.updated else "",
    ]
    return text(join_isolated(filter(None, parts)))


def weights_verdict(parameters: int | None, devices: Sequence[Device]) -> str:
    """In which precisions the weights of so many parameters fit, by their size alone; "" if it is not known."""
    free = max((device.free for device in devices), default=0)
    if not parameters or not free:
        return ""
    sizes = {precision: parameters * bits / 8 for bits, precision in BITS}
    fitting = next((precision for precision, needed in sizes.items() if needed <= TIGHT * free), None)
    if fitting is None:
        line = _("too large: {needed} in 4 bit, {free} free", needed=_bytes(sizes["4 bit"]), free=_bytes(free))
        return f'<p class="under too-large">{text(line)}</p>'
    line = _(
        "the weights fit in {precision}: {needed} of {free} free",
        precision=fitting,
        needed=_bytes(sizes[fitting]),
        free=_bytes(free),
    )
    return f'<p class="under fits">{text(line)}</p>'


def model_page(found: FoundModel, query: FindQuery, devices: Sequence[Device], context: int) -> str:
    """One model: whether it fits, what fetching it takes, and what others say about it."""
    model = found.model
    best = best_fit(found.facts, devices, context) if found.facts.layout.layers else None
    bar = model_row.memory_bar(best) if best else weights_verdict(model.total_parameters, devices)
    explained = model_row.explained(found.facts.parsed, found.facts, devices if best else (), context)
    page = found.plan.repository if found.plan else model.id
    parts = [
        f"<p>{action('more', query.encoded(), _('Back to the list'))}</p>",
        f'<div class="model-top"><b>{text(model.id)}</b> {link(page_url(page), _("its page on the Hub"))}</div>',
        f'<p class="facts">{facts_line(model)}</p>{_other_task(model)}{bar}',
        f'<details class="explained"><summary>{text(_("Explained"))}</summary>{explained}</details>',
        plan_part(found, query),
        _evaluations(model.evaluations),
        _leaderboards(found.results),
        leaderboard_links(query),
    ]
    return f'<div class="find-model">{"".join(parts)}</div>'


def _other_task(model: HubModel) -> str:
    if model.task in ("", "text-generation"):
        return ""
    note = _("Its task is {task}. Only text is read and written here, so it may not load.", task=model.task)
    return f'<p class="under tight">{text(note)}</p>'


def plan_part(found: FoundModel, query: FindQuery) -> str:
    """What would be fetched, with the link that begins it."""
    plan = found.plan
    title = f"<h4>{text(_('What is fetched'))}</h4>"
    if plan is None:
        reason = found.problem or HubError("unsuitable", "This model cannot be fetched.")
        return title + failure(reason)
    gguf = next((choice for choice in found.choices if choice.file in plan.files), None)
    chosen = gguf.file.path if gguf else ""
    missing = plan.total_bytes - plan.present_bytes
    facts = [
        _("Files: {count}", count=format_number(len(plan.files))),
        _bytes(plan.total_bytes),
        _("{size} of it are here", size=_bytes(plan.present_bytes)) if plan.present_bytes else "",
        _("{size} free on the disk", size=_bytes(plan.free_bytes)),
        _("revision {revision}", revision=plan.commit[:8]),
    ]
    files = "".join(f"<li>{text(file.path)} <span>{size(file.size)}</span></li>" for file in plan.files)
    return (
        f"{title}{_choice(found.choices, chosen, found.model.id, query)}"
        f'<p class="facts">{text(join_isolated(filter(None, facts)))}</p>'
        f'<details><summary>{text(_("Files"))}</summary><ul class="find-files">{files}</ul></details>'
        f"{_gate(found)}{_fetch_link(found, query.encoded(model=found.model.id, gguf=chosen), missing)}"
    )


def _choice(choices: Sequence[GgufChoice], chosen: str, name: str, query: FindQuery) -> str:
    """The choice of one GGUF file of several, with size and quality."""
    if len(choices) < 2:
        return f"<p>{text(_choice_text(choices[0]))}</p>" if choices else ""
    options = "".join(
        f'<option value="{_attribute(choice.file.path)}"{" selected" if choice.file.path == chosen else ""}>'
        f"{text(_choice_text(choice))}</option>"
        for choice in choices
    )
    fields = query.encoded(model=name)
    return (
        f'<form name="models-find=model={html.escape(fields)}&amp;"><label>{text(_("Quantization"))} '
        f'<select name="gguf" class="at-once">{options}</select></label></form>'
    )


def _choice_text(choice: GgufChoice) -> str:
    quality = translated(choice.quality)
    named = choice.quantization or choice.file.path
    return join_isolated(filter(None, (named, localize_numbers(human_bytes(choice.file.size)), quality)))


def _gate(found: FoundModel) -> str:
    if not found.model.gated or found.has_token:
        return ""
    note = _("It is gated: accept its licence on its page. You are asked for a token of yours when it is fetched.")
    return f'<p class="under tight">{text(note)}</p>'


def _fetch_link(found: FoundModel, fields: str, missing: int) -> str:
    if found.is_fetched:
        return f"<p>{text(_('It is among the downloads above.'))}</p>"
    label = _("Fetch {size}", size=_bytes(missing)) if missing else _("Use what is here")
    return f"<p>{action('fetch', fields, label, 'find-fetch')}</p>"


def _evaluations(evaluations: Sequence[Evaluation]) -> str:
    title = f"<h4>{text(_('Evaluation results in its card'))}</h4>"
    if not evaluations:
        return f"{title}<p>{text(_('Its card states none.'))}</p>"
    return title + _table(evaluations[:MAX_EVALUATIONS], _("stated by its authors"))


def _leaderboards(found: Sequence[LeaderboardResults] | None) -> str:
    title = f"<h4>{text(_('Leaderboards'))}</h4>"
    if found is None:
        return title + asking()
    return title + "".join(_leaderboard(results) for results in found)


def _leaderboard(results: LeaderboardResults) -> str:
    if results.error is not None:
        return f"<p><b>{text(results.leaderboard)}</b>: {text(error_text(results.error))}</p>"
    if not results.evaluations:
        return f"<p><b>{text(results.leaderboard)}</b>: {text(_('It has no results under this name.'))}</p>"
    under = _("results of {model}", model=results.model)
    return f"<p><b>{text(results.leaderboard)}</b>: {text(under)}</p>{_table(results.evaluations, results.leaderboard)}"


def _table(evaluations: Iterable[Evaluation], stated: str) -> str:
    """Results with source, link and date. `stated` is the source of those that name none."""
    names = (_("Benchmark"), _("Metric"), _("Result"), _("Source"), _("Date"))
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    body = "".join(
        f"<tr><td>{text(result.dataset)}</td><td>{text(result.metric)}</td><td>{_value(result.value)}</td>"
        f"<td>{link(result.url, result.source or stated)}</td><td>{text(result.date[:10] or _('no date'))}</td></tr>"
        for result in evaluations
    )
    table = f'<table class="find-results"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="find-table">{table}</div>'


def _value(value: float | str) -> str:
    return text(value) if isinstance(value, str) else number(f"{value:.4g}" if value < 1000 else f"{value:,.1f}")


def _bytes(count: float) -> str:
    return localize_numbers(human_bytes(count))


def _attribute(value: str) -> str:
    """A text as the value of an attribute, in which Markdown finds nothing."""
    return html.escape(" ".join(value.split())).replace("$", "&#36;").replace("`", "&#96;").replace("\\", "&#92;")
