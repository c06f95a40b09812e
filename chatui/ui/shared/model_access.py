"""What the user of the running event may do with models."""

from chatui.backend import Backend
from chatui.chat import ModelStatus
from chatui.errors import ModelError
from chatui.models.permissions import Permissions
from chatui.setting_values import shorten
from chatui.ui.gradio_compat import request_context


class ModelAccess:
    """The backend's models as the user of the running event may choose them. To be called within an event."""

    def __init__(self, backend: Backend, permissions: Permissions) -> None:
        self._backend, self._permissions = backend, permissions

    def may_manage(self) -> bool:
        """Whether the user may load, unload, fetch and delete models."""
        return self._permissions.may_manage(request_context.user())

    def check_manage(self) -> None:
        """Raise ForbiddenError unless the user may load, unload, fetch and delete models."""
        self._permissions.check_manage(request_context.user())

    def models(self) -> list[ModelStatus]:
        """The models that the user may choose, the default one first. Never empty."""
        return self._permissions.choices(request_context.user(), self._backend.models())

    def find(self, name: str | None) -> ModelStatus:
        """The model of this name, else the default one; also if the user may not choose it."""
        models = self.models()
        return next((model for model in models if model.name == name), models[0])

    def choose(self, name: str | None) -> ModelStatus:
        """The model of this name, the default one for None. Raises ModelError if the user may choose no such model."""
        model = self.find(name)
        if name and model.name != name:
            served = ", ".join(each.name for each in self.models())
            raise ModelError(f"The model {shorten(name)} is not served here.", f"Choose one of these: {served}.")
        return model
