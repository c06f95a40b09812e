"""The page: its layout, and the event chain around gr.ChatInterface."""

import inspect
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import gradio as gr
import gradio.networking
import gradio.routes
from fastapi import FastAPI
from gradio.components import Component
from starlette.routing import BaseRoute

from chatui import personas
from chatui.chat import Backend, ChatRequest, Message, ModelStatus
from chatui.errors import ChatError, SettingsError
from chatui.security import Login, SecurityMiddleware
from chatui.settings import GenerationSettings
from chatui.ui import controls, header, theme, transcript
from chatui.ui.flow import gathered
from chatui.ui.transcript import GrowingReply, Shown

LONGEST_MESSAGE = 200_000
"""Characters; far beyond any model's context here, and about what a browser still shows without stalling."""

LARGEST_UPLOAD = "1mb"
"""Nothing is uploaded yet, but Gradio's upload route is there."""

LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


def mount(app: FastAPI, backend: Backend, login: Login | None, root_path: str = "") -> FastAPI:
    """Show the page at the root of `app`, which must have a CORS layer of its own and all its other routes."""
    return gr.mount_gradio_app(app, build(backend), path="/", auth=login, root_path=root_path or None, **_appearance())


def launch(backend: Backend, login: Login | None, routes: list[BaseRoute]) -> None:
    """Serve the page and `routes` through Gradio's own server, as ZeroGPU needs it; blocks.

    launch() cannot leave out Gradio's CORS layer, which grants any origin on a public host: ours takes its place.
    """
    gradio.routes.CustomCORSMiddleware = SecurityMiddleware  # type: ignore[misc, assignment]
    build(backend).launch(auth=login, app_kwargs={"routes": routes}, **_appearance())


def share(port: int) -> str:
    """A public address for the server on this port, through the tunnel of `launch(share=True)`. Raises what it may."""
    return gradio.networking.setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)


def build(backend: Backend) -> gr.Blocks:
    """The whole page for one backend."""
    first = personas.PRESETS[0]
    with gr.Blocks(title="chatui", fill_height=True, analytics_enabled=False) as page:
        with gr.Sidebar(position="left", open=False, width=240, elem_id="conversations"):
            gr.Markdown(header.BRAND)
            new_chat = gr.Button("New chat", variant="primary", elem_id="new-chat")
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

        async def follow_model() -> AsyncIterator[Any]:
            """Header and sliders follow the model until it is ready or has failed."""
            async for model in header.changes(backend):
                ready = controls.values_of(model.info.defaults) if model.info else [gr.skip() for _ in settings]
                yield header.status(model), *ready

        page.load(follow_model, None, [status, *settings], concurrency_limit=None, **private)
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


def _panel(first: personas.Persona) -> tuple[Component, Component, list[Component], gr.Button]:
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


