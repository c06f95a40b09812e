"""The components and events of the Inspect view. The other modules of this package render its pages."""

import asyncio
import contextlib
import html
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.components import Component

from chatui import python_script
from chatui.chat import ChatRequest
from chatui.errors import ChatError, NotFoundError, unexpected
from chatui.i18n import N_, _
from chatui.inspection import Inspection
from chatui.server_facts import ServerActivity
from chatui.store.records import PageTimes, StoredMessage
from chatui.ui.gradio_compat.hidden_textbox import hidden_textbox
from chatui.ui.inspector import (
    branching,
    ceiling_view,
    memory_view,
    persona_view,
    prompt_view,
    time_view,
    tokens_view,
    why_view,
)
from chatui.ui.markdown import markdown_escape
from chatui.ui.shared import error_messages
from chatui.ui.shared.redraw import batch_deltas
from chatui.ui.shared.tab import Tab
from chatui.ui.shared.updates import ComponentUpdates

log = logging.getLogger(__name__)

TabOf = Callable[[Sequence[Any]], Tab]
"""The tab of an event, from the values of its tab inputs."""

RepeatRequest = Callable[[Tab, StoredMessage, Sequence[Any]], Awaitable[ChatRequest]]
"""The request for a stored reply's message and seed with the current persona and settings."""


