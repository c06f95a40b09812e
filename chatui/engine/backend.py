"""The backend of one model in this process: implements Backend by a queue and a thread. Knows no torch."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

from chatui.backend import PreviewMemo
from chatui.chat import ChatRequest, LoadOptions, ModelInfo, ModelStatus, Prompt, ReplyDelta, TokenizeRequest, Tokens
from chatui.engine.model_thread import ModelThread, closed_error
from chatui.engine.request_queue import Job, RequestQueue
from chatui.engine.runners.contract import Loader, ModelRunner, ReportPhase
from chatui.errors import ChatError, ModelError
from chatui.gc_pause import gc_paused
from chatui.model_spec import ModelSpec
from chatui.settings import AppSettings

CLOSE_TIMEOUT_SECONDS = 10.0


def load_transformers(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> ModelRunner:
    """The model through transformers. Importing that takes seconds, so it happens here, in the model's thread."""
    report("importing torch and transformers")
    with gc_paused():
        from chatui.engine.outline import outline
        from chatui.engine.runners.open_model import open_model

    if spec.context is not None:
        report("comparing it with the free memory")
        outline(spec).check_memory()
    return open_model(spec, cache_dir, report)


class LocalBackend:
    """A transformers model in this process. Loading starts in the background with `start()`."""

    def __init__(
        self,
        spec: ModelSpec,
        cache_dir: Path,
        loader: Loader = load_transformers,
        max_waiting: int = AppSettings.model_fields["queue"].default,
    ) -> None:
        """At most `max_waiting` requests wait; more are refused."""
        self.queue = RequestQueue(max_waiting)
        self.thread = ModelThread(spec, cache_dir, loader, self.queue)

    @property
    def on_step(self) -> Callable[[float], None] | None:
        """Called with the seconds of each step of the model, in its thread."""
        return self.thread.on_step

    @on_step.setter
    def on_step(self, on_step: Callable[[float], None] | None) -> None:
        self.thread.on_step = on_step

    def load_in_this_thread(self) -> "LocalBackend":
        """Load the model in this thread, and wait for it; `start()` would do so in the background."""
        self.thread.load()
        return self

    def start(self) -> "LocalBackend":
        """Begin to load the model, unless it is, and to answer."""
        self.thread.start()
        return self

    def wait(self) -> ModelInfo:
        """Wait until the model is ready. Raises ModelError where it has failed."""
        self.thread.settled.wait()
        status = self.thread.status
        if status.info is None:
            raise status.error or ModelError("The model is not loaded.")
        return status.info

    def models(self) -> list[ModelStatus]:
        """The one model, and whether it is ready."""
        return [self.thread.status]

    def load(self, model: str, options: LoadOptions | None = None) -> None:
        """Nothing: `start()` has begun to load the one model."""

    async def ensure_loaded(self, model: str) -> None:  # noqa: ARG002
        """Wait until the one model is ready. Raises ModelError where it has failed."""
        await asyncio.to_thread(self.wait)

    def unload(self, model: str) -> None:
        """Refused: `close()` ends the one model, and this backend with it. Raises ModelError."""
        raise ModelError(f"{model} is the only model here.", "Stop the server instead.")

    def add(self, source: str, revision: str | None = None) -> str:  # noqa: ARG002
        """Refused: this backend has one model. Raises ModelError."""
        raise ModelError(f"{source} cannot be added to a server of one model.", "Start it again with --model.")

    def remove(self, model: str) -> None:
        """Refused: this backend has one model. Raises ModelError."""
        raise ModelError(f"{model} is the only model here.", "Stop the server instead.")

    def refresh(self) -> None:
        """Nothing: there is no folder of models."""

    def admit(self, user: str, model: str = "") -> str:  # noqa: ARG002
        """A ticket for a request of this user that is about to come, which keeps its place. Raises OverloadError."""
        return self.queue.reserve(user)

    def release_ticket(self, ticket: str) -> None:
        """The request will not come; nothing where it has come."""
        self.queue.release(ticket)

    def answer_now(self, ticket: str) -> None:
        """End the thought of the running reply with this ticket before the next step."""
        self.thread.answer_now(ticket)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """The reply, piece by piece, when its turn has come. Raises ChatError."""
        job = Job(request, asyncio.get_running_loop())
        with self.queue.changed:
            self.thread.check_open()
            self.queue.put(job)
        try:
            while (event := await job.events.get()) is not None:
                if isinstance(event, ChatError):
                    raise event
                yield event
        finally:
            job.cancelled.set()
            self.queue.remove(job)

    async def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt | None:
        """The prompt that this would become, or None while the model is loading. Raises ChatError."""
        model = self.thread.model
        return None if model is None else await asyncio.to_thread(model.preview, request, memo)

    def decode_tokens(self, ids: set[int], model: str = "") -> dict[int, str]:  # noqa: ARG002
        """The text of each token by itself, for a part of a character its bytes as <0xE2>; called in any thread."""
        return {} if (loaded := self.thread.model) is None else loaded.decode_tokens(ids)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """The tokens of a text or a prompt. Waits while the model is loading. Raises ChatError."""
        return await asyncio.to_thread(lambda: self._ready_model().tokenize(request))

    async def detokenize(self, ids: Sequence[int], model: str = "") -> str:  # noqa: ARG002
        """The text of these tokens. Waits while the model is loading. Raises ChatError."""
        return await asyncio.to_thread(lambda: self._ready_model().detokenize(ids))

    def kv_usage(self) -> float:
        """The share of the K/V cache that running replies fill, from 0 to 1; 0 without a model. Thread-safe."""
        return 0.0 if (model := self.thread.model) is None else model.kv_usage()

    def _ready_model(self) -> ModelRunner:
        """The model, once it is loaded. Raises ModelError where it has failed or was let go of."""
        self.wait()
        if self.thread.model is None:
            raise closed_error()
        return self.thread.model

    async def activity(self, model: str = "") -> None:
        """Nothing: the model is in this process."""

    def forget(self, chat: str) -> None:
        """Let go of the keys and values of this chat before the next step, or once its last reply is over."""
        self.thread.forget(chat)

    async def close(self) -> None:
        """End the replies being written and those waiting, and let go of the model."""
        self.thread.close()
        if self.thread.is_alive():
            await asyncio.to_thread(self.thread.join, CLOSE_TIMEOUT_SECONDS)
