"""The tab Here of the Models view: what could be run on this machine, and what can be done with it."""

import asyncio
import html
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gradio as gr

from chatui.chat import ModelStatus
from chatui.errors import ChatError, NotFoundError, unexpected
from chatui.i18n import N_, _, localize_numbers
from chatui.models.actions import ModelActions
from chatui.models.overview import Overview, OverviewRow
from chatui.ui.gradio_compat.hidden_textbox import hidden_textbox
from chatui.ui.models import here_list
from chatui.ui.models.model_row import text
from chatui.ui.models.tabs import QUIET, ModelsContext
from chatui.ui.shared import error_messages, model_picker
from chatui.ui.shared.updates import ComponentUpdates
from chatui.units import human_bytes

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often the list is looked at while a model is being loaded."""


class HereTab:
    """The list of models on this machine, and the events of its links."""

    id: ClassVar = "here"
    title: ClassVar = N_("Here")

    def __init__(self, context: ModelsContext) -> None:
        self._context = context
        self._actions = ModelActions(context.backend)
        self._requested, self._shown = hidden_textbox("models-here"), hidden_textbox("models-shown")
        self._list = gr.Markdown(N_("Reading what is here …"), elem_id="models-list")
        self._timer = gr.Timer(POLL_SECONDS, active=False)
        self.outputs: Sequence[Any] = [self._list, self._shown, self._timer]

    def connect(self) -> None:
        """Register the events of the tab."""
        # Queued, because Gradio shows the notices of such events only.
        queued = {**QUIET, "queue": True, "concurrency_limit": None, "trigger_mode": "multiple"}
        outputs = [*self.outputs, self._context.picker]
        self._requested.change(self._act, self._requested, outputs, **queued)
        self._timer.tick(self._tick, [self._shown, self._requested], self.outputs, **QUIET)

    async def show(self) -> ComponentUpdates:
        """The list, read anew."""
        try:
            return await self._updates(await self.overview())
        except Exception as error:
            return {self._list: f"<p>{text(error_messages.error_line(_as_chat_error(error)))}</p>"}

    async def served_name(self, key: str) -> str:
        """The name of a model in the backend, which serves it from now on. Raises ChatError."""
        try:
            row = (await self.overview(rescan=False)).find(key)
        except NotFoundError:  # it may have been downloaded since
            row = (await self.overview()).find(key)
        if self._context.access.may_manage():
            return await asyncio.to_thread(self._actions.serve, row)
        return row.status.name if row.status is not None else row.name

    async def overview(self, rescan: bool = True) -> Overview:
        """The models that the user of the running event may see: others than managers see no files of this machine."""
        manages, statuses = self._context.access.may_manage(), self._context.access.models()
        if rescan:
            await asyncio.to_thread(self._context.backend.refresh)
            statuses = self._context.access.models()
        found = await asyncio.to_thread(self._context.overviews.read, statuses, rescan)
        if manages:
            return found
        rows = tuple(row for row in found.rows if row.status is not None)
        return replace(found, rows=rows, recommendation=None)

    async def _act(self, requested: str) -> ComponentUpdates:
        """Do what the script wrote, `number|action=key`, and show the list."""
        action, _equals, key = (requested or "").partition("|")[2].partition("=")
        asking = ""
        try:
            if action in ("load", "unload", "ask", "delete"):
                self._context.access.check_manage()
                row = (await self.overview(rescan=False)).find(key)
                asking = key if action == "ask" else ""
                await self._do(action, row)
        except Exception as error:
            asking = ""
            error_messages.warn(_as_chat_error(error))
        updates = await self._updates(await self.overview(rescan=action == "delete"), asking)
        return {**updates, self._context.picker: model_picker.update(self._context.access.models())}

    async def _do(self, action: str, row: OverviewRow) -> None:
        if action == "load":
            await asyncio.to_thread(self._actions.load, row)
        elif action == "unload":
            await asyncio.to_thread(self._actions.unload, row)
        elif action == "delete":
            deletion = await asyncio.to_thread(self._actions.delete, row)
            freed = localize_numbers(human_bytes(deletion.freed))
            gr.Info(html.escape(_("{name} is deleted. {size} are free again.", name=row.name, size=freed)))

    async def _tick(self, shown: str, requested: str) -> ComponentUpdates:
        """Show the list again if the state of a model has changed; ends when nothing is being loaded."""
        statuses = self._context.access.models()
        if _digest(statuses) == shown:
            return {self._timer: gr.Timer(active=_is_changing(statuses))}
        action, _equals, key = (requested or "").partition("|")[2].partition("=")
        return await self._updates(await self.overview(rescan=False), key if action == "ask" else "")

    async def _updates(self, overview: Overview, asking: str = "") -> ComponentUpdates:
        statuses = self._context.access.models()
        freed = 0
        if asking:
            deletion = await asyncio.to_thread(self._actions.plan_deletion, overview.find(asking))
            freed = deletion.freed
        return {
            self._list: here_list.list_html(overview, self._context.access.may_manage(), asking, freed),
            self._shown: _digest(statuses),
            self._timer: gr.Timer(active=_is_changing(statuses)),
        }


def _digest(statuses: Sequence[ModelStatus]) -> str:
    """Changes whenever the state of a model does."""
    return "|".join(f"{status.name} {status.state} {status.phase}" for status in statuses)


def _is_changing(statuses: Sequence[ModelStatus]) -> bool:
    return any(status.state == "loading" for status in statuses)


def _as_chat_error(error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    log.error("an event of the Models view failed", exc_info=error)
    return unexpected(error)
