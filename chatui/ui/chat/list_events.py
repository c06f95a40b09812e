"""The events of the list of conversations: search, and imports into it."""

import contextlib
import html
import logging
from collections.abc import Sequence
from typing import Any

import gradio as gr

from chatui.errors import ChatError
from chatui.runner import Runner
from chatui.ui.chat.components import ChatComponents
from chatui.ui.chat.event_runner import EventRunner, as_chat_error
from chatui.ui.gradio_compat import request_context
from chatui.ui.shared import error_messages
from chatui.ui.shared.tab import current_tab
from chatui.ui.shared.updates import ComponentUpdates, PageUpdates
from chatui.ui.sidebar.import_tasks import ImportTask, ImportTasks

log = logging.getLogger(__name__)


class ListEvents:
    """Each method is a Gradio event handler. Its last inputs are those that `current_tab` takes."""

    def __init__(self, runner: Runner, components: ChatComponents, events: EventRunner) -> None:
        self._runner, self._events = runner, events
        self._sidebar, self._refreshed = components.sidebar, components.refreshed
        self._imports = ImportTasks()

    async def search(self, *inputs: Any) -> Any:
        """The list of the conversations that match the text of the search box."""
        return await self._render_list(inputs)

    async def refresh(self, asked: str, *inputs: Any) -> ComponentUpdates:
        """The list after changes by other tabs; nothing if it could be that of a conversation that the tab has left."""

        async def read() -> Any:
            try:
                return await self._sidebar.render_list(current_tab(self._runner, inputs))
            except Exception as error:  # nobody has asked for it: the page asks again, without a message
                log.info("a list is not refreshed: %s", as_chat_error(error))
                return None

        shown = await self._events.when_idle(inputs, read)
        return {self._refreshed: gr.skip()} if shown is None else {self._sidebar.list: shown, self._refreshed: asked}

    async def import_chats(self, path: str | None, *inputs: Any) -> PageUpdates:
        """Import an uploaded file, and show the progress."""
        update: ComponentUpdates = {}
        try:
            tab = current_tab(self._runner, inputs)
            task = ImportTask(tab.list_store, path, request_context.tab())
            async with contextlib.aclosing(self._imports.run(tab.owner, task)) as steps:
                async for _step in steps:
                    update = {self._sidebar.import_status: gr.update(visible=False)}
                    yield {
                        self._sidebar.import_status: gr.update(visible=True),
                        self._sidebar.progress: task.progress(),
                    }
            _report(task)
        except Exception as error:
            error_messages.warn(as_chat_error(error))
        yield {**update, self._sidebar.list: await self._render_list(inputs)}

    async def cancel_import(self, *inputs: Any) -> None:
        """Cancel the user's running import."""
        with contextlib.suppress(ChatError):
            self._imports.cancel(current_tab(self._runner, inputs).owner)

    async def _render_list(self, inputs: Sequence[Any]) -> Any:
        try:
            return await self._sidebar.render_list(current_tab(self._runner, inputs))
        except Exception as error:
            error_messages.warn(as_chat_error(error))
            return gr.skip()


def _report(task: ImportTask) -> None:
    """Show what an import has added and skipped."""
    if summary := task.summary():
        gr.Info(html.escape(summary))
    if skipped := task.skipped_items():
        gr.Warning(html.escape(skipped).replace("\n", "<br>"), duration=60)
