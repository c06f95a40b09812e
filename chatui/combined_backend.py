"""One backend over several: the models of this process and those of servers, side by side."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from chatui.backend import NO_OWN_MODELS, Backend, PreviewMemo, StartableBackend
from chatui.chat import ChatRequest, LoadOptions, ModelInfo, ModelStatus, Prompt, ReplyDelta, TokenizeRequest, Tokens
from chatui.errors import ModelError
from chatui.server_facts import ServerActivity


class CombinedBackend:
    """Backends whose models stand in one list, those of the first one first. A request goes to who has its model.

    Of two models with the same name the first is served; the other one can be told apart by a name of its backend.
    """

    def __init__(self, backends: Sequence[StartableBackend], local: Backend | None = None) -> None:
        """`local` is the one of them whose models are in this process, which takes new ones."""
        self._backends, self._local = list(backends), local
        self._tickets: dict[str, Backend] = {}

    def start(self) -> "CombinedBackend":
        """Begin to serve requests."""
        for backend in self._backends:
            backend.start()
        return self

    def wait(self) -> ModelInfo:
        """Wait until the default model answers. Raises ModelError if it does not."""
        return self._backends[0].wait()

    def models(self) -> list[ModelStatus]:
        """The models of all backends."""
        found: dict[str, ModelStatus] = {}
        for backend in self._backends:
            for status in backend.models():
                found.setdefault(status.name, status)
        return list(found.values())

    def load(self, model: str, options: LoadOptions | None = None) -> None:
        """Begin to load a model, unless it is loaded. Raises ModelError."""
        self._owner(model).load(model, options)

    async def ensure_loaded(self, model: str) -> None:
        """Wait until a model answers. Raises ModelError."""
        await self._owner(model).ensure_loaded(model)

    def unload(self, model: str) -> None:
        """Unload a model of this process. Raises ModelError."""
        self._owner(model).unload(model)

    def add(self, source: str, revision: str | None = None) -> str:
        """Serve one more model in this process. Raises ModelError."""
        if self._local is None:
            raise ModelError(*NO_OWN_MODELS)
        return self._local.add(source, revision)

    def remove(self, model: str) -> None:
        """Serve a model no longer. Raises ModelError."""
        self._owner(model).remove(model)

    def refresh(self) -> None:
        """Look for new models."""
        for backend in self._backends:
            backend.refresh()

    def admit(self, user: str, model: str = "") -> str:
        """Reserve a place in the queue of a model's backend. Raises OverloadError."""
        backend = self._owner(model)
        ticket = backend.admit(user, model)
        self._tickets[ticket] = backend
        return ticket

    def release_ticket(self, ticket: str) -> None:
        """Give up a reserved place. Does nothing if its request has already arrived."""
        backend = self._tickets.pop(ticket, None)
        if backend is not None:
            backend.release_ticket(ticket)

    def answer_now(self, ticket: str) -> None:
        """End the thought of the running reply with this ticket."""
        for backend in self._backends:
            backend.answer_now(ticket)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """Generate the reply with the backend that has the model."""
        backend = self._owner(request.model)
        if request.ticket and self._tickets.get(request.ticket) is not backend:
            self.release_ticket(request.ticket)  # the model has gone to another backend in the meantime
            request = replace(request, ticket="")
        async with aclosing(backend.stream(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt | None:
        """The prompt that this request would have, where it is known. Raises ChatError."""
        return await self._owner(request.model).preview(request, memo)

    def decode_tokens(self, ids: set[int], model: str = "") -> dict[int, str]:
        """The text of each token of a model. Thread-safe."""
        return self._owner(model).decode_tokens(ids, model)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """The tokens of a text or a prompt. Raises ChatError."""
        return await self._owner(request.model).tokenize(request)

    async def detokenize(self, ids: Sequence[int], model: str = "") -> str:
        """The text of these tokens. Raises ChatError."""
        return await self._owner(model).detokenize(ids, model)

    async def activity(self, model: str = "") -> ServerActivity | None:
        """What the servers of a model tell of themselves now. Raises ModelError if there is no such model."""
        return await self._owner(model).activity(model)

    def forget(self, chat: str) -> None:
        """Release what is cached of a temporary chat."""
        for backend in self._backends:
            backend.forget(chat)

    async def close(self) -> None:
        """Stop all replies."""
        for backend in self._backends:
            with contextlib.suppress(Exception):
                await backend.close()

    def _owner(self, model: str) -> Backend:
        """The backend that has a model, by its name or its source; the first one for "". Raises ModelError."""
        if not model:
            return self._backends[0]
        listed = [(backend, backend.models()) for backend in self._backends]
        for backend, statuses in listed:
            if any(status.name == model for status in statuses):
                return backend
        for backend, statuses in listed:
            if any(status.source == model for status in statuses):
                return backend
        for backend, statuses in listed:  # until its servers have answered, a backend's name stands for its models
            if any(model.startswith(f"{status.name}/") and status.info is None for status in statuses):
                return backend
        names = ", ".join(status.name for status in self.models()[:20])
        raise ModelError(f"The model {model} is not served here.", f"Choose one of these: {names}.")
