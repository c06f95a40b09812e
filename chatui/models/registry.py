"""Backend of several models in one process. Each request names its model, which is loaded on demand."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from chatui.backend import PreviewMemo
from chatui.chat import ChatRequest, LoadOptions, ModelInfo, ModelStatus, Prompt, ReplyDelta, TokenizeRequest, Tokens
from chatui.errors import ModelError
from chatui.metrics import Metrics
from chatui.model_spec import ModelSpec, parse_model_name
from chatui.models.added_models import AddedModelsFile
from chatui.models.instances import Instance, Instances, Memory, SingleModelBackend
from chatui.models.served_models import ServedModel, ServedModels

RETRY_SECONDS = 30.0
"""A model that has failed is loaded again by the first request after this time."""
LINGER_SECONDS = 1.0
"""How long a model stays loaded after its last reply, at least. Its tokenizer writes the reply's inspection then."""

OpenBackend = Callable[[ModelSpec], SingleModelBackend]


class Registry:
    """Backend of several models. The first spec is the default model, which is never removed.

    One thread loads and unloads, so no two models load at once. A model with running or queued replies is never
    unloaded. A model that cannot be loaded fails its own requests only.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        open_backend: OpenBackend,
        memory: Memory,
        idle_unload: float | None = None,
        linger: float = LINGER_SECONDS,
        models_dir: Path | None = None,
        added_file: AddedModelsFile | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`idle_unload` and `linger` are seconds after the last reply: when a model is unloaded, and not before.

        `refresh` reads `models_dir`. Models that were added are kept in `added_file`, and served from the start.
        Replies and models are measured in `metrics`.
        """
        self._metrics = metrics or Metrics()
        self._served = ServedModels(specs, models_dir, added_file.read() if added_file else ())
        self._added_file = added_file
        self._changing_served = threading.Lock()
        self._open_backend = open_backend
        self._instances = Instances(memory, idle_unload, linger)
        self._changed = self._instances.changed
        self._tickets: dict[str, Instance] = {}

    def start(self) -> "Registry":
        """Begin to load the default model, and to serve requests."""
        self.load("")
        self._instances.start()
        return self

    def wait(self) -> ModelInfo:
        """Wait until the default model is loaded. Raises ModelError if it cannot be."""
        instance = self._acquire("")
        try:
            instance.settled.result()
            instance.check()
            return instance.info or instance.backend.wait()
        finally:
            self._instances.release(instance)

    def models(self) -> list[ModelStatus]:
        """The served models, the default one first. `info` of an unloaded one is that of its latest loading."""
        with self._changed:
            return [served.status() for served in self._served]

    def load(self, model: str, options: LoadOptions | None = None) -> None:
        """Begin to load a model, unless it is loaded. One that has failed is tried again. Raises ModelError.

        A model that is loaded otherwise than by these `options` is loaded again, once its replies have ended. Later
        loadings have the same options, as long as they succeed. Raises SettingsError if they are invalid.
        """
        with self._changed:
            served = self._served.get(model)
            instance = served.instance
            if instance is not None and instance.failed_at is not None:
                self._instances.retire(instance)
            if options is not None:
                spec = served.spec.with_options(options)
                if instance is None or instance.retired or instance.spec != spec:
                    self._check_serving()
                    self._open(served, spec)
            self._instances.release(self._acquire(model))

    async def ensure_loaded(self, model: str) -> None:
        """Load a model, unless it is loaded, and wait for it. Raises ModelError."""
        async with self._ready(model):
            pass

    def unload(self, model: str) -> None:
        """Unload a model once its replies have ended. Never blocks. Raises ModelError."""
        with self._changed:
            instance = self._served.get(model).instance
            if instance is not None:
                self._instances.retire(instance)

    def add(self, source: str, revision: str | None = None) -> str:
        """Serve one more model, a name on the Hub or a path, and return its name. It is served after a restart too.

        It has the default model's settings. A model that is served already gets the revision, from its next loading.
        """
        name, in_url = parse_model_name(source)
        revision = revision or in_url
        with self._changing_served:
            with self._changed:
                served = self._served.find(name)
                if served is None:
                    served = self._served.append(name, revision, added=True)
                elif revision is not None:
                    served.spec = replace(served.spec, revision=revision)
            self._save_added()
        return served.name

    def remove(self, model: str) -> None:
        """Serve a model no longer. It is unloaded once its replies have ended. Raises ModelError."""
        with self._changing_served:
            with self._changed:
                served = self._served.get(model)
                if served is self._served.default:
                    raise ModelError(f"{served.name} is the default model.", "Start the server with another --model.")
                self._drop(served)
            self._save_added()

    def refresh(self) -> None:
        """Serve what is new in `models_dir`. What has gone, there or of the added models, is served no longer."""
        with self._changing_served:
            in_folder = self._served.in_folder()
            with self._changed:
                _, *others = self._served
            gone = [served for served in others if self._served.is_gone(served, in_folder)]
            with self._changed:
                for served in gone:
                    self._drop(served)
                for path in in_folder or ():
                    if self._served.find(path) is None:
                        self._served.append(path)
            if any(served.added for served in gone):
                self._save_added()

    def admit(self, user: str, model: str = "") -> str:
        """Reserve a place in the model's queue. The model stays loaded until the ticket is used or released."""
        instance = self._acquire(model)
        try:
            ticket = instance.backend.admit(user)
        except BaseException:
            self._instances.release(instance)
            raise
        with self._changed:
            self._tickets[ticket] = instance
        return ticket

    def release_ticket(self, ticket: str) -> None:
        """Give up a reserved place. Does nothing if its request has already arrived."""
        with self._changed:
            instance = self._tickets.pop(ticket, None)
        if instance is not None:
            instance.backend.release_ticket(ticket)
            self._instances.release(instance)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """Generate the reply with the model that the request names. Loads it first if it is not loaded."""
        with self._changed:
            instance = self._tickets.pop(request.ticket, None)
        if instance is None:
            instance = self._acquire(request.model)
        try:
            with self._metrics.reply(instance.name) as measured:
                async with aclosing(instance.backend.stream(request)) as reply:
                    async for delta in reply:
                        measured.add(delta)
                        yield delta
        finally:
            self._instances.release(instance)

    async def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt | None:
        """The prompt that this request would have; None while its model is not loaded. Raises ChatError."""
        instance = self._loaded(request.model)
        if instance is None:
            return None
        try:
            # What a memo holds is of one tokenizer.
            return await instance.backend.preview(request, None if memo is None else memo.setdefault(instance.name, {}))
        finally:
            self._instances.release(instance)

    def decode_tokens(self, ids: set[int], model: str = "") -> dict[int, str]:
        """The text of each token of the model by itself; empty while it is not loaded. Thread-safe."""
        instance = self._loaded(model)
        if instance is None:
            return {}
        try:
            return instance.backend.decode_tokens(ids)
        finally:
            self._instances.release(instance)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """The tokens of a text or a prompt. Loads the model first if it is not loaded. Raises ChatError."""
        async with self._ready(request.model) as backend:
            return await backend.tokenize(request)

    async def detokenize(self, ids: Sequence[int], model: str = "") -> str:
        """The text of these tokens. Loads the model first if it is not loaded. Raises ChatError."""
        async with self._ready(model) as backend:
            return await backend.detokenize(ids)

    def answer_now(self, ticket: str) -> None:
        """End the thought of the running reply with this ticket, whichever model writes it."""
        with self._changed:
            instances = list(self._instances.all)
        for instance in instances:
            instance.backend.answer_now(ticket)

    async def activity(self, model: str = "") -> None:
        """Nothing: the models are in this process."""

    def forget(self, chat: str) -> None:
        """Release the KV cache of a temporary chat, in every model."""
        with self._changed:
            instances = list(self._instances.all)
        for instance in instances:
            instance.backend.forget(chat)

    async def close(self) -> None:
        """Stop all replies and unload all models."""
        await self._instances.close()

    def _drop(self, served: ServedModel) -> None:
        """Serve a model no longer."""
        self._served.remove(served)
        if served.instance is not None:
            self._instances.retire(served.instance)

    def _save_added(self) -> None:
        with self._changed:
            added = [(served.spec.name, served.spec.revision) for served in self._served if served.added]
        if self._added_file is not None:
            self._added_file.write(added)

    def _acquire(self, model: str) -> Instance:
        """The instance for a new request, which is one of its users until it is released."""
        with self._changed:
            self._check_serving()
            served = self._served.get(model)
            instance = served.instance
            if instance is None or instance.retired or _may_retry(instance):
                instance = self._open(served)
            self._instances.acquire(instance)
            return instance

    @asynccontextmanager
    async def _ready(self, model: str) -> AsyncGenerator[SingleModelBackend]:
        """The backend of a model, loaded first if it is not, and kept loaded inside. Raises ModelError."""
        instance = self._acquire(model)
        try:
            await asyncio.shield(asyncio.wrap_future(instance.settled))
            instance.check()
            yield instance.backend
        finally:
            self._instances.release(instance)

    def _check_serving(self) -> None:
        """Raise ModelError if the server is shutting down."""
        if self._instances.closing:
            raise ModelError("The server is shutting down.", "Start it again.")

    def _loaded(self, model: str) -> Instance | None:
        """The loaded instance of a model, which has one user more until it is released; None if there is none."""
        with self._changed:
            name = self._served.get(model).name
            found = next((each for each in self._instances.all if each.name == name and each.loaded), None)
            if found is not None:
                self._instances.acquire(found)
            return found

    def _open(self, served: ServedModel, spec: ModelSpec | None = None) -> Instance:
        """A new instance, which the thread loads as the latest one was loaded, unless a `spec` is given."""
        previous = served.instance
        if spec is None:
            keeps = previous is not None and previous.failed_at is None
            spec = replace(previous.spec, revision=served.spec.revision) if previous and keeps else served.spec
        if previous is not None:
            served.status()
            self._instances.retire(previous)
        served.instance = Instance(served.name, spec, self._open_backend(spec))
        self._metrics.watch(served.name, served.instance.backend)
        self._instances.add(served.instance)
        return served.instance


def _may_retry(instance: Instance) -> bool:
    """Whether the model has failed, now or while it was loaded, and may be loaded once more."""
    if instance.loaded and instance.status.state == "failed":
        instance.failed_at = time.monotonic()
    return instance.failed_at is not None and time.monotonic() - instance.failed_at >= RETRY_SECONDS
