"""Sends Cache-Control headers for files whose URL has a version or a hash, so that browsers cache them for a year."""

import re
from functools import cache
from hashlib import sha256

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.ui.page.theme import ASSETS, ASSETS_ROUTE

YEAR = "public, max-age=31536000, immutable"

HASHED = re.compile(r"^(?!.*/gradio_api/).*/assets/[\w.-]+-[\w-]{8}\.(?:js|css)$")
"""Paths of Gradio's scripts and styles, which have a hash in their names."""

VERSIONED = re.compile(rf"(?:/theme\.css|{ASSETS_ROUTE}/[\w.-]+)$")
"""Paths of files that are requested with a version: `?v=...`."""


@cache
def versioned_url(name: str) -> str:
    """The URL of one of our assets with a hash of its content; relative, so that it works behind a proxy's path."""
    return f"{ASSETS_ROUTE.lstrip('/')}/{name}?v={sha256((ASSETS / name).read_bytes()).hexdigest()[:12]}"


class CacheHeaders:
    """Middleware that adds the Cache-Control header to successful responses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request of any type."""
        if scope["type"] != "http" or not _is_immutable(scope):
            await self._app(scope, receive, send)
            return

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message)["Cache-Control"] = YEAR
            await send(message)

        await self._app(scope, receive, send_with_header)


def _is_immutable(scope: Scope) -> bool:
    path, query = scope["path"], scope["query_string"]
    return bool(HASHED.match(path) or (query.startswith(b"v=") and VERSIONED.search(path)))
