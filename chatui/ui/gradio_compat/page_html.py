"""Rewrites the HTML page that Gradio sends: its language, our scripts and styles in its head, and link previews.

Replaced: parts of `gradio/templates/frontend/index.html`, which `main` in `gradio/routes.py` renders.
Why: Gradio's script adds `head=` after a megabyte of JavaScript has been loaded. The page has `lang="en"` in every
language. Its Open Graph tags describe Gradio. There is no public way to change any of this.
Upstream: one `</head>`, one `<html lang="en" ...>`, `<meta property="og:...">` and `<meta name="twitter:...">` tags.
The page is sent in one piece.
"""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HTML_LANG = re.compile(rb"<html\s+lang=\"[^\"]*\"")
PREVIEW_TAGS = re.compile(rb"<meta\s+(?:property=\"og:|name=\"twitter:)[^>]*>\s*")
HEAD_END = b"</head>"


def with_language(page: bytes, language: str, direction: str) -> bytes:
    """The page with these as `lang` and `dir` of its root element."""
    return HTML_LANG.sub(f'<html lang="{language}" dir="{direction}"'.encode(), page, count=1)


def without_previews(page: bytes) -> bytes:
    """The page without Gradio's tags for link previews."""
    return PREVIEW_TAGS.sub(b"", page)


def with_head(page: bytes, markup: bytes) -> bytes:
    """The page with this at the end of its head."""
    return page.replace(HEAD_END, markup + HEAD_END, 1)


class HtmlMiddleware:
    """Rewrites each HTML page by `rewrite`. It is rendered within the context that `prefill` returns for a request."""

    def __init__(
        self,
        app: ASGIApp,
        rewrite: Callable[[bytes, Request], bytes],
        prefill: Callable[[Request], AbstractAsyncContextManager[None]],
    ) -> None:
        self._app, self._rewrite, self._prefill = app, rewrite, prefill

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request of any type."""
        is_page = (
            scope["type"] == "http"
            and scope["method"] == "GET"
            and "text/html" in Headers(scope=scope).get("accept", "")
        )
        if not is_page:
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: Message | None = None

        async def send_rewritten(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_html(message):
                start = message
                return
            if start is None:
                await send(message)
                return
            body = message.get("body", b"")
            head, start = start, None
            rewritten = self._rewrite(body, Request(scope))
            response_headers = MutableHeaders(scope=head)
            response_headers["cache-control"] = "no-store"
            if "content-length" in response_headers:
                length = int(response_headers["content-length"]) + len(rewritten) - len(body)
                response_headers["content-length"] = str(length)
            await send(head)
            await send({**message, "body": rewritten})

        async with self._prefill(Request(scope)):
            await self._app({**scope, "headers": headers}, receive, send_rewritten)


def _is_html(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/html")