class InspectorPanel:
    """The components of the Inspect view, rendered in the current Gradio context.

    The page's script writes into `requested` which reply to inspect, and into `displayed` when it has shown a reply.
    """

    def __init__(self) -> None:
        self.requested = hidden_textbox("inspect")
        self.displayed = hidden_textbox("seen")
        with gr.Column(visible=False, elem_id="inspector") as self.column:
            with gr.Row(elem_id="inspector-head"):
                self._title = gr.Markdown(N_("### Inspect"))
                self._close = gr.Button(N_("Close"), size="sm", min_width=0, elem_id="inspector-close")
            with gr.Tabs(elem_id="inspector-tabs"):
                self._build_prompt()
                self._build_tokens()
                self._time, self._memory, self._ceiling, self._why = (
                    self._markdown_tab(name) for name in (N_("Time"), N_("Memory"), N_("Ceiling"), N_("Why"))
                )
                with gr.Tab(N_("Python")):
                    self._notebook = gr.Markdown(elem_id="inspector-notebook")
                    self._python = _code("python")
                self._build_persona()

    def connect(
        self,
        tab_of: TabOf,
        repeat_request: RepeatRequest,
        tab_inputs: Sequence[Component],
        request_inputs: Sequence[Component],
    ) -> None:
        """Register the events; `tab_inputs` are the inputs of `tab_of`, `request_inputs` those of `repeat_request`."""
        self._tab_of, self._repeat_request = tab_of, repeat_request
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self._outputs: list[Any] = [
            *(self.column, self._title, self._summary, self._source, self._cached, self._text, self._ids),
            *(self._messages, self._template, self._reply, self._tokens, self._alternatives, self._time, self._memory),
            *(self._ceiling, self._why, self._notebook, self._python, self._persona, self._original, self._repeated),
        ]
        self._lazy = [part for part in self._outputs if isinstance(part, gr.Code | gr.HighlightedText)]
        self.requested.change(self._show, [self.requested, *tab_inputs], self._outputs, **quiet)
        self.displayed.change(self._save_page_times, [self.displayed, *tab_inputs], None, **quiet)
        self._close.click(lambda: gr.update(visible=False), None, self.column, **quiet)
        self._tokens.select(self._show_alternatives, [self.requested, *tab_inputs], self._alternatives, **quiet)
        streamed = {**quiet, "queue": True, "concurrency_limit": None, "trigger_mode": "once"}
        repeat_inputs = [self.requested, *tab_inputs, *request_inputs]
        self._compare.click(self._repeat, repeat_inputs, [self._original, self._repeated], **streamed)

    def localized_colours(self) -> Mapping[Component, Callable[[], dict[str, str]]]:
        """For each highlighted text, a function that returns its colours by label in the current language."""

        def localized(colours: Mapping[str, str]) -> Callable[[], dict[str, str]]:
            return lambda: {_(label): colour for label, colour in colours.items()}

        return {
            self._source: localized(prompt_view.SOURCE_COLOURS),
            self._cached: localized(prompt_view.CACHE_COLOURS),
            self._tokens: localized(tokens_view.PROBABILITY_COLOURS),
        }

    def _build_prompt(self) -> None:
        with gr.Tab(N_("Prompt")):
            self._summary = gr.Markdown()
            self._source = _highlighted(N_("Every token by its source"), prompt_view.SOURCE_COLOURS)
            with gr.Accordion(N_("Cached or computed"), open=False):
                self._cached = _highlighted(
                    N_("Every token by whether it was cached or computed for this reply"), prompt_view.CACHE_COLOURS
                )
            with gr.Accordion(N_("The prompt as text"), open=False):
                self._text = _code(None)
            with gr.Accordion(N_("Token ids"), open=False):
                self._ids = _code("json")
            with gr.Accordion(N_("The conversation as the messages that pipe(chat) takes"), open=False):
                self._messages = _code("json")
            with gr.Accordion(N_("The chat template"), open=False):
                self._template = _code("jinja2")

    def _build_tokens(self) -> None:
        with gr.Tab(N_("Tokens")):
            self._reply = gr.Markdown()
            self._tokens = _highlighted(
                N_("The reply's tokens by probability"),
                tokens_view.PROBABILITY_COLOURS,
                "reply-tokens",
            )
            self._alternatives = gr.Markdown(elem_id="alternatives")

    def _build_persona(self) -> None:
        with gr.Tab(N_("Persona")):
            self._persona = gr.Markdown()
            self._compare = gr.Button(N_("Ask the same with the persona and settings at the right"), size="sm")
            with gr.Row(elem_id="side-by-side"):
                self._original, self._repeated = (
                    gr.Markdown(latex_delimiters=markdown_escape.DELIMITERS) for _ in range(2)
                )

    def _markdown_tab(self, name: str) -> gr.Markdown:
        with gr.Tab(name):
            return gr.Markdown()

    async def _show(self, requested: str, *tab_inputs: Any) -> ComponentUpdates:
        updates = await self._contents(requested, *tab_inputs)
        # The browser loads components that only this view has when they first become visible.
        return {**updates, **{part: gr.update(value=updates[part], visible=True) for part in self._lazy}}

    async def _contents(self, requested: str, *tab_inputs: Any) -> ComponentUpdates:
        try:
            id = _message_id(requested)
            tab = self._tab_of(tab_inputs)
            reply = await asyncio.to_thread(tab.chat_store.message, id)
            inspection, page = await _inspection(tab, id)
            path = await asyncio.to_thread(tab.chat_store.path, reply.conversation, reply.id)
            previous, activity = await asyncio.gather(_previous_inspection(tab, path), _activity(tab, inspection))
        except Exception as error:
            return self._failed(_as_chat_error(error))
        return {
            self.column: gr.update(visible=True),
            **self._prompt_contents(inspection),
            self._reply: tokens_view.summary(inspection),
            self._tokens: tokens_view.tokens_by_probability(inspection),
            self._alternatives: "",
            self._time: time_view.time_view(inspection, page),
            self._memory: memory_view.memory_view(inspection, path, activity),
            self._ceiling: ceiling_view.ceiling_view(inspection, activity),
            self._why: why_view.why_view(inspection, previous, reply),
            self._notebook: "" if tab.state.temporary else _notebook_link(reply),
            self._python: _python(inspection, reply),
            self._persona: persona_view.persona_view(inspection),
            self._original: "",
            self._repeated: "",
        }

    def _prompt_contents(self, inspection: Inspection) -> ComponentUpdates:
        prompt, model = inspection.prompt, inspection.model
        titles = (_("Inspect"), *map(html.escape, filter(None, (model.name, model.precision))))
        return {
            self._title: f"### {' · '.join(titles)}",
            self._summary: prompt_view.summary(inspection),
            self._source: prompt_view.tokens_by_source(prompt),
            self._cached: prompt_view.tokens_by_cache(inspection),
            self._text: prompt_view.text_or_reason(inspection, prompt.text, prompt_view.UNTOLD_TEXT),
            self._ids: json.dumps(prompt.token_ids) if prompt.token_ids else "",
            self._messages: prompt_view.messages_json(prompt),
            self._template: prompt_view.text_or_reason(
                inspection, model.template.text if model.template else "", prompt_view.UNTOLD_TEMPLATE
            ),
        }

    def _failed(self, error: ChatError) -> ComponentUpdates:
        """The error alone in the view: Gradio shows no warnings of events that are not queued."""
        lists = (self._source, self._cached, self._tokens)
        empty: ComponentUpdates = {part: [] if part in lists else "" for part in self._outputs}
        message, remedy = error_messages.localized(error)
        text = f"**{html.escape(message)}** {html.escape(remedy)}"
        return {**empty, self.column: gr.update(visible=True), self._title: _("### Inspect"), self._summary: text}

    async def _save_page_times(self, displayed: str, *tab_inputs: Any) -> None:
        times = _page_times(displayed)
        if times is None:
            return
        with contextlib.suppress(ChatError):
            tab, id = self._tab_of(tab_inputs), _message_id(displayed)
            await tab.runner.wait_until_saved(tab.owner, id)
            await asyncio.to_thread(tab.chat_store.set_page_times, id, times)

    async def _show_alternatives(self, event: gr.SelectData, requested: str, *tab_inputs: Any) -> str:
        try:
            id = _message_id(requested)
            inspection, _page = await _inspection(self._tab_of(tab_inputs), id)
            position = int(event.index[0] if isinstance(event.index, list | tuple) else event.index)
            if not 0 <= position < len(inspection.traces):
                raise NotFoundError("token")
            return tokens_view.alternatives(inspection, id, position)
        except Exception as error:
            return html.escape(error_messages.error_line(_as_chat_error(error)))

    async def _repeat(self, requested: str, *inputs: Any) -> AsyncGenerator[tuple[str, str]]:
        """Stream a reply to the same message and seed with the current persona and settings; it is not saved."""
        try:
            id = _message_id(requested)
            tab = self._tab_of(inputs[:2])
            reply = await asyncio.to_thread(tab.chat_store.message, id)
            inspection, _page = await _inspection(tab, id)
            persona_tokens = inspection.prompt.source_tokens("persona")
            column = persona_view.reply_column
            original = column(_("This reply"), reply.content, inspection.finish, persona_tokens)
            request = await self._repeat_request(tab, reply, inputs)
            text, finish, persona_tokens = "", None, 0
            async with contextlib.aclosing(batch_deltas(tab.runner.backend.stream(request))) as batches:
                async for deltas in batches:
                    for delta in deltas:
                        text, _reasoning = delta.apply_to(text, "")
                        finish = delta.finish or finish
                        if delta.prompt is not None:
                            persona_tokens = delta.prompt.source_tokens("persona")
                    title = _("With persona and settings at the right")
                    yield original, column(title, text, finish, persona_tokens)
        except Exception as error:
            yield "", html.escape(error_messages.error_line(_as_chat_error(error)))


