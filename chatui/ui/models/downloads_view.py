"""HTML of the downloads in the tab Find: how far each is, what can be done with it, and the token for gated models."""

from collections.abc import Sequence

from chatui.errors import ChatError
from chatui.i18n import _, join_isolated, localize_numbers
from chatui.models.download_manager import DownloadStatus
from chatui.models.fetch import Progress
from chatui.models.file_choice import gguf_choices
from chatui.models.hub import page_url
from chatui.ui.models.find_view import action, error_text, failure, link, token_form
from chatui.ui.models.model_row import action_link, text
from chatui.units import human_bytes

MAX_SECONDS_LEFT = 24 * 3600
"""For more than a day nothing is predicted."""


def downloads(statuses: Sequence[DownloadStatus], error: ChatError | None = None) -> str:
    """All downloads, with what went wrong with the last action if anything did."""
    cards = "".join(map(_card, statuses))
    failed = failure(error) if error else ""
    return f'<div class="find-downloads">{failed}{cards}</div>' if cards or failed else ""


def token_part(has_token: bool, waiting: Sequence[DownloadStatus]) -> str:
    """What is asked of the user while downloads wait for a token, else whether there is one."""
    if waiting:
        pages = ", ".join(link(page_url(each.plan.repository), each.plan.repository) for each in waiting)
        asked = f"<p><b>{text(_('Accept the licence there:'))}</b> {pages}</p>"
        return f'<div class="find-download">{asked}{token_form()}</div>'
    if not has_token:
        return ""
    forget = action("forget-token", "", _("Forget it"))
    return f'<div><p class="facts">{text(_("Your token of the Hub is kept."))} {forget}</p></div>'


def _card(status: DownloadStatus) -> str:
    progress, plan = status.progress, status.plan
    choices = gguf_choices(plan.files)
    quantization = f" {choices[0].quantization}" if choices else ""
    bar = f'<progress max="{max(progress.total, 1)}" value="{progress.bytes}"></progress>'
    return (
        f'<div class="find-download"><div class="model-top"><b>{text(plan.repository)}{text(quantization)}</b>'
        f"{_actions(status)}</div>{bar if progress.state != 'done' else ''}"
        f'<p class="facts">{text(progress_text(progress))}</p>{_error(status)}</div>'
    )


def progress_text(progress: Progress) -> str:
    """Bytes, speed and time left, or what is done instead."""
    if progress.state == "done":
        return _("It is here.")
    parts = [_("{done} of {total}", done=_bytes(progress.bytes), total=_bytes(progress.total))]
    if progress.state == "paused":
        parts.append(_("paused"))
    elif progress.state == "queued":
        parts.append(_("waiting for other downloads"))
    elif progress.waiting:
        parts.append(_("trying again in {seconds} s", seconds=round(progress.waiting)))
    elif progress.state == "running" and progress.step in ("check", "link"):
        parts.append({"check": _("checking"), "link": _("storing")}[progress.step])
    elif progress.state == "running" and progress.seconds_left is not None:
        parts.append(_("{speed} per second", speed=_bytes(progress.speed)))
        if progress.seconds_left < MAX_SECONDS_LEFT:
            parts.append(_("{time} left", time=_duration(int(progress.seconds_left))))
    return join_isolated(parts)


def _duration(seconds: int) -> str:
    """Minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _actions(status: DownloadStatus) -> str:
    progress, id = status.progress, status.id
    if progress.state == "running":
        return action("pause", id, _("Pause"))
    if progress.state == "done":
        use = action_link("use", str(status.plan.path), _("Chat with it"), "use closing")
        return f"{use} {action('cancel', id, _('Remove from this list'))}"
    delete = _("Cancel and delete {size}", size=_bytes(progress.bytes)) if progress.bytes else _("Cancel")
    if progress.state == "queued":
        return f"{action('pause', id, _('Pause'))} {action('cancel', id, delete)}"
    again = _("Resume") if progress.state == "paused" else _("Try again")
    return f"{action('resume', id, again)} {action('cancel', id, delete)}"


def _error(status: DownloadStatus) -> str:
    error = status.progress.error
    if error is None:
        return ""
    return f'<p class="model-failed">{text(error_text(error))}</p>'


def _bytes(count: float) -> str:
    return localize_numbers(human_bytes(count))
