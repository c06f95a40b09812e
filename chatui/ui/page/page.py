"""Builds the page from its parts, and mounts it on a server."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.components import Component
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from chatui import personas
from chatui.body_limit import MAX_UPLOAD_BYTES, BodyLimit, UploadLimit
from chatui.i18n import N_
from chatui.models.services import ModelServices
from chatui.owners import Cookies, OwnerMiddleware
from chatui.runner import Runner
from chatui.security import Login, SecurityMiddleware
from chatui.store.logins import Logins
from chatui.store.owner_store import OwnerStore
from chatui.ui.chat.conversation import Conversation
from chatui.ui.gradio_compat import login_tokens, page_html, request_context, serving, sessions
from chatui.ui.gradio_compat.page_blocks import PageBlocks
from chatui.ui.gradio_compat.request_turns import RequestTurns
from chatui.ui.inspector.inspector_panel import InspectorPanel
from chatui.ui.markdown import markdown_escape
from chatui.ui.models.models_panel import ModelsPanel
from chatui.ui.models.tabs import ModelsContext
from chatui.ui.page import cache_headers, head, page_language, theme
from chatui.ui.page.model_events import ModelEvents
from chatui.ui.persona import setting_controls
from chatui.ui.persona.persona_panel import PersonaPanel
from chatui.ui.shared import continuing, header, model_picker
from chatui.ui.shared.model_access import ModelAccess
from chatui.ui.sidebar.sidebar import Sidebar, footer_html

COMPRESSION_LEVEL = 1
"""Gzip's level for responses that Gradio does not compress: a page to a seventh, in a millisecond."""

HEAD = (
    f'<link rel="icon" type="image/svg+xml" href="{cache_headers.versioned_url("favicon.svg")}">'
    f'<link rel="stylesheet" href="{cache_headers.versioned_url("chatui.css")}">'
    f'<link rel="stylesheet" href="{cache_headers.versioned_url("personas.css")}">'
    f'<link rel="stylesheet" href="{cache_headers.versioned_url("inspector.css")}">'
    f'<link rel="stylesheet" href="{cache_headers.versioned_url("models.css")}">'
    f'<script defer src="{cache_headers.versioned_url("chatui.js")}"></script>'
    f'<script defer src="{cache_headers.versioned_url("focus.js")}"></script>'
    f'<script defer src="{cache_headers.versioned_url("changes.js")}"></script>'
    f'<script defer src="{cache_headers.versioned_url("models.js")}"></script>'
    f'<link rel="stylesheet" href="{cache_headers.versioned_url("tour.css")}">'
    f'<script defer src="{cache_headers.versioned_url("tour.js")}"></script>'
)

LoginOf = Callable[[Request], str | None]


def mount(
    app: FastAPI,
    runner: Runner,
    services: ModelServices,
    cookies: Cookies,
    login: Login | None,
    logins: Logins | None,
    root_path: str = "",
) -> LoginOf:
    """Mount the page at the root of `app`, which must have a CORS layer and all its other routes already.

    Returns a function that returns the user who is logged in with a request.
    """
    page = build(runner, services, logs_out=logins is not None)
    gradio_app = serving.mount(app, page, login, root_path, _appearance())
    if logins is not None:
        login_tokens.install(app, gradio_app, logins, cookies.instance, runner.persistent_store.notifications)

    def login_of(request: Request) -> str | None:
        return login_tokens.login_of(gradio_app, request)

    gradio_app.add_middleware(RequestTurns)  # within the next one, which waits for the store
    gradio_app.add_middleware(page_html.HtmlMiddleware, rewrite=head.rewrite, prefill=_prefill(page, login, login_of))
    gradio_app.add_middleware(page_language.LanguageMiddleware)
    app.add_middleware(cache_headers.CacheHeaders)
    app.add_middleware(GZipMiddleware, compresslevel=COMPRESSION_LEVEL)
    return login_of


def _prefill(
    page: PageBlocks, login: Login | None, login_of: LoginOf
) -> Callable[[Request], AbstractAsyncContextManager[None]]:
    """A function that returns the context in which the page is sent: prefilled, unless a required login is missing."""

    def prefill(request: Request) -> AbstractAsyncContextManager[None]:
        name = login_of(request)
        return contextlib.nullcontext() if login is not None and name is None else page.prefilled(request, name)

    return prefill


def launched_login_of(request: Request) -> str | None:
    """The user who is logged in with a request, if served by launch(): Gradio's app is then the outermost one."""
    return login_tokens.login_of(request.app, request)