class Conversation(gr.ChatInterface):
    """gr.ChatInterface with one event per turn instead of its chain of eight.

    The chain leaves the text box dead after a failure and cannot stop a reply to an edited message. Here every way
    to ask is one generator that shows the question, streams the reply and gives the box back; it never raises.
    """

    def __init__(self, backend: Backend, **components: Any) -> None:
        self._backend = backend
        super().__init__(_api(backend), api_name="chat", editable=True, concurrency_limit=None, **components)

    def add_new_chat(self, button: gr.Button) -> None:
        """Let this button stop the reply and empty the conversation."""
        button.click(
            lambda: ([], _ready(), header.status(self._backend.models()[0])),
            None,
            [self.chatbot, self.textbox, *self.additional_outputs],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
            cancels=self._turns,
        )

    def _setup_events(self) -> None:
        """Called by ChatInterface's constructor once the components are there."""
        outputs: list[Component] = [self.chatbot, self.textbox, *self.additional_outputs]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        turn: dict[str, Any] = {"outputs": outputs, "concurrency_limit": None, **quiet}
        shown: list[Component] = [self.chatbot, *self.additional_inputs]
        self._turns: list[Any] = [
            self.textbox.submit(self._send, [self.textbox, *shown], validator=_check_message, **turn),
            self.chatbot.example_select(self._send_example, shown, validator=_check, **turn),
            self.chatbot.retry(self._retry, shown, validator=_check, **turn),
            self.chatbot.edit(self._edit, shown, validator=_check, **turn),
        ]
        for event in self._turns:
            event.failure(_ready, None, self.textbox, queue=False, **quiet)
        self.textbox.stop(None, None, None, cancels=self._turns, **quiet)
        self.textbox.stop(_stopped, self.chatbot, [self.chatbot, self.textbox], queue=False, **quiet)
        self.chatbot.undo(_undo, self.chatbot, [self.chatbot, self.textbox], queue=False, **quiet)
        self.chatbot.clear(_ready, None, self.textbox, queue=False, cancels=self._turns, **quiet)
        api_inputs = [gr.Textbox(visible=False, label="system_prompt"), *controls.build_api()]
        self.fake_api_btn.click(
            self.fn,
            [self.textbox, self.chatbot_state, *api_inputs],
            [self.api_response, self.chatbot_state],
            api_name=self.api_name,
            api_description="Send a message; yields the reply as it grows. What is left out is the model's default.",
            concurrency_limit=None,
            postprocess=False,
        )

    async def _send(self, message: str, history: list[Shown], *inputs: Any) -> AsyncIterator[Any]:
        async for update in self._turn(message, history, inputs, clear=True):
            yield update

    async def _send_example(self, event: gr.SelectData, history: list[Shown], *inputs: Any) -> AsyncIterator[Any]:
        async for update in self._turn(str(event.value["text"]), history, inputs):
            yield update

    async def _retry(self, event: gr.RetryData, history: list[Shown], *inputs: Any) -> AsyncIterator[Any]:
        before, message = transcript.split_last_turn(history[: _index(event.index) + 1])
        async for update in self._turn(message, before, inputs):
            yield update

    async def _edit(self, event: gr.EditData, history: list[Shown], *inputs: Any) -> AsyncIterator[Any]:
        message = transcript.text_of({"content": event.value})
        async for update in self._turn(message, history[: _index(event.index)], inputs):
            yield update

    async def _turn(
        self, message: str, history: Sequence[Shown], inputs: Sequence[Any], clear: bool = False
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Updates of (chatbot, text box, status) while one message is answered."""
        history = [*history, transcript.user(message)]
        model = self._backend.models()[0]
        reply = GrowingReply()
        yield [*history, *reply.shown(_phase(model, reply))], _busy(clear), header.status(model)
        failure: list[Shown] = []
        try:
            request = _request(str(inputs[0] or ""), transcript.to_messages(history), controls.read(inputs[1:]))
            phase = ""
            async for deltas in gathered(self._backend.stream(request)):
                reply.add(deltas)
                model = self._backend.models()[0]
                phase, before = _phase(model, reply), phase
                if not deltas and phase == before:
                    yield tuple(gr.skip() for _ in range(3))
                else:
                    yield [*history, *reply.shown(phase)], gr.skip(), header.status(model, reply.speed())
        except ChatError as error:
            failure = [transcript.card(error)]
        started = reply.text or reply.reasoning or reply.finish
        parts = [*(reply.shown("") if started else []), *failure]
        yield [*history, *parts], _ready(), header.status(self._backend.models()[0], reply.speed())


def _api(backend: Backend) -> Callable[..., AsyncIterator[str]]:
    """The `/chat` endpoint: (message, history, system_prompt, each setting) -> the reply so far, again and again."""

    async def chat(
        message: str, history: list[dict[str, str]], system_prompt: str | None = None, *values: Any
    ) -> AsyncIterator[Any]:
        said = ""
        try:
            if len(message or "") > LONGEST_MESSAGE:
                raise SettingsError("message", f"is longer than {LONGEST_MESSAGE:,} characters")
            info = backend.models()[0].info
            settings = controls.read_api(
                dict(zip(controls.NAMES, values, strict=True)), info.defaults if info else GenerationSettings()
            )
            earlier = [Message(_role(turn["role"]), turn["content"]) for turn in history]
            messages = [*earlier, Message("user", message or "")]
            async for deltas in gathered(backend.stream(_request(system_prompt or "", messages, settings))):
                if text := "".join(delta.text for delta in deltas):
                    said += text
                    yield said, [*history, {"role": "user", "content": message}, {"role": "assistant", "content": said}]
        except ChatError as error:
            raise gr.Error(str(error), print_exception=False) from error
        yield said, [*history, {"role": "user", "content": message}, {"role": "assistant", "content": said}]

    names = {"message": str, "history": list, "system_prompt": str} | dict.fromkeys(controls.NAMES, Any)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    chat.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, kind, default=inspect.Parameter.empty if position < 2 else None)
            for position, name in enumerate(names)
        ]
    )
    return chat


def _request(system_prompt: str, messages: Sequence[Message], settings: GenerationSettings) -> ChatRequest:
    return ChatRequest((Message("system", system_prompt.strip()), *messages), settings)


def _role(role: str) -> Any:
    return "assistant" if role == "assistant" else "user"


def _index(index: Any) -> int:
    """The position of a message; Gradio gives a pair for a part of a group."""
    return int(index[0] if isinstance(index, list | tuple) else index)


def _phase(model: ModelStatus, reply: GrowingReply) -> str:
    """What goes on before the first text."""
    if model.state == "loading":
        return f"Waiting for the model: {model.phase} …"
    if reply.prompt_tokens is None:
        return "Waiting for its turn …"
    return f"Reading {reply.prompt_tokens:,} tokens …"


def _check_message(message: str, history: list[Shown], *inputs: Any) -> list[Any]:
    wrong = ""
    if not message or not message.strip():
        wrong = "Type a message first."
    elif len(message) > LONGEST_MESSAGE:
        wrong = f"The message has {len(message):,} characters; at most {LONGEST_MESSAGE:,} can be sent."
    return [gr.validate(not wrong, wrong), *_check(history, *inputs)]


def _check(history: list[Shown], system_prompt: str, *values: Any) -> list[Any]:
    fine = gr.validate(True, "")
    return [fine, fine, *(gr.validate(not problem, problem) for problem in controls.problems(values))]


def _busy(clear: bool) -> Any:
    """The text box while a reply is written; what is being typed stays unless it was just sent."""
    return gr.update(submit_btn=False, stop_btn="Stop", **({"value": ""} if clear else {}))


def _ready() -> Any:
    return gr.update(submit_btn="Send", stop_btn=False, interactive=True)


def _stopped(history: list[Shown]) -> tuple[list[Shown], Any]:
    """Keep what was written so far, and mark it."""
    kept = [shown for shown in history if (shown.get("metadata") or {}).get("status") != "pending"]
    return [*kept, transcript.note("Stopped.")], _ready()


def _undo(history: list[Shown]) -> tuple[list[Shown], str]:
    """Take the last turn back into the text box."""
    return transcript.split_last_turn(history)
