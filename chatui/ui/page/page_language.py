"""Answers each request in the language that its browser prefers; the page's language and the scripts' messages."""

import json
from functools import cache

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from chatui import i18n
from chatui.ui.gradio_compat import page_html
from chatui.ui.page.theme import ASSETS


class LanguageMiddleware:
    """Sets the current language of each HTTP request from its Accept-Language header."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request of any type."""
        accepted = Headers(scope=scope).get("accept-language") if scope["type"] == "http" else None
        with i18n.use_language(i18n.negotiate(accepted)):
            await self._app(scope, receive, send)


def with_current_language(page: bytes) -> bytes:
    """Gradio's HTML page with the current language and its direction as `lang` and `dir`."""
    return page_html.with_language(page, i18n.language(), i18n.direction())


def script_messages() -> str:
    """The messages of our scripts that the current language has in other words, as a script element of JSON."""
    translations = {message: i18n.translated(message) for message in _message_ids()}
    messages = {message: text for message, text in translations.items() if text != message}
    content = json.dumps(messages, ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="chatui-words">{content}</script>'


@cache
def _message_ids() -> tuple[str, ...]:
    scripts = sorted(ASSETS.glob("*.js"))
    return tuple(i18n.script_message_ids("".join(path.read_text(encoding="utf-8") for path in scripts)))
