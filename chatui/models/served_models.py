"""The list of models that a server offers: those of the settings, those in the folder of models, and added ones."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chatui.chat import ModelInfo, ModelStatus
from chatui.errors import ChatError, ModelError
from chatui.i18n import N_
from chatui.model_spec import ModelSpec, display_name, find_models, with_bases
from chatui.models.added_models import AddedModel
from chatui.models.instances import Instance

log = logging.getLogger(__name__)


@dataclass(eq=False)
class ServedModel:
    """A model that is served. `info` is that of its latest loading, None if it was never loaded."""

    name: str
    spec: ModelSpec
    added: bool = False
    instance: Instance | None = None
    info: ModelInfo | None = None

    def status(self) -> ModelStatus:
        """The status that models() tells."""
        return replace(self._status(), name=self.name, source=self.spec.name, added=self.added)

    def _status(self) -> ModelStatus:
        instance = self.instance
        self.info = (instance.info if instance else None) or self.info
        if instance is None or (instance.unloaded and instance.failed_at is None):
            return ModelStatus(self.name, "unloaded", info=self.info)
        if not instance.started:
            return ModelStatus(self.name, "loading", N_("waiting for memory"), info=self.info)
        status = instance.status
        return replace(status, info=None if status.error else self.info)


class ServedModels:
    """The served models, the default one first, which is that of the first spec. Not thread-safe."""

    def __init__(self, specs: Sequence[ModelSpec], models_dir: Path | None, added: Iterable[AddedModel]) -> None:
        """`added` models are served besides those of the `specs`. `in_folder` reads `models_dir`."""
        self._models = [ServedModel(name, spec) for name, spec in zip(unique_names(specs), specs, strict=True)]
        self._models_dir = models_dir
        for source, revision in added:
            if self.find(source) is None:
                self.append(source, revision, added=True)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    @property
    def default(self) -> ServedModel:
        """The model for requests that name none."""
        return self._models[0]

    def find(self, model: str) -> ServedModel | None:
        """The model with this name or source, the default one for ""; None if there is none."""
        return next((served for served in self._models if model in ("", served.name, served.spec.name)), None)

    def get(self, model: str) -> ServedModel:
        """The model with this name or source, the default one for "". Raises ModelError."""
        found = self.find(model)
        if found is not None:
            return found
        served = ", ".join(each.name for each in self._models)
        raise ModelError(f"The model {model} is not served here.", f"Choose one of these: {served}.")

    def append(self, source: str, revision: str | None = None, added: bool = False) -> ServedModel:
        """Serve one more model. Names of others stay, because conversations remember them."""
        spec = replace(self.default.spec, name=source, revision=revision, chat_template=None, base=None)
        spec = with_bases([*(served.spec for served in self._models), spec])[-1]
        short = _short_name(spec)
        served = ServedModel(spec.name if self.find(short) else short, spec, added)
        self._models.append(served)
        return served

    def remove(self, served: ServedModel) -> None:
        """Serve a model no longer; nothing if it is not served."""
        if served in self._models:
            self._models.remove(served)

    def in_folder(self) -> list[str] | None:
        """The paths of the models in `models_dir`; None while it cannot be read, and without one."""
        if self._models_dir is None:
            return None
        try:
            return [str(path) for path in find_models(self._models_dir)]
        except ChatError as error:
            log.warning("%s", error)
            return None

    def is_gone(self, served: ServedModel, in_folder: list[str] | None) -> bool:
        """Whether a model was added, or in `models_dir`, and its file or folder is not there any more."""
        path = Path(served.spec.name)
        if path.parent == self._models_dir:
            return in_folder is not None and served.spec.name not in in_folder
        return served.added and path.is_absolute() and not path.exists()


def unique_names(specs: Sequence[ModelSpec]) -> list[str]:
    """The name of each model: that of its file or folder, or the whole path where two would have the same."""
    short = [_short_name(spec) for spec in specs]
    return [spec.name if short.count(name) > 1 else name for name, spec in zip(short, specs, strict=True)]


def _short_name(spec: ModelSpec) -> str:
    """The name of a model's file or folder; its name on the Hub if it is no path."""
    return display_name(path) if (path := Path(spec.name).expanduser()).exists() else spec.name
