"""The models that could be run on this machine, each with its facts, the best way to run it here, and its state."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chatui.chat import ModelStatus
from chatui.errors import ModelError, NotFoundError
from chatui.models.catalogue import LocalModel, local_models
from chatui.models.facts import ModelFacts, read_facts
from chatui.models.fit import DEFAULT_CONTEXT, Device, Fit, Machine, Recommendation, best_fit, recommend, runs_well
from chatui.settings import DEFAULT_MODEL


@dataclass(frozen=True)
class OverviewRow:
    """A model. `name` is what to give to --model.

    `local` is None for a model without files on this machine. `status` is None for a model that is not served.
    `facts` and `best` are None where they are not known; `problem` says why, in a sentence.
    """

    name: str
    local: LocalModel | None = None
    status: ModelStatus | None = None
    facts: ModelFacts | None = None
    best: Fit | None = None
    problem: str = ""

    @property
    def key(self) -> str:
        """What tells this row from all others: a path, or the name of a model without files here."""
        return str(self.local.path) if self.local is not None else self.name

    @property
    def is_remote(self) -> bool:
        """Whether another server runs it."""
        return self.status is not None and self.status.remote

    @property
    def can_be_deleted(self) -> bool:
        """Whether its files are in the HF cache. Nothing else is ever deleted."""
        return self.local is not None and self.local.source == "cache"


@dataclass(frozen=True)
class Overview:
    """All models, what runs well here first. `context` is the number of tokens of the conversation that is counted."""

    rows: tuple[OverviewRow, ...]
    devices: tuple[Device, ...]
    recommendation: Recommendation | None = None
    context: int = DEFAULT_CONTEXT

    def find(self, key: str) -> OverviewRow:
        """The row with this key. Raises NotFoundError."""
        for row in self.rows:
            if row.key == key:
                return row
        raise NotFoundError("model")


class OverviewReader:
    """Reads the overview. The facts of files that have not changed are cached. Thread-safe."""

    def __init__(
        self, machine: Callable[[], Machine] | None, folders: Iterable[Path] = (), cache: Path | None = None
    ) -> None:
        """`machine` measures this machine; it is None where the server runs no models of its own.

        `folders` have models beside the HF cache, `cache` for None the user's.
        """
        self._measure, self._folders, self._cache = machine, tuple(folders), cache
        self._lock = threading.Lock()
        self._machine: Machine | None = None
        self._found: tuple[LocalModel, ...] = ()
        self._facts: dict[Hashable, ModelFacts | str] = {}

    @property
    def runs_models(self) -> bool:
        """Whether the server runs models of its own."""
        return self._measure is not None

    def read(self, statuses: Sequence[ModelStatus], rescan: bool = True) -> Overview:
        """Find and weigh the models; `statuses` are those of the served ones. Blocks for up to seconds.

        Without `rescan` the files and the measurements of the last call are used.
        """
        with self._lock:
            if rescan or self._machine is None:
                self._scan()
            machine, found = self._machine or Machine(()), self._found
            facts = [self._facts[_version(model)] for model in found]
        devices = tuple(_with_held_memory(device, statuses) for device in machine.devices)
        rows = [
            _row(model, each, _status_of(model, statuses), devices) for model, each in zip(found, facts, strict=True)
        ]
        served = {row.status.name for row in rows if row.status is not None}
        rows += [OverviewRow(status.name, status=status) for status in statuses if status.name not in served]
        recommendation = recommend([row.facts for row in rows if row.facts is not None], devices)
        return Overview(tuple(sorted(rows, key=_rank)), devices, recommendation)

    def _scan(self) -> None:
        """Measure this machine and find its models. There are none where the server cannot run them: without torch."""
        if self._measure is None:
            return
        try:
            self._machine = self._measure()
        except ImportError:
            self._measure = None
            return
        self._found = tuple(_local_models(self._machine, self._folders, self._cache))
        known = self._facts
        self._facts = {_version(model): known.get(_version(model)) or _facts(model) for model in self._found}


def _local_models(machine: Machine, folders: Iterable[Path], cache: Path | None) -> Iterator[LocalModel]:
    if machine.default_model is not None:
        path = machine.default_model
        yield LocalModel(DEFAULT_MODEL, path, "package", path.stat().st_size)
    yield from local_models(folders, cache)


def _version(model: LocalModel) -> Hashable:
    """Equal for the same files in the same state. Reading them changes `last_used`."""
    return model.path, model.name, model.size, model.updated, model.problem


def _facts(model: LocalModel) -> ModelFacts | str:
    """The facts of a model, or why they are not known."""
    if model.problem:
        return model.problem
    try:
        return replace(read_facts(model.path), name=model.name)
    except ModelError as error:
        return error.message


def _row(
    model: LocalModel, facts: ModelFacts | str, status: ModelStatus | None, devices: Sequence[Device]
) -> OverviewRow:
    if isinstance(facts, str):
        return OverviewRow(model.name, model, status, problem=facts)
    return OverviewRow(model.name, model, status, facts, best_fit(facts, devices))


def _status_of(model: LocalModel, statuses: Sequence[ModelStatus]) -> ModelStatus | None:
    """The status of a model, if it is served."""
    names = {model.name, str(model.path)}
    local = (status for status in statuses if not status.remote)
    return next((status for status in local if not names.isdisjoint((status.source, status.name))), None)


def _with_held_memory(device: Device, statuses: Sequence[ModelStatus]) -> Device:
    """The device as if all models were unloaded: a loaded one leaves when another needs its memory."""
    local = [status for status in statuses if not status.remote]
    loaded = [status.info for status in local if status.state == "ready" and status.info is not None]
    held = sum(info.weight_bytes + info.kv_bytes for info in loaded if info.device == device.name)
    return replace(device, free=min(device.free + held, device.total or device.free + held))


def _rank(row: OverviewRow) -> tuple[tuple[int, float], str]:
    return (runs_well(row.best) if row.best else (4, 0.0)), row.name.lower()
