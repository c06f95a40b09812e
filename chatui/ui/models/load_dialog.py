"""The part of the Models view in which precision, device and context of a loading are chosen."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from chatui.chat import LoadOptions
from chatui.errors import ChatError, ModelError
from chatui.i18n import N_, _, format_number
from chatui.models.actions import ModelActions
from chatui.models.fit import DEFAULT_CONTEXT, MIN_CONTEXT, Device, Fit, fit, fits
from chatui.models.overview import Overview, OverviewRow
from chatui.ui.gradio_compat.hidden_textbox import hidden_textbox
from chatui.ui.gradio_compat.unchecked_inputs import UncheckedDropdown
from chatui.ui.inspector.formula_rows import figure_row, formula_list
from chatui.ui.models import model_row
from chatui.ui.models.tabs import QUIET, ModelsContext
from chatui.ui.shared import error_messages
from chatui.ui.shared.updates import ComponentUpdates

ReadOverview = Callable[[], Awaitable[Overview]]


@dataclass(frozen=True)
class Choice:
    """What is chosen for a model on a machine: a device, one of the `precisions` for it, and one of the `contexts`.

    `fit` is None where the model's size is not known.
    """

    device: Device
    precision: str
    context: int
    precisions: tuple[str, ...]
    contexts: tuple[int, ...]
    fit: Fit | None

    @property
    def options(self) -> LoadOptions:
        """The options of the loading."""
        return LoadOptions(self.precision, self.device.name, self.context)


class LoadDialog:
    """The components, rendered in the current Gradio context. The links `#models-load=KEY` open it."""

    def __init__(self, context: ModelsContext, overview: ReadOverview) -> None:
        """`overview` reads the models that the user of the running event may see."""
        self._context, self._overview = context, overview
        self._actions = ModelActions(context.backend)
        self._requested = hidden_textbox("models-load")
        with gr.Column(visible=False, elem_id="load-dialog") as self.column:
            self._title = gr.Markdown()
            with gr.Row():
                self._precision = UncheckedDropdown([], label=N_("Precision"), elem_id="load-precision")
                self._device = UncheckedDropdown([], label=N_("Device"), elem_id="load-device")
                self._tokens = UncheckedDropdown([], label=N_("Context in tokens"), elem_id="load-context")
            self._ledger = gr.Markdown(elem_id="load-ledger")
            with gr.Row():
                self._load = gr.Button(N_("Load"), variant="primary", size="sm", elem_id="load-button")
                self._anyway = gr.Button(N_("Load anyway"), size="sm", elem_id="load-anyway", visible=False)
                self._cancel = gr.Button(N_("Cancel"), size="sm", elem_id="load-cancel")
        self._boxes = [self._precision, self._device, self._tokens]

    def connect(self, opened: gr.Textbox, show_list: Callable[[], Any], list_outputs: Sequence[Any]) -> None:
        """Register the events. `show_list` fills `list_outputs` after a model was loaded; `opened` shows the list."""
        # Queued, because Gradio shows the notices of such events only.
        queued = {**QUIET, "queue": True, "concurrency_limit": None}
        shown = [self.column, self._title, *self._boxes, self._ledger, self._load, self._anyway]
        self._requested.change(self._open, self._requested, shown, trigger_mode="multiple", **queued)
        inputs = [self._requested, *self._boxes]
        gr.on([box.input for box in self._boxes], self._choose, inputs, shown, trigger_mode="always_last", **QUIET)
        for button, start in ((self._load, self._start), (self._anyway, self._start_anyway)):
            button.click(start, inputs, self.column, **queued).then(show_list, None, list_outputs, **QUIET)
        for event in (self._cancel.click, opened.change):
            event(lambda: gr.update(visible=False), None, self.column, **QUIET)

    async def _open(self, requested: str) -> ComponentUpdates:
        """Show the dialog for the model in what the script wrote: `number|key`."""
        try:
            return await self._updates(requested, None, None, None)
        except ChatError as error:
            error_messages.warn(error)
            return {self.column: gr.update(visible=False)}

    async def _choose(self, requested: str, precision: str, device: str, context: str) -> ComponentUpdates:
        """The ledger for what is chosen now."""
        try:
            return await self._updates(requested, precision, device, context)
        except ChatError as error:
            return {self._ledger: f"<p>{model_row.text(error_messages.error_line(error))}</p>"}

    async def _start(self, requested: str, *chosen: str, load_anyway: bool = False) -> Any:
        """Begin to load the model."""
        try:
            row, _overview, choice = await self._read(requested, *chosen)
            options = LoadOptions(**{**vars(choice.options), "load_anyway": load_anyway})
            name = await asyncio.to_thread(self._actions.serve, row)
            self._context.backend.load(name, options)
        except ChatError as error:
            error_messages.warn(error)
            return gr.skip()
        return gr.update(visible=False)

    async def _start_anyway(self, requested: str, *chosen: str) -> Any:
        """Begin to load the model although it is predicted to be too large."""
        return await self._start(requested, *chosen, load_anyway=True)

    async def _read(self, requested: str, *chosen: str | None) -> tuple[OverviewRow, Overview, Choice]:
        """(the model, all models, the choice). Raises ForbiddenError or NotFoundError."""
        self._context.access.check_manage()
        overview = await self._overview()
        row = overview.find((requested or "").partition("|")[2])
        if row.is_remote:
            raise ModelError(f"{row.name} runs on another server.", "Ask its operator.")
        return row, overview, choice_of(row, overview.devices, *chosen)

    async def _updates(self, requested: str, *chosen: str | None) -> ComponentUpdates:
        row, overview, choice = await self._read(requested, *chosen)
        too_large = choice.fit is not None and choice.fit.verdict == "too large"
        contexts = [(format_number(tokens), str(tokens)) for tokens in choice.contexts]
        devices = [(device.name, device.name) for device in overview.devices]
        return {
            self.column: gr.update(visible=True),
            self._title: f"#### {model_row.text(_('Load {name}', name=model_row.title(row)))}",
            self._precision: gr.update(choices=[(name, name) for name in choice.precisions], value=choice.precision),
            self._device: gr.update(choices=devices, value=choice.device.name),
            self._tokens: gr.update(choices=contexts, value=str(choice.context)),
            self._ledger: ledger_html(choice),
            self._load: gr.update(interactive=not too_large),
            self._anyway: gr.update(visible=too_large),
        }


def choice_of(
    row: OverviewRow,
    devices: Sequence[Device],
    precision: str | None = None,
    device: str | None = None,
    context: str | None = None,
) -> Choice:
    """What is chosen, if it is possible for the model; otherwise the best way to run it here."""
    best = row.best
    chosen = next((each for each in devices if each.name == device), best.device if best else devices[0])
    facts = row.facts
    contexts = contexts_up_to(facts.layout.context_length or 0 if facts else 0)
    tokens = next((each for each in contexts if str(each) == context), min(DEFAULT_CONTEXT, contexts[-1]))
    names = tuple(each.precision for each in fits(facts, chosen)) if facts else ()
    if facts is None or not names:
        return Choice(chosen, "", tokens, (), contexts, None)
    suggested = best.precision if best else names[0]
    held = next((name for name in (precision, suggested) if name in names), names[0])
    return Choice(chosen, held, tokens, names, contexts, fit(facts, chosen, held, tokens))


def contexts_up_to(max_context: int) -> tuple[int, ...]:
    """The contexts that can be chosen: 1,024 tokens, twice as many and so on, and what the model was made for."""
    max_context = max_context or 8 * DEFAULT_CONTEXT
    doubled = [MIN_CONTEXT * 2**power for power in range(12)]
    return (*(tokens for tokens in doubled if tokens < max_context), max_context)


def ledger_html(choice: Choice) -> str:
    """The memory that it takes, part by part, and the expected speed; each figure opens to its formula."""
    found = choice.fit
    if found is None:
        return f"<p>{model_row.text(_('The size of this model is not known.'))}</p>"
    figures = (found.weights, found.kv, found.activations, found.total, *([found.speed] if found.speed else []))
    rows = [figure_row(figure, name) for figure, name in zip(figures, model_row.FIGURE_NAMES, strict=False)]
    return model_row.memory_bar(found) + formula_list(rows)
