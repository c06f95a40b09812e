"""ASGI middleware that counts requests by the kind of their route, and the open tabs by their heartbeats."""

import re
import time
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.metrics import Metrics

KINDS = (
    ("health", re.compile(r"/(livez|healthz)")),
    ("api", re.compile(r"/(v1(/.*)?|(de)?tokenize|metrics)")),
    ("stream", re.compile(r"/gradio_api/(changes|queue/data|heartbeat/.*)")),
    ("event", re.compile(r"/gradio_api/.*")),
    ("asset", re.compile(r"/(assets|static|chatui-assets|svelte)/.*|/[\w-]+\.(ico|css|json|svg)")),
    ("page", re.compile(r"/(login|logout)?/?")),
)
"""Kinds of routes and the paths that they have, the first match counts; all others are "other"."""
HEARTBEAT = re.compile(r".*/gradio_api/heartbeat/[^/]+")
TAB_SECONDS = 300.0
"""Seconds from its last heartbeat until a tab counts as closed: browsers run timers of hidden tabs once a minute."""
MAX_TABS = 10_000
"""The tabs that are counted, since their names come from clients."""


class RequestMetrics:
    """Counts requests of the application in `metrics`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._tabs: dict[str, float] = {}
        metrics.connected_tabs.set_function(self.count_tabs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count an HTTP request by the status of its response; without one it is a 499, as nginx has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"].removeprefix(scope.get("root_path", ""))
        try:
            await self._app(scope, receive, counted_send)
        except Exception:
            status = 500
            raise
        finally:
            self._metrics.requests.labels(kind_of(path), str(status)).inc()
            if HEARTBEAT.fullmatch(path) and status < 400:
                self._note_heartbeat(path, scope["query_string"].decode("latin-1"))

    def count_tabs(self) -> int:
        """The tabs whose latest heartbeat is not too long ago."""
        oldest = time.monotonic() - TAB_SECONDS
        self._tabs = {path: at for path, at in self._tabs.items() if at >= oldest}
        return len(self._tabs)

    def _note_heartbeat(self, path: str, query: str) -> None:
        self._tabs.pop(path, None)
        if "closed" in parse_qs(query):
            return
        if len(self._tabs) >= MAX_TABS:
            self._tabs.pop(next(iter(self._tabs)))
        self._tabs[path] = time.monotonic()


def kind_of(path: str) -> str:
    """The kind of the route of a path below the root path."""
    return next((kind for kind, pattern in KINDS if pattern.fullmatch(path)), "other")
