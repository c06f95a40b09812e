"""Serves a page with Gradio, mounted in an app of ours or by `launch()`, with the middleware that our page needs.

Replaced and reached: the app that `mount_gradio_app` mounts and does not return; `Blocks.app`, by which the queue runs
an event's validator and which `launch()` sets, but not a mount: validators would use the sessions of another app;
`Blocks.has_launched`, without which the file routes of `App.create_app` do not check the paths that a client sends; the
name `CustomCORSMiddleware` in `gradio/routes.py`, which `launch()` cannot leave out and which grants any origin on a
public host; the name `App` in `gradio/blocks.py`, by which a page that is built makes an app at each step that nothing
uses; `setup_tunnel` in `gradio/networking.py`, which is public through `launch(share=True)` alone; the URL
`/pwa_icon`.
Upstream: `mount_gradio_app` appends one `Mount` with Gradio's app to our routes, and leaves CORS to a parent app that
has a `CORSMiddleware` (https://github.com/gradio-app/gradio/pull/13741). `App.create_app` adds
`CustomCORSMiddleware` around its routes, below its compression. `pwa_icon` reads the icon with Pillow, which
reads no SVG.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.blocks
import gradio.networking
import gradio.routes
from fastapi import FastAPI
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from chatui.security import Login
from chatui.ui.gradio_compat import sessions
from chatui.ui.gradio_compat.bad_requests import BadRequests
from chatui.ui.gradio_compat.event_streams import EventStreams
from chatui.ui.gradio_compat.queue_polling import poll_less
from chatui.ui.gradio_compat.queue_slots import run_many
from chatui.ui.gradio_compat.stream_multiplexer import StreamMultiplexer

_APP = gradio.routes.App


class _NoApp:
    """Stands for Gradio's App where none is wanted."""

    @staticmethod
    def create_app(*_args: object, **_options: object) -> None:
        """Make no app."""


@contextlib.contextmanager
def without_apps() -> Iterator[None]:
    """Build pages without the apps that Gradio makes meanwhile, a third of the time: `mount` or `launch` makes one."""
    names = vars(gradio.blocks)
    names["App"] = _NoApp
    try:
        yield
    finally:
        names["App"] = _APP


def mount(app: FastAPI, page: gr.Blocks, login: Login | None, root_path: str, appearance: dict[str, Any]) -> FastAPI:
    """Mount the page at the root of `app`, which must have a CORS layer of its own. Returns Gradio's app."""
    sessions.install()
    poll_less(page)
    run_many(page)
    page.has_launched = True
    gr.mount_gradio_app(app, page, path="/", auth=login, root_path=root_path or None, **appearance)
    gradio_app: FastAPI = next(route.app for route in reversed(app.routes) if isinstance(route, Mount))  # type: ignore[assignment]
    page.app = gradio_app  # type: ignore[assignment]
    gradio_app.add_middleware(BadRequests)
    gradio_app.add_middleware(EventStreams, page=page)
    gradio_app.add_middleware(StreamMultiplexer)
    return gradio_app


def launch(
    page: gr.Blocks,
    login: Login | None,
    routes: list[BaseRoute],
    cors_layer: Callable[[ASGIApp], ASGIApp],
    middleware: Sequence[Middleware],
    appearance: dict[str, Any],
) -> None:
    """Serve the page and `routes` through Gradio's own server; blocks. `cors_layer` replaces Gradio's CORS layer."""
    vars(gradio.routes)["CustomCORSMiddleware"] = lambda app, **_: cors_layer(app)
    sessions.install()
    poll_less(page)
    run_many(page)
    inner = [Middleware(StreamMultiplexer), Middleware(EventStreams, page=page), Middleware(BadRequests)]
    app_kwargs = {"routes": routes, "middleware": [*middleware, *inner]}
    page.launch(auth=login, app_kwargs=app_kwargs, state_session_capacity=sessions.MAX_TABS, **appearance)


def share(host: str, port: int) -> str:
    """Open a public URL for the server at this address, through the tunnel of `launch(share=True)`."""
    return gradio.networking.setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)


def upload_folder() -> Path:
    """The folder where Gradio puts uploads."""
    return Path(get_upload_folder())


def icon_route(icon: Path) -> Route:
    """A route that serves the icon at Gradio's URL for icons of any size. Add it before Gradio's app is mounted."""

    async def pwa_icon(_: Request) -> FileResponse:
        return FileResponse(icon)

    return Route("/pwa_icon/{size}", pwa_icon)
