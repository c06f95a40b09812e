"""Which language the page is in: said by the browser with each request, and heard by all that answers it."""

import html
import json
from functools import cache
from typing import Any

import gradio as gr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from chatui import i18n
from chatui.errors import ChatError, SettingsError
from chatui.i18n import N_, translated
from chatui.settings import GenerationSettings
from chatui.ui.gradio_compat import page_html
from chatui.ui.page.theme import ASSETS

OUT_OF_RANGE = (
    N_("Input should be less than or equal to {limit} (got {value})"),
    N_("Input should be greater than or equal to {limit} (got {value})"),
    N_("Input should be less than {limit} (got {value})"),
    N_("Input should be greater than {limit} (got {value})"),
    N_("Input should be a valid integer (got {value})"),
    N_("Input should be a valid number (got {value})"),
    N_("Input should be a finite number (got {value})"),
    N_("String should have at most {limit} characters (got {value})"),
    N_("Tuple should have at most {limit} items after validation, not {count} (got {value})"),
)
"""What pydantic says of a setting."""


class PageLanguage:
    """Answers each request in the language that its browser likes best."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        accepted = Headers(scope=scope).get("accept-language") if scope["type"] == "http" else None
        with i18n.use_language(i18n.negotiate(accepted)):
            await self._app(scope, receive, send)


def asked_in(request: Any) -> str:
    """The language of the one whom an event of Gradio's answers."""
    first = request[0] if isinstance(request, list) and request else request
    headers = first.headers if isinstance(first, gr.Request) and first.request is not None else {}
    return i18n.negotiate(headers.get("accept-language"))


def error_in_language(error: ChatError) -> tuple[str, str]:
    """An error's message and remedy, in the language spoken now."""
    if not isinstance(error, SettingsError):
        return translated(error.message), translated(error.remedy)
    field = GenerationSettings.model_fields.get(error.field)
    name = field.title if field is not None and field.title else error.field
    return f"{translated(name)}: {translated(str(error.args[1]))}", translated(error.remedy)


def sentence(error: ChatError) -> str:
    """Both in one line."""
    return " ".join(error_in_language(error)).strip()


def warn(error: ChatError) -> None:
    """Say so at the edge of the page."""
    gr.Warning(html.escape(sentence(error)))


def spoken(page: bytes) -> bytes:
    """A page of Gradio's that says which language it is in, and has the words of our script."""
    return page_html.with_language(page, i18n.language(), i18n.direction())


def words() -> str:
    """What our scripts find their words by: markup for the head of the page."""
    found = {message: i18n.translated(message) for message in _of_the_scripts()}
    made = json.dumps(found, ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="chatui-words">{made}</script>'


@cache
def _of_the_scripts() -> tuple[str, ...]:
    scripts = sorted(ASSETS.glob("*.js"))
    return tuple(i18n.in_script("".join(path.read_text(encoding="utf-8") for path in scripts)))
