"""The thread that owns the model, and its queue: implements Backend. Knows no torch."""

import asyncio
import contextlib
import contextvars
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatui import priority
from chatui.backend import PreviewMemo
from chatui.chat import ChatRequest, LoadOptions, ModelInfo, ModelStatus, Prompt, ReplyDelta, TokenizeRequest, Tokens
from chatui.engine.fair_queue import FairQueue
from chatui.engine.runners.contract import Loader, ModelRunner, ReportPhase
from chatui.errors import ChatError, GenerationError, ModelError, OverloadError, unexpected
from chatui.gc_pause import gc_paused
from chatui.model_spec import ModelSpec
from chatui.settings import AppSettings

log = logging.getLogger(__name__)

# An engine that fails this often within a minute is not started again.
RESTARTS = 3


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


QueueItem = ReplyDelta | ChatError | None
"""An event for an asker; None ends the reply."""


@dataclass(eq=False)
class _Job:
    """One request on its way through the thread; `events` is fed in the asker's own event loop."""

    request: ChatRequest
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    events: asyncio.Queue[QueueItem] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    asked_at: float = field(default_factory=time.perf_counter)
    queue_position: int = 0


class LocalBackend:
    """A transformers model in this process. Loading starts in the background with `start()`."""

    def __init__(
        self,
        spec: ModelSpec,
        cache_dir: Path,
        loader: Loader = load_transformers,
        longest_queue: int = AppSettings.model_fields["queue"].default,
    ) -> None:
        self._spec = spec
        self._cache_dir = cache_dir
        self._loader = loader
        self._longest_queue = longest_queue
        self._status = ModelStatus(spec.name, "loading", "starting")
        self._model: ModelRunner | None = None
        self._settled = threading.Event()
        self._waiting: FairQueue[_Job] = FairQueue(self._in_work)
        self._coming: dict[str, str] = {}
        self._going: dict[object, _Job] = {}
        self._over: set[str] = set()
        self._answering: set[str] = set()
        self._changed = threading.Condition()
        self._preparing: _Job | None = None
        self._prepared: deque[tuple[_Job, object]] = deque()
        self._closing = self._stopped = False
        self._failures: list[float] = []
        self._outbox: list[tuple[_Job, QueueItem]] = []
        self._thread = threading.Thread(target=self._run, name="chatui-model", daemon=True)
        self.on_step: Callable[[float], None] | None = None

    def load_in_this_thread(self) -> "LocalBackend":
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
        ticket = secrets.token_hex(8)
        with self._changed:
            self._check_capacity(user)
            self._coming[ticket] = user
        return ticket

    def release_ticket(self, ticket: str) -> None:
        """The request will not come; nothing where it has come."""
        with self._changed:
            self._coming.pop(ticket, None)

    def answer_now(self, ticket: str) -> None:
        """End the thought of the running reply with this ticket before the next step."""
        with self._changed:
            self._answering.add(ticket)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """The reply, piece by piece, when its turn has come. Raises ChatError."""
        job = _Job(request, asyncio.get_running_loop())
        with self._changed:
            self._admit(job)
        try:
            while (event := await job.events.get()) is not None:
                if isinstance(event, ChatError):
                    raise event
                yield event
        finally:
            job.cancelled.set()
            with self._changed:
                self._waiting.drop(job)
                self._prepared = deque(each for each in self._prepared if each[0] is not job)
                self._tell_places()
                self._changed.notify_all()

    async def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt | None:
        """The prompt that this would become, or None while the model is loading. Raises ChatError."""
        return await asyncio.to_thread(model.preview, request, memo) if (model := self._model) is not None else None

    def decode_tokens(self, ids: set[int], model: str = "") -> dict[int, str]:  # noqa: ARG002
        """The text of each token by itself, for a part of a character its bytes as <0xE2>; called in any thread."""
        return {} if (loaded := self._model) is None else loaded.decode_tokens(ids)

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """The tokens of a text or a prompt. Waits while the model is loading. Raises ChatError."""
        return await asyncio.to_thread(lambda: self._ready_model().tokenize(request))

    async def detokenize(self, ids: Sequence[int], model: str = "") -> str:  # noqa: ARG002
        """The text of these tokens. Waits while the model is loading. Raises ChatError."""
        return await asyncio.to_thread(lambda: self._ready_model().detokenize(ids))

    def kv_usage(self) -> float:
        """The share of the K/V cache that running replies fill, from 0 to 1; 0 without a model. Thread-safe."""
        return 0.0 if (model := self._model) is None else model.kv_usage()

    def _ready_model(self) -> ModelRunner:
        """The model, once it is loaded. Raises ModelError where it has failed or was let go of."""
        self.wait()
        if self._model is None:
            raise _closed()
        return self._model

    def forget(self, chat: str) -> None:
        """Let go of the keys and values of this chat before the next step, or once its last reply is over."""
        with self._changed:
            self._over.add(chat)
            self._changed.notify_all()

    async def close(self) -> None:
        """End the replies being written and those waiting, and let go of the model."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is None:  # it was never started, and fails those that wait
            self._thread.start()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, 10)

    def _admit(self, job: _Job) -> None:
        """Put the job in the queue; the caller holds the lock."""
        if self._closing:
            raise _closed()
        if self._stopped:
            raise self._status.error or _closed()
        if self._coming.pop(job.request.ticket, None) is None:
            self._check_capacity(job.request.user)
        self._waiting.put(job.request.user, job)
        self._tell_places()
        self._changed.notify_all()

    def _check_capacity(self, user: str) -> None:
        """Whether one more of this user may wait; the caller holds the lock. Raises OverloadError.

        The last quarter of the places is for users of whom fewer requests than that wait, so that no single one turns
        all others away.
        """
        waiting = len(self._waiting) + len(self._coming)
        if waiting >= self._longest_queue:
            raise OverloadError(f"{waiting} requests are waiting already.", "Try again in a while.", retry_after=10)
        reserved = self._longest_queue // 4
        own = self._waiting.waiting(user) + sum(coming == user for coming in self._coming.values())
        if own >= reserved > 0 and waiting >= self._longest_queue - reserved:
            raise OverloadError(
                f"{own} of your requests are waiting, and the places that are left are for others.",
                "Try again when some of them are answered.",
                retry_after=10,
            )

    def _run(self) -> None:
        """The thread: load, then serve; whatever kills the serving fails what was going on, and it starts anew."""
        # While the model writes, all cores are busy: a page that shows its words would wait for its turn.
        priority.lower_priority(priority.MODEL)
        if not self._settled.is_set() and not self._closing:
            self._load()
        self._settled.set()
        preparing = threading.Thread(target=self._prepare, name="chatui-prompts", daemon=True)
        preparing.start()
        going_on = True
        while going_on:
            try:
                self._serve()
                going_on = False
            except BaseException as error:
                log.exception("the engine stopped")
                going_on = self._recover(error)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            jobs = [*self._going.values(), *self._line()]
        for left in jobs:
            self._fail(left, self._status.error or _closed())
        for handle in self._going:
            with contextlib.suppress(Exception):
                self._end(handle)
        preparing.join()
        self._model = None

    def _prepare(self) -> None:
        """The thread beside: makes prompts ahead, since long ones take long and would hold up those who write."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or (len(self._waiting) and self._may_prepare()))
                if self._stopped:
                    return
                job = self._preparing = self._waiting.pop()
            try:
                if self._status.error is not None or self._model is None:
                    raise self._status.error or ModelError("The model is not loaded.")
                prepared = job.context.run(self._model.prepare, job.request)
            except BaseException as error:  # a panic of `tokenizers`, which is Rust, is no Exception
                self._fail(job, error)
                job.cancelled.set()
            with self._changed:
                self._preparing = None
                if not job.cancelled.is_set():
                    self._prepared.append((job, prepared))
                self._tell_places()
                self._changed.notify_all()

    def _may_prepare(self) -> bool:
        """Whether one more prompt is made ahead: one for each free row, and one at least; the caller holds the lock.

        Whose turn it is beyond that is decided when a row is free.
        """
        rows = 1 if self._status.info is None else self._status.info.slots
        return len(self._prepared) < max(1, rows - len(self._going))

    def _serve(self) -> None:
        """Steps, until closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._going or self._over or self._can_begin())
                if self._closing:
                    return
            while (next_up := self._next()) is not None:
                next_up[0].context.run(self._begin, *next_up)
            self._step()
            self._deliver()

    def _can_begin(self) -> bool:
        return bool(self._prepared) and self._model is not None and self._model.can_begin(self._prepared[0][1])

    def _next(self) -> tuple[_Job, object] | None:
        """The job whose turn it is, with its prompt, if the model can begin it."""
        with self._changed:
            if not self._can_begin():
                return None
            taken = self._prepared.popleft()
            self._tell_places()
            self._changed.notify_all()
            return taken

    def _begin(self, job: _Job, prepared: object) -> None:
        if job.cancelled.is_set() or self._model is None:
            return
        try:
            waited = time.perf_counter() - job.asked_at
            handle = self._model.begin(prepared, waited, lambda: job.cancelled.is_set() or self._closing)
            self._going[handle] = job
        except Exception as error:
            self._fail(job, error)

    def _step(self) -> None:
        """One step of the model, without the cancelled replies."""
        if self._model is None:
            return
        for handle, job in list(self._going.items()):
            if job.cancelled.is_set():
                del self._going[handle]
                self._end(handle)
        self._forget(self._model)
        if self._answering:
            self._answer_now(self._model)
        if not self._going:
            return
        began = time.perf_counter()
        results = self._model.step()
        if self.on_step is not None:
            self.on_step(time.perf_counter() - began)
        for handle, event in results:
            job = self._going[handle]
            self._outbox.append((job, event))
            if isinstance(event, ChatError) or event.finish is not None:
                del self._going[handle]
                self._outbox.append((job, None))

    def _answer_now(self, model: ModelRunner) -> None:
        """End the thoughts of running replies for which `answer_now` was called."""
        with self._changed:
            tickets, self._answering = self._answering, set()
        for handle, job in self._going.items():
            if job.request.ticket in tickets:
                model.answer_now(handle)

    def _forget(self, model: ModelRunner) -> None:
        """Let go of the chats that are over and have no running reply."""
        with self._changed:
            running = {job.request.temporary_conversation for job in self._going.values()}
            over, self._over = self._over - running, self._over & running
        for chat in over:
            model.forget(chat)

    def _end(self, handle: object) -> None:
        if self._model is not None:
            self._model.end(handle)

    def _line(self) -> list[_Job]:
        """The waiting jobs, in the order in which they will be served; the caller holds the lock."""
        preparing = [] if self._preparing is None else [self._preparing]
        return [*(job for job, _ in self._prepared), *preparing, *self._waiting]

    def _in_work(self, user: str) -> int:
        """Replies of this user that are being written or made ready; the caller holds the lock."""
        ready = [job for job, _ in self._prepared]
        jobs = [*self._going.values(), *ready, *([] if self._preparing is None else [self._preparing])]
        return sum(job.request.user == user for job in jobs)

    def _tell_places(self) -> None:
        """Send their new queue position to the jobs for which it has changed; the caller holds the lock."""
        for position, job in enumerate(self._line(), 1):
            if job.queue_position != position:
                job.queue_position = position
                _send([(job, ReplyDelta(queue_position=position))])

    def _fail(self, job: _Job, error: BaseException) -> None:
        if not isinstance(error, ChatError):
            log.error("a reply failed", exc_info=error)
            error = unexpected(error)
        _send([(job, error), (job, None)])

    def _deliver(self) -> None:
        """Hand over what this step produced: one call for each event loop, however many replies advanced."""
        outbox, self._outbox = self._outbox, []
        for loop in {job.loop for job, _ in outbox}:
            _send([(job, event) for job, event in outbox if job.loop is loop])

    def _recover(self, error: BaseException) -> bool:
        """Fail what was going on and make the model fit to go on; False where that is hopeless."""
        now = time.monotonic()
        self._failures = [*(at for at in self._failures if now - at < 60), now]
        info = self._status.info
        self._status = ModelStatus(self._status.name, "loading", "starting again after a failure")
        failed = GenerationError(f"The engine stopped ({type(error).__name__}).", "It starts again; ask once more.")
        self._deliver()
        going, self._going = self._going, {}
        for job in going.values():
            self._fail(job, failed)
        try:
            if self._model is not None and len(self._failures) <= RESTARTS:
                self._model.reset()
                self._status = ModelStatus(self._status.name, "ready", info=info)
                return True
        except Exception:
            log.exception("the engine cannot start again")
        hopeless = ModelError("The engine keeps failing and was stopped.", "Start chatui again.")
        self._status = ModelStatus(self._status.name, "failed", error=hopeless)
        return False

    def _load(self) -> None:
        def report(phase: str) -> None:
            self._status = ModelStatus(self._spec.name, "loading", phase)

        try:
            self._model = self._loader(self._spec, self._cache_dir, report)
        except ChatError as error:
            self._status = ModelStatus(self._spec.name, "failed", error=error)
            log.debug("loading failed", exc_info=error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as in _prepare()
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


def _send(events: list[tuple[_Job, QueueItem]]) -> None:
    """Hand events over to the event loop that all these jobs share. A loop that is gone wants nothing more."""

    def put_all() -> None:
        for job, event in events:
            job.events.put_nowait(event)

    try:
        events[0][0].loop.call_soon_threadsafe(put_all)
    except RuntimeError:
        for job, _ in events:
            job.cancelled.set()


def _closed() -> ModelError:
    return ModelError("The server is shutting down.", "Start it again.")
