"""The thread that owns the model: loads it, and advances the replies of a RequestQueue by one step after another."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from chatui import priority
from chatui.chat import ModelStatus
from chatui.engine.request_queue import Job, JobEvent, RequestQueue, fail, send
from chatui.engine.runners.contract import Loader, ModelRunner
from chatui.errors import ChatError, GenerationError, ModelError
from chatui.model_spec import ModelSpec

log = logging.getLogger(__name__)

MAX_RESTARTS = 3
"""An engine that fails more often within a minute is not started again."""


class ModelThread(threading.Thread):
    """Begins to load the model with `start()`. A second thread beside makes prompts ahead.

    `model` is None, and `settled` not set, until loading has ended. `on_step` is called with the seconds of each step.
    """

    def __init__(self, spec: ModelSpec, cache_dir: Path, loader: Loader, queue: RequestQueue) -> None:
        super().__init__(name="chatui-model", daemon=True)
        self.status = ModelStatus(spec.name, "loading", "starting")
        self.model: ModelRunner | None = None
        self.settled = threading.Event()
        self.stopped = False
        self.failures: list[float] = []
        self.outputs: list[tuple[Job, JobEvent]] = []
        self.on_step: Callable[[float], None] | None = None
        self._spec, self._cache_dir, self._loader = spec, cache_dir, loader
        self._queue = queue
        self._changed = queue.changed
        self._closing = False
        self._forgotten_chats: set[str] = set()
        self._answer_now_tickets: set[str] = set()

    def load(self) -> None:
        """Load the model, in the calling thread. `status` has the error if that fails."""

        def report(phase: str) -> None:
            self.status = ModelStatus(self._spec.name, "loading", phase)

        try:
            self.model = self._loader(self._spec, self._cache_dir, report)
        except ChatError as error:
            self.status = ModelStatus(self._spec.name, "failed", error=error)
            log.debug("loading failed", exc_info=error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as in _prepare()
            log.exception("loading failed")
            failed = ModelError(
                f"{self._spec.name} could not be loaded ({type(error).__name__}: {error}).",
                "The console has the details.",
            )
            self.status = ModelStatus(self._spec.name, "failed", error=failed)
        else:
            info = self.model.info
            self.status = ModelStatus(info.name, "ready", info=info)
        finally:
            self._queue.rows = 1 if self.model is None else self.model.info.slots
            self.settled.set()

    def check_open(self) -> None:
        """Raise the error of new requests, where they would not be answered any more."""
        if self._closing:
            raise closed_error()
        if self.stopped:
            raise self.status.error or closed_error()

    def forget(self, chat: str) -> None:
        """Let go of the keys and values of this chat before the next step, or once its last reply is over."""
        with self._changed:
            self._forgotten_chats.add(chat)
            self._changed.notify_all()

    def answer_now(self, ticket: str) -> None:
        """End the thought of the running reply with this ticket before the next step."""
        with self._changed:
            self._answer_now_tickets.add(ticket)

    def close(self) -> None:
        """End all replies, and then the thread; it lets go of the model. Does not wait for that."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self.ident is None:  # it was never started, and fails those that wait
            self.start()

    def run(self) -> None:
        """Load, then serve. Whatever ends the serving fails the running replies, and it starts again."""
        # While the model writes, all cores are busy: a page that shows its words would wait for its turn.
        priority.lower_priority(priority.MODEL)
        if not self.settled.is_set() and not self._closing:
            self.load()
        self.settled.set()
        preparing = threading.Thread(target=self._prepare, name="chatui-prompts", daemon=True)
        preparing.start()
        serving = True
        while serving:
            try:
                self._serve()
                serving = False
            except BaseException as error:
                log.exception("the engine stopped")
                serving = self._recover(error)
        with self._changed:
            self.stopped = True
            self._changed.notify_all()
            jobs = [*self._queue.running.values(), *self._queue.unstarted()]
        for job in jobs:
            fail(job, self.status.error or closed_error())
        for handle in self._queue.running:
            with contextlib.suppress(Exception):
                self._end(handle)
        preparing.join()
        self.model = None

    def _prepare(self) -> None:
        """The thread beside: makes prompts ahead, since long ones take long and would hold up those who write."""
        queue = self._queue
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.stopped or queue.next_to_prepare() is not None)
                queue.preparing = job = None if self.stopped else queue.next_to_prepare()
            if job is None:
                return
            prepared = None
            try:
                if self.status.error is not None or self.model is None:
                    raise self.status.error or ModelError("The model is not loaded.")
                prepared = job.context.run(self.model.prepare, job.request)
            except BaseException as error:  # a panic of `tokenizers`, which is Rust, is no Exception
                fail(job, error)
                job.cancelled.set()
                queue.remove(job)
            with self._changed:
                queue.preparing, job.prepared = None, prepared
                queue.update_positions()

    def _serve(self) -> None:
        """Steps, until closed."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._queue.running or self._forgotten_chats or self._next()
                )
                if self._closing:
                    return
            while (job := self._next()) is not None:
                job.context.run(self._begin, job)
            self._step()
            self._deliver()

    def _next(self) -> Job | None:
        """The job whose turn it is, if its prompt is made and the model can begin it."""
        job = self._queue.next_to_begin()
        return job if job is not None and self.model is not None and self.model.can_begin(job.prepared) else None

    def _begin(self, job: Job) -> None:
        try:
            if self.model is not None and not job.cancelled.is_set():
                waited = time.perf_counter() - job.asked_at
                handle = self.model.begin(job.prepared, waited, lambda: job.cancelled.is_set() or self._closing)
                self._queue.begin(job, handle)
                return
        except Exception as error:
            fail(job, error)
        self._queue.remove(job)

    def _step(self) -> None:
        """One step of the model, without the cancelled replies."""
        running = self._queue.running
        if self.model is None:
            return
        before = len(running)
        for handle, job in list(running.items()):
            if job.cancelled.is_set():
                del running[handle]
                self._end(handle)
        self._forget(self.model)
        if self._answer_now_tickets:
            self._answer_now(self.model)
        if running:
            self._advance(self.model)
        if len(running) < before:  # whose turn it is may have changed
            self._queue.update_positions()

    def _advance(self, model: ModelRunner) -> None:
        """Let the model do one step for the running replies, and take out those that end."""
        running = self._queue.running
        began = time.perf_counter()
        results = model.step()
        if self.on_step is not None:
            self.on_step(time.perf_counter() - began)
        for handle, event in results:
            job = running[handle]
            self.outputs.append((job, event))
            if isinstance(event, ChatError) or event.finish is not None:
                del running[handle]
                self.outputs.append((job, None))

    def _answer_now(self, model: ModelRunner) -> None:
        """End the thoughts of running replies for which `answer_now` was called."""
        with self._changed:
            tickets, self._answer_now_tickets = self._answer_now_tickets, set()
        for handle, job in self._queue.running.items():
            if job.request.ticket in tickets:
                model.answer_now(handle)

    def _forget(self, model: ModelRunner) -> None:
        """Let go of the chats that are over and have no running reply."""
        with self._changed:
            running = {job.request.temporary_conversation for job in self._queue.running.values()}
            idle, self._forgotten_chats = self._forgotten_chats - running, self._forgotten_chats & running
        for chat in idle:
            model.forget(chat)

    def _end(self, handle: object) -> None:
        if self.model is not None:
            self.model.end(handle)

    def _deliver(self) -> None:
        """Hand over what this step produced: one call for each event loop, however many replies advanced."""
        outputs, self.outputs = self.outputs, []
        for loop in {job.loop for job, _ in outputs}:
            send([(job, event) for job, event in outputs if job.loop is loop])

    def _recover(self, error: BaseException) -> bool:
        """Fail the running replies and make the model fit to go on; False where that is hopeless."""
        now = time.monotonic()
        self.failures = [*(at for at in self.failures if now - at < 60), now]
        info = self.status.info
        self.status = ModelStatus(self.status.name, "loading", "starting again after a failure")
        failed = GenerationError(f"The engine stopped ({type(error).__name__}).", "It starts again; ask once more.")
        self._deliver()
        running, self._queue.running = self._queue.running, {}
        for job in running.values():
            fail(job, failed)
        try:
            if self.model is not None and len(self.failures) <= MAX_RESTARTS:
                self.model.reset()
                self.status = ModelStatus(self.status.name, "ready", info=info)
                return True
        except Exception:
            log.exception("the engine cannot start again")
        hopeless = ModelError("The engine keeps failing and was stopped.", "Start chatui again.")
        self.status = ModelStatus(self.status.name, "failed", error=hopeless)
        return False


def closed_error() -> ModelError:
    """The error of requests that come, or are not answered yet, while the server shuts down."""
    return ModelError("The server is shutting down.", "Start it again.")
