"""The chat as a Gradio API endpoint, its parameters named like the settings."""

import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from chatui.backend import Backend
from chatui.chat import ChatRequest, Message
from chatui.errors import ChatError, SettingsError, unexpected
from chatui.generation_settings import GenerationSettings
from chatui.ui.gradio_compat import request_context
from chatui.ui.persona import setting_controls
from chatui.ui.shared.model_access import ModelAccess
from chatui.ui.shared.redraw import batch_deltas

log = logging.getLogger(__name__)

MAX_MESSAGE_LENGTH = 200_000
"""Characters: far more than fits a model's context, and about what a browser shows without stalling."""

HistoryMessage = dict[str, str]


def chat(backend: Backend, access: ModelAccess) -> Callable[..., AsyncIterator[tuple[str, list[HistoryMessage]]]]:
    """The `/chat` endpoint: (message, history, system_prompt, each setting, model) -> stream of (reply, history).

    Gradio keeps the history of each client. A setting that is None is the model's default. Errors become gr.Error.
    """

    async def chat(
        message: str, history: list[HistoryMessage], system_prompt: str | None, *values: Any
    ) -> AsyncIterator[tuple[str, list[HistoryMessage]]]:
        turns = [*history, {"role": "user", "content": message or ""}]
        text = ""
        try:
            _check_message(message or "")
            *chosen, name = values
            model = access.choose(name)
            if model.info is None:
                await backend.ensure_loaded(model.name)
                model = access.choose(name)
            info = model.info
            defaults = info.defaults if info else GenerationSettings()
            settings = setting_controls.read_api(dict(zip(setting_controls.NAMES, chosen, strict=True)), defaults)
            persona = Message("system", (system_prompt or "").strip())
            messages = (Message("user" if turn["role"] == "user" else "assistant", turn["content"]) for turn in turns)
            user = request_context.fair_queue_user()
            stream = backend.stream(ChatRequest((persona, *messages), settings, model.name, user))
            async with contextlib.aclosing(batch_deltas(stream)) as batches:
                async for deltas in batches:
                    if request_context.is_abandoned():
                        return
                    for delta in deltas:
                        text, _ = delta.apply_to(text, "")
                    yield text, [*turns, {"role": "assistant", "content": text}]
        except ChatError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            log.exception("a call of /chat failed")
            raise gr.Error(str(unexpected(error)), print_exception=False) from error

    chat.__signature__ = _signature()  # type: ignore[attr-defined]
    return chat


def _check_message(message: str) -> None:
    """Raise SettingsError for a message that cannot be sent."""
    if not message.strip():
        raise SettingsError("message", "there is nothing to answer.")
    if len(message) > MAX_MESSAGE_LENGTH:
        raise SettingsError("message", f"at most {MAX_MESSAGE_LENGTH:,} characters can be sent.")


def _signature() -> inspect.Signature:
    """The signature from which Gradio takes the endpoint's parameter names; those with a default are optional."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    required = [inspect.Parameter(name, kind) for name in ("message", "history")]
    optional = [
        inspect.Parameter(name, kind, default=None) for name in ("system_prompt", *setting_controls.NAMES, "model")
    ]
    return inspect.Signature(required + optional)
