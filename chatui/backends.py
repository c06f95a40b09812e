"""Chooses the backend that the settings ask for: models of this process, of servers, or both."""

from functools import partial

from chatui.backend import StartableBackend
from chatui.combined_backend import CombinedBackend
from chatui.engine.backend import LocalBackend
from chatui.metrics import Metrics
from chatui.model_spec import ModelSpec
from chatui.models.added_models import AddedModelsFile
from chatui.models.instances import Memory
from chatui.models.registry import Registry
from chatui.settings import AppSettings


def open_backend(settings: AppSettings, metrics: Metrics) -> StartableBackend:
    """The backend of these settings, measured in `metrics`, not started. Raises SettingsError.

    The default model is the one of --model; without it, the first one of --backend.
    """
    if not settings.backend and settings.backends_file is None:
        return _registry(settings, metrics)
    from chatui.remote import backend_spec
    from chatui.remote.backend import RemoteBackend

    remotes = [
        RemoteBackend(spec, settings.generation, settings.queue, metrics)
        for spec in backend_spec.from_settings(settings)
    ]
    local = _registry(settings, metrics) if runs_models(settings) or not remotes else None
    return CombinedBackend([*([local] if local else []), *remotes], local)


def runs_models(settings: AppSettings) -> bool:
    """Whether models run in this process, and not only on other servers."""
    has_backends = settings.backend or settings.backends_file is not None
    return not has_backends or "model" in settings.model_fields_set or settings.models_dir is not None


def _registry(settings: AppSettings, metrics: Metrics) -> Registry:
    """All models of this process."""

    def open_local(spec: ModelSpec) -> LocalBackend:
        return LocalBackend(spec, settings.cache_dir, max_waiting=settings.queue)

    idle_unload = None if settings.idle_unload is None else settings.idle_unload * 60
    memory = Memory(_needed_bytes, partial(_free_bytes, settings.device_map), _release_memory)
    return Registry(
        ModelSpec.all_from_settings(settings),
        open_local,
        memory,
        idle_unload,
        models_dir=settings.models_dir,
        added_file=AddedModelsFile(settings.data_dir / "added_models.json"),
        metrics=metrics,
    )


# These import torch, which is imported by the time that a second model is loaded.
def _needed_bytes(spec: ModelSpec) -> int:
    from chatui.engine.outline import outline

    return outline(spec).needed_bytes()


def _free_bytes(device_map: str) -> int:
    from chatui.engine.loading.weights import free_memory

    return free_memory(device_map)


def _release_memory() -> None:
    from chatui.engine.loading.weights import release_memory

    release_memory()
