"""HTML of the list of models on this machine, with the recommendation and an explanation of the numbers. Pure."""

from chatui.i18n import N_, _, format_number, localize_numbers, translated
from chatui.models.fit import is_for_chats
from chatui.models.overview import Overview, OverviewRow
from chatui.ui.models import model_row
from chatui.ui.models.model_row import action_link, text, title
from chatui.units import human_bytes

NO_MODELS = N_("This server runs no models of its own: it stands in front of others, whose models are listed here.")


def list_html(overview: Overview, may_manage: bool, asking: str = "", freed: int = 0) -> str:
    """The whole list. Before the model with the key `asking` is deleted, it says that `freed` bytes become free."""
    rows = "".join(_row(row, overview, may_manage, freed if row.key == asking else None) for row in overview.rows)
    nothing = "" if rows or not overview.devices else f"<p>{text(_('There are no models on this machine yet.'))}</p>"
    return f'{_recommended(overview)}{_machine(overview)}<div class="model-list">{rows}{nothing}</div>'


def _recommended(overview: Overview) -> str:
    found = overview.recommendation
    if found is None:
        return ""
    row = next((row for row in overview.rows if row.facts is found.fit.facts), None)
    use = action_link("use", row.key, _("Chat with it"), "use closing") if row else ""
    return (
        f'<div class="model-recommended"><h4>{text(_("Recommended for this machine"))}</h4>'
        f'<p>{text(translated(found.reason))}</p><p class="model-actions">{use}</p></div>'
    )


def _machine(overview: Overview) -> str:
    """The memory and bandwidth of this machine, and how the numbers are to be read."""
    if not overview.devices:
        return f"<p>{text(_(NO_MODELS))}</p>"
    lines = []
    for device in overview.devices:
        free, total = (localize_numbers(human_bytes(count)) for count in (device.free, device.total or device.free))
        lines.append(_("{device}: {free} of {total} of memory free", device=device.name, free=free, total=total))
        if device.bandwidth:
            lines[-1] += ", " + _("read at {speed}/s", speed=localize_numbers(human_bytes(device.bandwidth)))
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    sentences = "".join(f"<p>{text(sentence)}</p>" for sentence in _lessons(overview))
    return (
        f'<ul class="machine">{items}</ul>'
        f'<details class="explained"><summary>{text(_("How to read these numbers"))}</summary>{sentences}</details>'
    )


def _lessons(overview: Overview) -> tuple[str, ...]:
    """What the tutorial says about size, precision and speed."""
    return (
        _(
            "Memory: a parameter takes 4 bytes in float32, 2 in bfloat16, about 1 in 8 bit and half of one in 4 bit. "
            "A model of 8 billion parameters takes 32, 16, 8 or 4 GB for its weights."
        ),
        _(
            "A conversation takes memory too: the keys and values of each of its tokens. They are counted for {count} "
            "tokens here.",
            count=format_number(overview.context),
        ),
        _(
            "Speed: to write one token, all active parameters are read from memory once. So the speed is at most the "
            "bandwidth of the memory divided by the size of the active parameters, and fewer bits are faster."
        ),
        _(
            "Quality: of the same family, a larger model is mostly the better one, and 8 or 4 bit cost little of it. "
            "A mixture of experts takes the memory of all its experts, and is as fast as those that it uses."
        ),
        _("Memory that loaded models take is counted as free, because they leave when another model needs it."),
    )


def _row(row: OverviewRow, overview: Overview, may_manage: bool, freed: int | None) -> str:
    body = ""
    if row.facts is not None and row.best is not None:
        body = model_row.memory_bar(row.best) + model_row.sizes(row.facts, row.best.device, overview.context)
    links = _actions(row, may_manage) if freed is None else ""
    return (
        f'<div class="model-row"><div class="model-top"><h4>{text(title(row))}</h4>{model_row.state(row.status)}'
        f'<span class="model-actions">{links}</span></div>{_question(row, freed)}{model_row.failure(row.status)}'
        f"{model_row.facts_line(row)}{body}{model_row.details(row, overview)}</div>"
    )


def _actions(row: OverviewRow, may_manage: bool) -> str:
    """Links of what this user can do with the model now."""
    state = row.status.state if row.status else "unloaded"
    links = []
    if not row.problem and (may_manage or row.status) and (row.facts is None or is_for_chats(row.facts)):
        links.append(action_link("use", row.key, _("Chat with it"), "use closing"))
    if row.is_remote:
        return " ".join(links)
    if may_manage and not row.problem:
        too_large = row.best is not None and row.best.verdict == "too large"
        if state in ("unloaded", "failed") and not too_large:
            links.append(action_link("here", f"load={row.key}", _("Load")))
        links.append(action_link("load", row.key, _("Load with …")))
    if may_manage and state in ("ready", "loading"):
        links.append(action_link("here", f"unload={row.key}", _("Unload")))
    if may_manage and row.can_be_deleted:
        links.append(action_link("here", f"ask={row.key}", _("Delete …")))
    return " ".join(links)


def _question(row: OverviewRow, freed: int | None) -> str:
    if freed is None:
        return ""
    size = localize_numbers(human_bytes(freed))
    question = _("Delete {name} from the disk? {size} become free.", name=title(row), size=size)
    yes = action_link("here", f"delete={row.key}", _("Delete from disk"), "danger")
    no = action_link("here", "keep=", _("Keep it"))
    return f'<p class="model-asking">{text(question)} <span class="model-actions">{yes} {no}</span></p>'
