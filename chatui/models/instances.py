"""The thread that loads and unloads models under one memory budget. Knows no torch."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol

from chatui.backend import Backend
from chatui.chat import ModelInfo, ModelStatus
from chatui.errors import ChatError, ModelError
from chatui.metrics import MeteredBackend
from chatui.model_spec import ModelSpec

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_SECONDS = 15.0


class SingleModelBackend(Backend, MeteredBackend, Protocol):
    """A backend of one model, which accepts requests before it is started. LocalBackend is one."""

    def start(self) -> object:
        """Begin to load the model. Called once."""

    def wait(self) -> ModelInfo:
        """Wait until the model is loaded. Raises ChatError if it cannot be."""


@dataclass(frozen=True)
class Memory:
    """How memory is predicted, measured and given back. The functions are called in the loading thread only.

    `needed` bytes are predicted for a model that is not loaded, `free` bytes are left now. `release` returns freed
    memory to the operating system.
    """

    needed: Callable[[ModelSpec], int]
    free: Callable[[], int]
    release: Callable[[], None]


@dataclass(eq=False)
class Instance:
    """One loading of a model, from the first request for it until it is unloaded.

    `users` are its running and queued replies, and the tickets for those to come. A `retired` instance gets no new
    ones, and is unloaded when it has none. `settled` is done once loading has succeeded or failed. Times are in
    seconds of time.monotonic().
    """

    name: str
    spec: ModelSpec
    backend: SingleModelBackend
    users: int = 0
    last_used: float = field(default_factory=time.monotonic)
    started: bool = False
    retired: bool = False
    unloaded: bool = False
    failed_at: float | None = None
    info: ModelInfo | None = None
    settled: Future[None] = field(default_factory=Future)

    @property
    def loaded(self) -> bool:
        """Whether its model is in memory."""
        return self.settled.done() and self.failed_at is None and not self.unloaded

    @property
    def status(self) -> ModelStatus:
        """The status of its backend."""
        return self.backend.models()[0]

    @property
    def held_bytes(self) -> int:
        """The size of its weights and its KV cache."""
        return self.info.weight_bytes + self.info.kv_bytes if self.info else 0

    def check(self) -> None:
        """Raise the error of its loading, if that failed."""
        if self.info is None:
            raise self.status.error or ModelError("The model is not loaded.")


class Instances:
    """All instances, and the thread that loads and unloads them one after another.

    When memory is short, the model that was not used for the longest time is unloaded. If all have replies, one is
    retired: its replies end with it, and new requests wait until the model is loaded again. `changed` is the lock.
    """

    def __init__(self, memory: Memory, idle_unload: float | None, linger: float) -> None:
        """`idle_unload` and `linger` are seconds after the last reply: when a model is unloaded, and not before."""
        self.changed = threading.Condition()
        self.all: list[Instance] = []
        self.closing = False
        self._memory, self._idle_unload, self._linger = memory, idle_unload, linger
        self._thread = threading.Thread(target=self._run, name="chatui-loading", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, instance: Instance) -> None:
        """Have it loaded."""
        with self.changed:
            self.all.append(instance)
            self.changed.notify_all()

    def retire(self, instance: Instance) -> None:
        """Have it unloaded once it has no users."""
        with self.changed:
            instance.retired = True
            self.changed.notify_all()

    def acquire(self, instance: Instance) -> None:
        """Count one more user."""
        with self.changed:
            instance.users += 1
            instance.last_used = time.monotonic()

    def release(self, instance: Instance) -> None:
        """Count one user less."""
        with self.changed:
            instance.users -= 1
            instance.last_used = time.monotonic()
            self.changed.notify_all()

    async def close(self) -> None:
        """Stop all replies and unload all models."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
            instances = list(self.all)
        await asyncio.gather(*(instance.backend.close() for instance in instances), return_exceptions=True)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, CLOSE_TIMEOUT_SECONDS)
        for instance in instances:
            self._settle(instance)

    def _run(self) -> None:
        """The thread: unloads what is no longer needed, then loads what was asked for first."""
        while True:
            with self.changed:
                while not (self.closing or self._surplus() or self._next_load()):
                    self.changed.wait(self._patience())
                if self.closing:
                    return
                surplus, next_load = self._surplus(), self._next_load()
            if surplus is not None:
                self._unload(surplus)
            elif next_load is not None:
                self._load(next_load)

    def _surplus(self) -> Instance | None:
        """An instance without users that is retired, or was idle for too long."""
        for instance in self.all:
            idle = time.monotonic() - instance.last_used
            expired = self._idle_unload is not None and instance.loaded and idle >= self._idle_unload
            unused = instance.users == 0 and (instance.settled.done() or not instance.started)
            if unused and (expired or instance.retired) and (idle >= self._linger or not instance.loaded):
                return instance
        return None

    def _patience(self) -> float | None:
        """Seconds after which an instance may be surplus without any change; None if none can be."""
        times = []
        for instance in self.all:
            if instance.loaded and instance.users == 0 and instance.retired:
                times.append(instance.last_used + self._linger)
            elif instance.loaded and instance.users == 0 and self._idle_unload is not None:
                times.append(instance.last_used + max(self._idle_unload, self._linger))
        return max(min(times) - time.monotonic(), 0.01) if times else None

    def _next_load(self) -> Instance | None:
        """The first instance to load. One whose model is still in memory, in a retired instance, has to wait."""
        in_memory = {instance.name for instance in self.all if instance.loaded}
        for instance in self.all:
            if not instance.started and instance.name not in in_memory and (instance.users or not instance.retired):
                return instance
        return None

    def _load(self, instance: Instance) -> None:
        self._free_memory(instance)
        with self.changed:
            if self.closing:
                return
            instance.started = True
            requested_at = instance.last_used
            instance.backend.start()
        try:
            instance.info = replace(instance.backend.wait(), name=instance.name)
        except Exception as error:
            if not isinstance(error, ChatError):
                log.exception("loading failed")
            instance.failed_at = time.monotonic()
            # The frames of its traceback hold what was loaded until then.
            error.__traceback__ = error.__cause__ = error.__context__ = None
        if instance.info is None:
            self._memory.release()
        with self.changed:
            if instance.last_used == requested_at:
                instance.last_used = time.monotonic()
            self._settle(instance)

    def _settle(self, instance: Instance) -> None:
        with self.changed:
            if not instance.settled.done():
                instance.settled.set_result(None)
            self.changed.notify_all()

    def _free_memory(self, instance: Instance) -> None:
        """Unload others until there is memory for this one.

        Nothing is unloaded if all of them together would not suffice: then the loader says what is missing, or
        manages with less.
        """
        needed: int | None = None
        while True:
            with self.changed:
                loaded = [instance for instance in self.all if instance.loaded]
            if not loaded or self.closing:
                return
            if needed is None:
                needed = self._predict(instance.spec)
            free = self._memory.free()
            if needed <= free or needed > free + sum(instance.held_bytes for instance in loaded):
                return
            victim = self._choose_victim(loaded)
            if victim is not None:
                self._unload(victim)

    def _predict(self, spec: ModelSpec) -> int:
        """The bytes that a model will need; 0 if that cannot be told, as the loader then fails with the reason."""
        try:
            return self._memory.needed(spec)
        except Exception:
            log.debug("the memory of %s cannot be predicted", spec.name, exc_info=True)
            return 0

    def _choose_victim(self, loaded: Sequence[Instance]) -> Instance | None:
        """The idle instance that was not used for the longest time.

        If all have users, the one with the oldest request is retired. Returns None after the next change.
        """
        with self.changed:
            by_use = sorted(loaded, key=lambda instance: instance.last_used)
            idle = [instance for instance in by_use if instance.users == 0]
            if idle and time.monotonic() - idle[0].last_used >= self._linger:
                idle[0].retired = True
                return idle[0]
            if not idle and not any(instance.retired for instance in by_use):
                by_use[0].retired = True
            if not self.closing:
                self.changed.wait(self._linger if idle else None)
            return None

    def _unload(self, instance: Instance) -> None:
        with self.changed:
            if instance.users:
                return
            instance.retired = instance.unloaded = True
        try:
            asyncio.run(instance.backend.close())
        except Exception:
            log.exception("unloading failed")
        self._memory.release()
        with self.changed:
            self.all.remove(instance)
            self._settle(instance)
