"""The tab Here of the Models view: what could be run on this machine, what runs well first."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import gradio as gr

from chatui.i18n import N_, _
from chatui.models.overview import Overview, OverviewRow
from chatui.ui.models import model_row
from chatui.ui.models.model_row import text
from chatui.ui.models.tabs import ModelsContext


class HereTab:
    """The list of models on this machine."""

    id: ClassVar = "here"
    title: ClassVar = N_("Here")

    def __init__(self, context: ModelsContext) -> None:
        self._context = context
        self._list = gr.Markdown(elem_id="models-list")
        self.outputs: Sequence[Any] = [self._list]

    async def show(self) -> str:
        """The list, read anew."""
        manages, statuses = self._context.access.may_manage(), self._context.access.models()
        overview = await asyncio.to_thread(self._context.overviews.read, statuses)
        if not manages:  # others see no files that are not for them
            overview = replace(
                overview, rows=tuple(row for row in overview.rows if row.status is not None), recommendation=None
            )
        return list_html(overview)

    def connect(self) -> None:
        """Register the events of the tab."""


def list_html(overview: Overview) -> str:
    """HTML of the recommendation and all models."""
    rows = "".join(_row(row, overview) for row in overview.rows)
    return f'{_recommended(overview)}<div class="model-list">{rows}</div>'


def _recommended(overview: Overview) -> str:
    found = overview.recommendation
    if found is None:
        return ""
    return (
        f'<div class="model-recommended"><h4>{text(_("Recommended for this machine"))}</h4>'
        f"<p>{text(found.reason)}</p></div>"
    )


def _row(row: OverviewRow, overview: Overview) -> str:
    bar = model_row.memory_bar(row.best) if row.best else ""
    body = ""
    if row.facts is not None:
        body = model_row.explained(row.facts, overview.devices, overview.context)
        body += model_row.formulas(row.best) if row.best else ""
        body = f"<details><summary>{text(_('Explained'))}</summary>{body}</details>"
    return (
        f'<div class="model-row"><div class="model-top"><b>{text(row.name)}</b></div>'
        f'<p class="facts">{model_row.facts_line(row)}</p>{model_row.state_text(row)}{bar}{body}</div>'
    )
