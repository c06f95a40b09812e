"""The frame of the Models view: a dialog with tabs, opened from the header and by the address `#models`."""

from typing import Any

import gradio as gr

from chatui.i18n import N_
from chatui.ui.gradio_compat.hidden_textbox import hidden_textbox
from chatui.ui.models.compare_tab import CompareTab
from chatui.ui.models.find_tab import FindTab
from chatui.ui.models.here_tab import HereTab
from chatui.ui.models.load_dialog import LoadDialog
from chatui.ui.models.tabs import QUIET, ModelsContext, ModelsTab

TABS: tuple[type[ModelsTab], ...] = (FindTab, CompareTab)
"""The tabs after the first one, which is HereTab."""


class ModelsPanel:
    """The components of the view, rendered in the current Gradio context.

    models.js writes into `requested` when the view is to be opened, and which tab, and into `used` the model that the
    open conversation is to go on with.
    """

    def __init__(self, context: ModelsContext) -> None:
        self.requested, self.used = hidden_textbox("models-open"), hidden_textbox("models-use")
        with gr.Column(visible=False, elem_id="models") as self.column:
            with gr.Row(elem_id="models-head"):
                gr.Markdown(N_("### Models"))
                self._close = gr.Button(N_("Close"), size="sm", min_width=0, elem_id="models-close")
            self._load_dialog = LoadDialog(context, lambda: self.here.overview(rescan=False))
            with gr.Tabs(elem_id="models-tabs") as self._tabs:
                with gr.Tab(HereTab.title, id=HereTab.id) as tab:
                    self.here = HereTab(context)
                more = [_build(kind, context) for kind in TABS]
                self._parts: list[tuple[gr.Tab, ModelsTab]] = [(tab, self.here), *more]

    def connect(self) -> None:
        """Register the events."""
        opened = self.requested.change(self._open, self.requested, [self.column, self._tabs], **QUIET)
        opened.then(self.here.show, None, self.here.outputs, **QUIET)
        for tab, part in self._parts:
            tab.select(part.show, None, part.outputs, **QUIET)
            part.connect()
        self._load_dialog.connect(self.requested, self.here.show, self.here.outputs)
        self._close.click(lambda: gr.update(visible=False), None, self.column, **QUIET)

    def _open(self, requested: str) -> tuple[Any, Any]:
        """Show the view with the tab in what the script wrote: `number|id`, the first tab for ""."""
        requested_tab = (requested or "").rpartition("|")[2]
        known = [part.id for _tab, part in self._parts]
        return gr.update(visible=True), gr.update(selected=requested_tab if requested_tab in known else known[0])


def _build(kind: type[ModelsTab], context: ModelsContext) -> tuple[gr.Tab, ModelsTab]:
    with gr.Tab(kind.title, id=kind.id) as tab:
        return tab, kind(context)
