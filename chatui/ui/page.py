"""The page: its layout, and how it is put on a server."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
import gradio.networking
import gradio.routes
from fastapi import FastAPI
from gradio.components import Component
from starlette.routing import BaseRoute

from chatui import personas
from chatui.chat import Backend
from chatui.security import Login, SecurityMiddleware
from chatui.settings import GenerationSettings
from chatui.ui import controls, header, theme
from chatui.ui.conversation import Conversation

LARGEST_UPLOAD = "1mb"
"""Nothing is uploaded yet, but Gradio's upload route is there."""

LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


def mount(app: FastAPI, backend: Backend, login: Login | None, root_path: str = "") -> None:
    """Show the page at the root of `app`, which must have a CORS layer of its own and all its other routes."""
    gr.mount_gradio_app(app, build(backend), path="/", auth=login, root_path=root_path or None, **_appearance())


def launch(backend: Backend, login: Login | None, routes: list[BaseRoute]) -> None:
    """Serve the page and `routes` through Gradio's own server, as ZeroGPU needs it; blocks.

    launch() cannot leave out Gradio's CORS layer, which grants any origin on a public host: ours takes its place.
    """
    vars(gradio.routes)["CustomCORSMiddleware"] = lambda app, **_: SecurityMiddleware(app)
    build(backend).launch(auth=login, app_kwargs={"routes": routes}, **_appearance())


def share(port: int) -> str:
    """A public address for the server on this port, through the tunnel of `launch(share=True)`. Raises what it may."""
    return gradio.networking.setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)


def build(backend: Backend) -> gr.Blocks:
    """The whole page for one backend."""
    first = personas.PRESETS[0]
    page = gr.Blocks(title="chatui", fill_height=True, analytics_enabled=False)
    with page:
        with gr.Sidebar(position="left", open=True, width=220, elem_id="conversations"):
            gr.Markdown(header.BRAND)
            new_chat = gr.Button("New chat", variant="primary", elem_id="new-chat")
            gr.Markdown(header.KEPT)
        with gr.Sidebar(position="right", open=True, width=320, elem_id="settings"):
            persona, system_prompt, settings, reset = _panel(first)
        status = gr.Markdown(header.status(backend.models()[0]), elem_id="status")
        chat = Conversation(
            backend,
            chatbot=_chatbot(first),
            textbox=_textbox(),
            additional_inputs=[system_prompt, *settings],
            additional_outputs=[status],
            examples=[[example] for example in first.examples],
        )
        chat.add_new_chat(new_chat)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        persona.input(_choose_persona, persona, [system_prompt, chat.chatbot], queue=False, **private)
        reset.click(lambda: _defaults(backend), None, settings, queue=False, **private)

        ours = controls.values_of(GenerationSettings())

        async def follow_model() -> AsyncIterator[list[Any]]:
            """The header follows the model until it is ready or has failed.

            The settings are written once more at the start: the browser makes 0 of a number that is empty at first.
            """
            values = ours
            async for model in header.changes(backend):
                yield [header.status(model), *values]
                values = [gr.skip() for _ in settings]

        def adopt_defaults(*shown: Any) -> list[Any]:
            """The model's own defaults for all that the user has not moved meanwhile."""
            changes = zip(shown, ours, _defaults(backend), strict=True)
            return [default if value == before else gr.skip() for value, before, default in changes]

        loaded = page.load(follow_model, None, [status, *settings], concurrency_limit=None, **private)
        loaded.then(adopt_defaults, settings, settings, queue=False, **private)
    return page


def _appearance() -> dict[str, Any]:
    return {
        "theme": theme.theme(),
        "head": theme.HEAD,
        "footer_links": [],
        "run_history": False,
        "favicon_path": str(theme.FAVICON),
        "show_error": False,
        "enable_monitoring": False,
        "max_file_size": LARGEST_UPLOAD,
    }


def _panel(first: personas.Persona) -> tuple[gr.Dropdown, gr.Textbox, list[Component], gr.Button]:
    """Persona and settings: (choice, system prompt, settings, reset)."""
    gr.Markdown("### Persona")
    persona = gr.Dropdown(
        [preset.label for preset in personas.PRESETS], value=first.label, label="Preset", elem_id="persona"
    )
    system_prompt = gr.Textbox(
        first.system_prompt,
        label="System prompt",
        info="What the model is told before the conversation. Yours to change.",
        lines=4,
        max_lines=10,
        elem_id="system-prompt",
    )
    gr.Markdown("### Generation")
    settings = controls.build()
    reset = gr.Button("Reset to the model's defaults", size="sm", elem_id="reset")
    return persona, system_prompt, settings, reset


def _chatbot(first: personas.Persona) -> gr.Chatbot:
    return gr.Chatbot(
        elem_id="chat",
        label="Conversation",
        show_label=False,
        container=False,
        height=None,
        scale=1,
        layout="bubble",
        editable="user",
        buttons=["copy", "copy_all"],
        latex_delimiters=LATEX,
        placeholder=header.greeting(first),
        feedback_options=None,
    )


def _textbox() -> gr.Textbox:
    return gr.Textbox(
        elem_id="message",
        label="Message",
        placeholder="Message the model …",
        lines=1,
        max_lines=8,
        autofocus=True,
        submit_btn="Send",
        stop_btn="Stop",
        scale=7,
    )


def _examples(persona: personas.Persona) -> list[dict[str, str]]:
    return [{"text": example} for example in persona.examples]


def _choose_persona(label: str) -> tuple[str, Any]:
    persona = personas.find(label) or personas.PRESETS[0]
    return persona.system_prompt, gr.update(placeholder=header.greeting(persona), examples=_examples(persona))


def _defaults(backend: Backend) -> list[Any]:
    info = backend.models()[0].info
    return controls.values_of(info.defaults if info else GenerationSettings())
