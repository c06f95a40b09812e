"""Loads a model and chooses how it is run: many replies at once where its attention allows, else one after another."""

import contextlib
import ctypes
from dataclasses import replace
from pathlib import Path

from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.loading.loader import load
from chatui.engine.runners.batch_runner import open_batch_runner
from chatui.engine.runners.contract import ModelRunner, ReportPhase
from chatui.engine.runners.serial_runner import SerialRunner
from chatui.i18n import N_
from chatui.model_spec import ModelSpec


def open_model(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> ModelRunner:
    """Load what `spec` names and make it ready to answer. Raises ModelError."""
    loaded = load(spec, cache_dir, report)
    report("making room for conversations")
    model = open_batch_runner(loaded, spec)
    if model is None:
        return SerialRunner(_with_full_kv(loaded) if spec.kv_dtype == "int8" else loaded)
    if spec.compile == "auto":
        model.use_faster_decode(spec, cache_dir)
    _trim_heap()
    return model


def _trim_heap() -> None:
    """Give back to the system what loading has freed: glibc keeps it (malloc_trim(3))."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _with_full_kv(loaded: LoadedModel) -> LoadedModel:
    """The model with a note that its K/V is not in int8."""
    note = N_("Keys and values are not in int8: this model writes one reply after another and keeps none between them.")
    return replace(loaded, info=replace(loaded.info, notes=(*loaded.info.notes, note)), shares=loaded)
