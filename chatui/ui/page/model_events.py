"""Events that load the chosen model, and keep the header and the generation settings in step with it."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from chatui.backend import Backend
from chatui.chat import ModelInfo
from chatui.errors import ChatError
from chatui.generation_settings import GenerationSettings
from chatui.i18n import translated
from chatui.ui.gradio_compat.hidden_textbox import hidden_textbox
from chatui.ui.models.models_panel import ModelsPanel
from chatui.ui.persona import setting_controls
from chatui.ui.shared import continuing, error_messages, header, model_picker
from chatui.ui.shared.model_access import ModelAccess

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class ModelEvents:
    """The handlers of these events."""

    def __init__(
        self,
        backend: Backend,
        access: ModelAccess,
        picker: gr.Dropdown,
        settings: list[Component],
        start_with: gr.Textbox,
        status: gr.Markdown,
    ) -> None:
        self._backend, self._access = backend, access
        self._picker, self._settings, self._status = picker, settings, status
        self._shown: list[Component] = [*settings, start_with]
        self._initial = setting_controls.values_of(GenerationSettings())

    def connect_start(self, page: gr.Blocks, reset: gr.Button) -> None:
        """Register the events that show the model's state when the page opens, and the button that resets settings."""
        picker, settings, status = self._picker, self._settings, self._status
        following, new_models = hidden_textbox("following"), hidden_textbox("new-models")
        reset.click(self.defaults, picker, settings, queue=False, **PRIVATE)
        # Not queued, like all events at the start: a message sent at the same time could get no reply.
        page.load(self.begin, picker, [status, *self._shown, following, picker], queue=False, **PRIVATE)
        followed = following.change(self.follow_model, picker, status, concurrency_limit=None, **PRIVATE)
        followed.then(self.adopt_defaults, [picker, *settings], self._shown, queue=False, **PRIVATE)
        new_models.change(self.offer, picker, [status, picker], queue=False, **PRIVATE)

    def connect_picker(self, models: ModelsPanel) -> None:
        """Register the events that load the chosen model, and set the settings to its defaults."""

        async def use(requested: str) -> Any:
            """Choose the model that a link of the Models view names: `number|key`."""
            try:
                name = await models.here.served_name((requested or "").partition("|")[2])
            except ChatError as error:
                error_messages.warn(error)
                return gr.skip()
            return model_picker.update(self._access.models(), name)

        picker, settings, status = self._picker, self._settings, self._status
        # Two events: while a reply streams, the page may show only the last of several quick updates of one event.
        used = models.used.change(use, models.used, picker, concurrency_limit=None, **PRIVATE)
        # Behind the loading with the settings of then: they may have been changed in the meantime.
        for chosen in (picker.input, used.then):
            loaded = chosen(self.choose, picker, status, concurrency_limit=None, **PRIVATE)
            loaded.then(self.adopt, [picker, *settings], self._shown, queue=False, **PRIVATE)
        picker.change(self.adopt, [picker, *settings], self._shown, queue=False, **PRIVATE)

    def begin(self, name: str | None) -> list[Any]:
        """The chosen model's status and default settings; our defaults while it is loading, until follow_model() ends.

        The settings are sent again here, because the browser turns a number that is empty at first into 0. The choices
        of models are those of now: some may have been added since the page was built.
        """
        self._backend.refresh()
        model = self._access.find(name)
        loading = model.state == "loading"
        values = self._initial if loading else self.defaults(model.name)
        values = _for_model(values, model.info)
        return [header.status(model), *values, "loading" if loading else "", self._picker_update(name)]

    def _picker_update(self, name: str | None) -> Any:
        """The models of now; a server's have other names once it has told them."""
        model = self._access.find(name)
        return model_picker.update(self._access.models(), None if name == model.name else model.name)

    async def follow_model(self, name: str | None) -> AsyncIterator[str]:
        """Update the header until the model is ready or has failed."""
        async for model in header.status_updates(self._backend, self._access.find(name).name):
            yield header.status(model)

    def adopt_defaults(self, name: str | None, *current: Any) -> list[Any]:
        """Set all settings that the user has not changed meanwhile to the model's defaults."""
        changes = zip(current, self._initial, self.defaults(name), strict=True)
        updates = [default if value == before else gr.skip() for value, before, default in changes]
        return _for_model(updates, self._info(name), current)

    def offer(self, name: str | None) -> list[Any]:
        """The models of now, after changes.js was told that they are others, and the status of the chosen one."""
        return [header.status(self._access.find(name)), self._picker_update(name)]

    async def choose(self, name: str | None) -> AsyncIterator[Any]:
        """Load the model, and show the loading in the header."""
        name = self._access.find(name).name
        try:
            self._backend.load(name)
        except ChatError as error:
            error_messages.warn(error)
            return
        async for model in header.status_updates(self._backend, name):
            yield header.status(model)

    def adopt(self, name: str | None, *current: Any) -> list[Any]:
        """Show the settings that the model has, also when a conversation is opened that another model has written.

        Settings that have any model's default get that of this model, if it has been loaded before.
        """
        if self._info(name) is None:
            updates = [gr.skip() for _ in self._settings]
        else:
            known = zip(*(self.defaults(model.name) for model in self._backend.models()), strict=True)
            changes = zip(current, known, self.defaults(name), strict=True)
            updates = [default if value in defaults else gr.skip() for value, defaults, default in changes]
        return _for_model(updates, self._info(name), current)

    def defaults(self, name: str | None) -> list[Any]:
        """The components' values for the defaults of a model, the default one for ""."""
        info = self._info(name)
        return setting_controls.values_of(info.defaults if info else GenerationSettings())

    def _info(self, name: str | None) -> ModelInfo | None:
        """What is known of a model, of the default one for ""."""
        return header.find_status(self._backend, name or "").info


def _for_model(updates: Sequence[Any], info: ModelInfo | None, current: Sequence[Any] = ()) -> list[Any]:
    """Updates of the settings, and of the start of the reply, which not every server can go on from."""
    problem = continuing.problem(continuing.server_of(info))
    start_with = gr.update(interactive=not problem, info=translated(problem or continuing.START_INFO))
    return [*setting_controls.for_model(updates, info, current), start_with]