async def with_other_token(tab: Tab, message_id: str, choice: str) -> StoredMessage:
    """A reply cut at one of its tokens and continued with another; `choice` is `position.token_id`.

    Raises NotFoundError if there is no such reply or token.
    """
    reply = await asyncio.to_thread(tab.chat_store.message, message_id)
    inspection, _page = await _inspection(tab, message_id)
    position, _dot, token_id = choice.partition(".")
    traces = inspection.traces
    is_valid = position.isdecimal() and token_id.isdecimal() and int(position) < len(traces)
    if not (is_valid and int(token_id) in traces[int(position)].ids):
        raise NotFoundError("token")
    return branching.reply_with_token(inspection, reply, int(position), int(token_id))


async def _inspection(tab: Tab, id: str) -> tuple[Inspection, PageTimes | None]:
    await tab.runner.wait_until_saved(tab.owner, id)
    stored = await asyncio.to_thread(tab.chat_store.inspection, id)
    inspection = await asyncio.to_thread(Inspection.unpacked, stored.data) if stored is not None else None
    if stored is None or inspection is None:
        raise ChatError(
            "The generation trace of this reply was not kept.",
            "Imported replies and those that failed have nothing to inspect.",
        )
    return inspection, stored.page


async def _previous_inspection(tab: Tab, path: Sequence[StoredMessage]) -> Inspection | None:
    """The inspection of the last reply before the end of the path, if it is stored."""
    earlier = [message for message in path[:-1] if message.role == "assistant"]
    if not earlier:
        return None
    with contextlib.suppress(ChatError):
        inspection, _page = await _inspection(tab, earlier[-1].id)
        return inspection
    return None


async def _activity(tab: Tab, inspection: Inspection) -> ServerActivity | None:
    """What the server of the reply's model tells of itself now; None if it is not one, or not served any more."""
    if inspection.model.server is None:
        return None
    with contextlib.suppress(ChatError):
        return await tab.runner.backend.activity(inspection.model.name)
    return None


def _message_id(value: str) -> str:
    """The message id in what the script wrote: `number|id|...`."""
    return (value or "").partition("|")[2].partition("|")[0]


def _page_times(value: str) -> PageTimes | None:
    """The times in what the script wrote, `number|id|first,last`; None if they are invalid."""
    try:
        first, last = (float(part) for part in (value or "").rpartition("|")[2].split(","))
    except ValueError:
        return None
    return PageTimes(first, last) if 0 <= first <= last < 1e6 else None


def _python(inspection: Inspection, reply: StoredMessage) -> str:
    author = reply.author
    return python_script.as_python(inspection, author.settings, author.seed) if author else ""


def _notebook_link(reply: StoredMessage) -> str:
    address = f"chats/export?format=ipynb&amp;chat={quote(reply.conversation)}&amp;reply={quote(reply.id)}"
    return f'<a class="download" href="{address}">{_("Export as notebook")}</a>' if reply.author else ""


def _as_chat_error(error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    log.error("an event of the Inspect view failed", exc_info=error)
    return unexpected(error)


def _highlighted(label: str, colours: dict[str, str], id: str | None = None) -> gr.HighlightedText:
    return gr.HighlightedText(
        label=label,
        elem_id=id,
        color_map=colours,
        show_legend=True,
        show_inline_category=False,
        combine_adjacent=False,
        container=False,
        visible=False,
    )


def _code(language: Any) -> gr.Code:
    return gr.Code(language=language, interactive=False, show_label=False, max_lines=30, wrap_lines=True, visible=False)