def launch(
    runner: Runner,
    services: ModelServices,
    cookies: Cookies,
    login: Login | None,
    routes: list[BaseRoute],
    uploads: UploadLimit | None = None,
) -> None:
    """Serve the page and `routes` through Gradio's own server, as ZeroGPU needs it; blocks."""
    page = build(runner, services)

    def cors_layer(app: ASGIApp) -> ASGIApp:
        return SecurityMiddleware(BodyLimit(OwnerMiddleware(RequestTurns(app), cookies), uploads))

    prefill = _prefill(page, login, launched_login_of)
    middleware = [
        Middleware(GZipMiddleware, compresslevel=COMPRESSION_LEVEL),
        Middleware(cache_headers.CacheHeaders),
        Middleware(page_language.LanguageMiddleware),
        Middleware(page_html.HtmlMiddleware, rewrite=head.rewrite, prefill=prefill),
    ]
    serving.launch(page, login, routes, cors_layer, middleware, _appearance())


@serving.without_apps()
def build(runner: Runner, services: ModelServices, logs_out: bool = False) -> PageBlocks:
    """Build the page for a runner and the models of this machine; with `logs_out` it has a button to log out."""
    first = personas.PRESETS[0]
    backend = runner.backend
    access = ModelAccess(backend, services.permissions)
    page = PageBlocks(title="chatui", fill_height=True, analytics_enabled=False)
    page.state_session_capacity = sessions.MAX_TABS
    with page:
        with gr.Sidebar(position="left", open=True, width="16.25rem", elem_id="conversations"):
            sidebar = Sidebar(logs_out)
        with gr.Sidebar(position="right", open=False, width="20rem", elem_id="settings"):
            panel = PersonaPanel(lambda: _owner_store(runner))
            model = model_picker.build(backend.models()[:1])
            start_with, settings, reset = _generation_settings()
        status = gr.Markdown(header.status(backend.models()[0]), elem_id="status")
        chat = Conversation(
            page,
            runner,
            panel,
            sidebar,
            access,
            chatbot=_chatbot(first),
            textbox=_textbox(),
            additional_inputs=[model, start_with, *settings],
            additional_outputs=[status],
            examples=[[example] for example in first.examples],
        )
        context = gr.Markdown(elem_id="context")
        models = ModelsPanel(ModelsContext(backend, services.overviews, access, chat, services.downloads, model))
        models.connect()
        inspector = InspectorPanel()
        chat.connect(inspector, context)
        panel.connect(chat.chatbot, settings, model=lambda name: access.find(name).name, picker=model)
        events = ModelEvents(backend, access, model, settings, start_with, status)
        events.connect_start(page, reset)
        events.connect_picker(models)
        page.localize(chat.chatbot, placeholder=lambda: header.greeting(personas.translated(first)))
        page.localize(status, value=lambda: header.status(backend.models()[0]))
        _localize(page, sidebar, inspector)
    return page


def _localize(page: PageBlocks, sidebar: Sidebar, inspector: InspectorPanel) -> None:
    """Compute what these parts show for each language."""
    page.localize(sidebar.footer, value=footer_html)
    for part, colours in inspector.localized_colours().items():
        page.localize(part, color_map=colours)


def _owner_store(runner: Runner) -> OwnerStore | None:
    """The store of the running event's user; None if the browser takes no cookies."""
    owner = request_context.owner()
    return runner.owner_store(owner) if owner else None


def _generation_settings() -> tuple[gr.Textbox, list[Component], gr.Button]:
    """The reply's prefix, the generation settings and the button that resets them, rendered in the current context."""
    gr.Markdown(N_("### Generation"))
    start_with = gr.Textbox(
        label=N_("Start the reply with"),
        info=continuing.START_INFO,
        lines=1,
        max_lines=6,
        elem_id="start-with",
    )
    settings = setting_controls.build()
    reset = gr.Button(N_("Reset to the model's defaults"), size="sm", elem_id="reset")
    return start_with, settings, reset


def _appearance() -> dict[str, Any]:
    return {
        "theme": theme.theme(),
        "head": HEAD,
        "footer_links": [],
        "run_history": False,
        "favicon_path": str(theme.FAVICON),
        "show_error": False,
        "enable_monitoring": False,
        "max_file_size": MAX_UPLOAD_BYTES,
    }


def _chatbot(first: personas.Persona) -> gr.Chatbot:
    return gr.Chatbot(
        elem_id="chat",
        label=N_("Conversation"),
        show_label=False,
        container=False,
        height=None,
        scale=1,
        layout="bubble",
        editable="user",
        buttons=["copy", "copy_all"],
        latex_delimiters=markdown_escape.DELIMITERS,
        placeholder=header.greeting(first),
        feedback_options=["Like", "Dislike"],
    )


def _textbox() -> gr.Textbox:
    return gr.Textbox(
        elem_id="message",
        label=N_("Message"),
        placeholder=N_("Message the model …"),
        lines=1,
        max_lines=8,
        autofocus=True,
        submit_btn=N_("Send"),
        stop_btn=N_("Stop"),
        scale=7,
    )
