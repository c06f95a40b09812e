"""Files that never change under their address: browsers are told to keep them, and do not ask again at each visit."""

import re
from functools import cache
from hashlib import sha256

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.ui.page.theme import ASSETS, ASSETS_ROUTE

YEAR = "public, max-age=31536000, immutable"

HASHED = re.compile(r"^(?!.*/gradio_api/).*/assets/[\w.-]+-[\w-]{8}\.(?:js|css)$")
"""Gradio's own script, whose names tell their content."""

VERSIONED = re.compile(rf"(?:/theme\.css|{ASSETS_ROUTE}/[\w.-]+)$")
"""What is asked for with its version: `?v=...`."""


@cache
def versioned_url(name: str) -> str:
    """Where one of our files is, in this version; relative to the page, so that a proxy's path is kept."""
    return f"{ASSETS_ROUTE.lstrip('/')}/{name}?v={sha256((ASSETS / name).read_bytes()).hexdigest()[:12]}"


class CacheHeaders:
    """Says of each such file that it may be kept for a year."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        if scope["type"] != "http" or not _lasts(scope):
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message)["Cache-Control"] = YEAR
            await send(message)

        await self._app(scope, receive, told)


def _lasts(scope: Scope) -> bool:
    path, query = scope["path"], scope["query_string"]
    return bool(HASHED.match(path) or (query.startswith(b"v=") and VERSIONED.search(path)))
