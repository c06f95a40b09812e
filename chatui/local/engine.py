"""The thread that owns the model, and its queue: implements Backend with one reply at a time. Knows no torch."""

import asyncio
import contextlib
import contextvars
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from chatui.catalogue import ModelSpec
from chatui.chat import ChatRequest, ModelInfo, ModelStatus, ReplyDelta
from chatui.errors import ChatError, GenerationError, ModelError
from chatui.imports import uncollected

log = logging.getLogger(__name__)

Report = Callable[[str], None]
Reply = Callable[[ChatRequest, float], Generator[ReplyDelta]]
"""(request, seconds waited in the queue) -> the reply; closing the iterator ends it."""


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """Raised out of the model's work when nobody wants its result any more."""


class Model(Protocol):
    """What the thread drives: see local/reply.py for the real one."""

    @property
    def info(self) -> ModelInfo:
        """What is known about the model."""

    def write(self, request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
        """One reply. Raises ChatError."""

    def interruptible(self, unwanted: Callable[[], bool]) -> AbstractContextManager[None]:
        """Inside, the model gives up with Interrupted soon after `unwanted()` is true."""


Loader = Callable[[ModelSpec, Path, Report], Model]


def load_transformers(spec: ModelSpec, cache_dir: Path, report: Report) -> Model:
    """The model through transformers. Importing that takes seconds, so it happens here, in the model's thread."""
    report("importing torch and transformers")
    with uncollected():
        from chatui.local.loading import load
        from chatui.local.reply import Writer

    return Writer(load(spec, cache_dir, report))


@dataclass(eq=False)
class _Job:
    """One request on its way through the thread; `events` is fed in the asker's own event loop."""

    request: ChatRequest
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    events: asyncio.Queue[ReplyDelta | ChatError | None] = field(default_factory=asyncio.Queue)
    unwanted: threading.Event = field(default_factory=threading.Event)
    asked_at: float = field(default_factory=time.perf_counter)

    def send(self, event: ReplyDelta | ChatError | None) -> None:
        """Hand an event over; None ends the reply. An asker whose loop is gone wants nothing more."""
        try:
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)
        except RuntimeError:
            self.unwanted.set()


class LocalBackend:
    """A transformers model in this process. Loading starts in the background with `start()`.

    `wrap` may decorate the function that writes a reply (ZeroGPU's `spaces.GPU` runs it on a borrowed GPU).
    """

    def __init__(
        self,
        spec: ModelSpec,
        cache_dir: Path,
        loader: Loader = load_transformers,
        wrap: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> None:
        self._spec = spec
        self._cache_dir = cache_dir
        self._loader = loader
        self._reply = wrap(self._write)
        self._status = ModelStatus(spec.name, "loading", "starting")
        self._model: Model | None = None
        self._settled = threading.Event()
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._closing = threading.Event()
        self._asking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="chatui-model", daemon=True)

    def load(self) -> "LocalBackend":
        """Load the model in this thread, and wait for it; `start()` would do so in the background."""
        self._load()
        return self

    def start(self) -> "LocalBackend":
        """Begin to load the model, unless it is, and to answer."""
        self._thread.start()
        return self

    def wait(self) -> ModelInfo:
        """Wait until the model is ready. Raises ModelError where it has failed."""
        self._settled.wait()
        if self._status.info is None:
            raise self._status.error or ModelError("The model is not loaded.")
        return self._status.info

    def models(self) -> list[ModelStatus]:
        """The one model, and whether it is ready."""
        return [self._status]

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """The reply, piece by piece, after those asked for earlier. Raises ChatError."""
        job = _Job(request, asyncio.get_running_loop())
        with self._asking:
            if self._closing.is_set():
                raise _closed()
            self._jobs.put(job)
        try:
            while (event := await job.events.get()) is not None:
                if isinstance(event, ChatError):
                    raise event
                yield event
        finally:
            job.unwanted.set()

    async def close(self) -> None:
        """End the reply being written and those waiting, and let go of the model."""
        with self._asking:
            self._closing.set()
            self._jobs.put(None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 10)

    def _run(self) -> None:
        if not self._settled.is_set():
            self._load()
        while (job := self._jobs.get()) is not None:
            if self._closing.is_set():
                job.send(_closed())
            elif not job.unwanted.is_set():
                job.context.run(self._answer, job)
        self._model = None

    def _load(self) -> None:
        def report(phase: str) -> None:
            self._status = ModelStatus(self._spec.name, "loading", phase)

        try:
            self._model = self._loader(self._spec, self._cache_dir, report)
        except ChatError as error:
            self._status = ModelStatus(self._spec.name, "failed", error=error)
            log.debug("loading failed", exc_info=error)
        except Exception as error:
            log.exception("loading failed")
            failed = ModelError(
                f"{self._spec.name} could not be loaded ({type(error).__name__}: {error}).",
                "The console has the details.",
            )
            self._status = ModelStatus(self._spec.name, "failed", error=failed)
        else:
            info = self._model.info
            self._status = ModelStatus(info.name, "ready", info=info)
        finally:
            self._settled.set()

    def _answer(self, job: _Job) -> None:
        """Write one reply into its job; whatever happens, the job gets an end."""
        try:
            if self._status.error is not None:
                raise self._status.error
            reply = self._reply(job.request, time.perf_counter() - job.asked_at)
            with contextlib.closing(reply):
                for delta in self._stoppable(reply, job):
                    job.send(delta)
        except Interrupted:
            if self._closing.is_set():
                job.send(_closed())
        except ChatError as error:
            log.debug("a reply failed", exc_info=error)
            job.send(error)
        except Exception as error:
            log.exception("a reply failed")
            job.send(GenerationError(f"The reply failed ({type(error).__name__}).", "The console has the details."))
        finally:
            job.send(None)

    def _stoppable(self, reply: Iterator[ReplyDelta], job: _Job) -> Iterator[ReplyDelta]:
        """The reply until its job is unwanted: noticed between tokens, and inside the pass that reads the prompt."""

        def unwanted() -> bool:
            return job.unwanted.is_set() or self._closing.is_set()

        with contextlib.ExitStack() as reading:
            if self._model is not None:
                reading.enter_context(self._model.interruptible(unwanted))
            for delta in reply:
                if unwanted():
                    raise Interrupted
                if delta.tokens:
                    reading.close()
                yield delta

    def _write(self, request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
        if self._model is None:
            raise ModelError("The model is not loaded.", "Wait until it is, or start again.")
        yield from self._model.write(request, queue_seconds)


def _closed() -> ModelError:
    return ModelError("The server is shutting down.", "Start it again.")
