"""gr.ChatInterface around a backend: every way to ask, and what the chat shows while it is answered."""

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from chatui.chat import Backend, ChatRequest, Message, ModelStatus
from chatui.errors import ChatError, unexpected
from chatui.ui import controls, endpoint, header, listening, transcript
from chatui.ui.flow import gathered
from chatui.ui.transcript import GrowingReply, Shown

log = logging.getLogger(__name__)


class Conversation(gr.ChatInterface):
    """gr.ChatInterface with one event per turn instead of its chain of eight.

    The chain leaves the text box dead after a failure and cannot stop a reply to an edited message. Here every way
    to ask is one generator that shows the question, streams the reply and gives the box back; it never raises.
    """

    def __init__(self, backend: Backend, **components: Any) -> None:
        self._backend = backend
        super().__init__(endpoint.chat(backend), api_name="chat", editable=True, concurrency_limit=None, **components)

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
        triggers: list[Any] = [self.textbox.submit, self.chatbot.example_select, self.chatbot.retry, self.chatbot.edit]
        self._turns: list[Any] = [
            self.textbox.submit(self._send, [self.textbox, *shown], validator=_check_message, **turn),
            self.chatbot.example_select(self._send_example, shown, validator=_check, **turn),
            self.chatbot.retry(self._retry, shown, validator=_check, **turn),
            self.chatbot.edit(self._edit, shown, validator=_check, **turn),
        ]
        for trigger, event in zip(triggers, self._turns, strict=True):
            event.failure(_ready, None, self.textbox, queue=False, **quiet)
            trigger(None, None, None, cancels=[other for other in self._turns if other is not event], **quiet)
        self.textbox.stop(None, None, None, cancels=self._turns, **quiet)
        self.textbox.stop(_stopped, self.chatbot, [self.chatbot, self.textbox], queue=False, **quiet)
        self.chatbot.undo(_undo, self.chatbot, [self.chatbot, self.textbox], queue=False, cancels=self._turns, **quiet)
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
            persona = Message("system", str(inputs[0] or "").strip())
            request = ChatRequest((persona, *transcript.to_messages(history)), controls.read(inputs[1:]))
            phase = ""
            async with contextlib.aclosing(gathered(self._backend.stream(request))) as batches:
                async for deltas in batches:
                    reply.add(deltas)
                    if listening.nobody_hears():
                        return
                    model = self._backend.models()[0]
                    phase, before = _phase(model, reply), phase
                    if not deltas and phase == before:
                        yield tuple(gr.skip() for _ in range(3))
                    else:
                        yield [*history, *reply.shown(phase)], gr.skip(), header.status(model, reply.speed())
        except ChatError as error:
            failure = [transcript.card(error)]
        except Exception as error:
            log.exception("a turn failed")
            failure = [transcript.card(unexpected(error))]
        started = reply.text or reply.reasoning or reply.finish
        parts = [*(reply.shown("") if started else []), *failure]
        yield [*history, *parts], _ready(), header.status(self._backend.models()[0], reply.speed())


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
    elif len(message) > endpoint.LONGEST_MESSAGE:
        wrong = f"The message has {len(message):,} characters; at most {endpoint.LONGEST_MESSAGE:,} can be sent."
    settings = _check(history, *inputs)
    # Said at the message box too, for a closed sidebar shows nothing.
    wrong = wrong or next((problem["message"] for problem in settings if not problem["is_valid"]), "")
    return [gr.validate(not wrong, wrong), *settings]


def _check(*inputs: Any) -> list[Any]:
    """For (history, system prompt, each setting): what is wrong with it."""
    fine = gr.validate(True, "")
    return [fine, fine, *(gr.validate(not problem, problem) for problem in controls.problems(inputs[2:]))]


def _busy(clear: bool) -> Any:
    """The text box while a reply is written; what is being typed stays unless it was just sent."""
    buttons: dict[str, Any] = {"submit_btn": False, "stop_btn": "Stop"}
    return gr.update(value="", **buttons) if clear else gr.update(**buttons)


def _ready() -> Any:
    return gr.update(submit_btn="Send", stop_btn=False, interactive=True)


def _stopped(history: list[Shown]) -> tuple[list[Shown], Any]:
    return transcript.stopped(history), _ready()


def _undo(history: list[Shown]) -> tuple[list[Shown], Any]:
    """Take the last turn back into the text box."""
    before, message = transcript.split_last_turn(history)
    return before, gr.update(value=message, submit_btn="Send", stop_btn=False)
