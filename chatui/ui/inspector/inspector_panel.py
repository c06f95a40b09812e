"""The Inspect view over the chat: its components and events. What they show is made in inspector.py."""

import asyncio
import contextlib
import html
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from chatui import python_script
from chatui.chat import ChatRequest, Finish
from chatui.errors import ChatError, NotFoundError, unexpected
from chatui.i18n import N_, _, ngettext, number
from chatui.inspection import Inspection
from chatui.store.records import PageTimes, StoredMessage
from chatui.ui.chat import markdown_escape
from chatui.ui.chat.redraw import batch_deltas
from chatui.ui.chat.tab import Tab
from chatui.ui.gradio_compat.hidden_textbox import hidden_textbox
from chatui.ui.inspector import estimates_view, views
from chatui.ui.page import page_language

log = logging.getLogger(__name__)

KEPT_WITHIN = 20
"""Quarters of a second within which a reply's inspection is kept after its end."""

PanelUpdates = dict[Any, Any]
TabOf = Callable[[Sequence[Any]], Tab]
"""The tab of an event, by its place and what stands in the search box."""

Again = Callable[[Tab, StoredMessage, Sequence[Any]], Awaitable[ChatRequest]]
"""The request for another reply in place of a stored one, as persona and settings now stand, with its seed."""


class InspectorPanel:
    """Its components, rendered where it is made.

    The page writes into `asked` which reply to look at, and into `seen` when it has shown one.
    """

    def __init__(self) -> None:
        self.asked = hidden_textbox("inspect")
        self.seen = hidden_textbox("seen")
        with gr.Column(visible=False, elem_id="inspector") as self.column:
            with gr.Row(elem_id="inspector-head"):
                self._title = gr.Markdown(N_("### Inspect"))
                self._close = gr.Button(N_("Close"), size="sm", min_width=0, elem_id="inspector-close")
            with gr.Tabs(elem_id="inspector-tabs"):
                self._build_prompt()
                self._build_tokens()
                self._time, self._memory, self._ceiling, self._why = (
                    self._page(name) for name in (N_("Time"), N_("Memory"), N_("Ceiling"), N_("Why"))
                )
                with gr.Tab(N_("Python")):
                    self._python = _code("python")
                self._build_persona()

    def connect(self, tab_of: TabOf, again: Again, place: Sequence[Component], asked: Sequence[Component]) -> None:
        """Make it work in the page that is being built: `place` is what `tab_of` takes, `asked` what `again` takes."""
        self._tab_of, self._again = tab_of, again
        quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self._shown: list[Any] = [
            *(
                self.column,
                self._title,
                self._summary,
                self._source,
                self._cached,
                self._text,
                self._ids,
                self._messages,
            ),
            *(self._template, self._reply, self._tokens, self._others, self._time, self._memory, self._ceiling),
            *(self._why, self._python, self._price, self._this, self._that),
        ]
        self._late = [part for part in self._shown if isinstance(part, gr.Code | gr.HighlightedText)]
        self.asked.change(self._show, [self.asked, *place], self._shown, **quiet)
        self.seen.change(self._saw, [self.seen, *place], None, **quiet)
        self._close.click(lambda: gr.update(visible=False), None, self.column, **quiet)
        self._tokens.select(self._choose, [self.asked, *place], self._others, **quiet)
        streamed = {**quiet, "queue": True, "concurrency_limit": None, "trigger_mode": "once"}
        self._compare.click(self._ask_again, [self.asked, *place, *asked], [self._this, self._that], **streamed)

    def says(self) -> Mapping[Component, Callable[[], Any]]:
        """The colours of its lists, by names which are words."""

        def named(colours: Mapping[str, str]) -> Callable[[], dict[str, str]]:
            return lambda: {_(name): colour for name, colour in colours.items()}

        lists = {
            self._source: views.COLOURS,
            self._cached: views.CACHED_COLOURS,
            self._tokens: views.LIKELY_COLOURS,
        }
        return {part: named(colours) for part, colours in lists.items()}

    def _build_prompt(self) -> None:
        with gr.Tab(N_("Prompt")):
            self._summary = gr.Markdown()
            self._source = _coloured(N_("Every token by where it came from"), views.COLOURS)
            with gr.Accordion(N_("Remembered or read anew"), open=False):
                self._cached = _coloured(N_("Every token by whether it was read for this reply"), views.CACHED_COLOURS)
            with gr.Accordion(N_("The text, exactly"), open=False):
                self._text = _code(None)
            with gr.Accordion(N_("The ids"), open=False):
                self._ids = _code("json")
            with gr.Accordion(N_("The conversation as the messages that pipe(chat) takes"), open=False):
                self._messages = _code("json")
            with gr.Accordion(N_("The chat template"), open=False):
                self._template = _code("jinja2")

    def _build_tokens(self) -> None:
        with gr.Tab(N_("Tokens")):
            self._reply = gr.Markdown()
            self._tokens = _coloured(
                N_("The reply's tokens by how likely the model found them"), views.LIKELY_COLOURS, "reply-tokens"
            )
            self._others = gr.Markdown(elem_id="alternatives")

    def _build_persona(self) -> None:
        with gr.Tab(N_("Persona")):
            self._price = gr.Markdown()
            self._compare = gr.Button(N_("Ask the same with the persona and settings at the right"), size="sm")
            with gr.Row(elem_id="side-by-side"):
                self._this, self._that = (gr.Markdown(latex_delimiters=markdown_escape.DELIMITERS) for _ in range(2))

    def _page(self, name: str) -> gr.Markdown:
        with gr.Tab(name):
            return gr.Markdown()

    async def _show(self, asked: str, *place: Any) -> PanelUpdates:
        found = await self._found(asked, *place)
        # What only this view has is loaded by the browser when it is first looked at.
        late = {part: gr.update(value=found[part], visible=True) for part in self._late}
        return {**found, **late}

    async def _found(self, asked: str, *place: Any) -> PanelUpdates:
        try:
            id = _asked(asked)
            tab = self._tab_of(place)
            reply = await asyncio.to_thread(tab.shelf.message, id)
            inspection, page = await _inspection(tab, id)
            path = await asyncio.to_thread(tab.shelf.path, reply.conversation, reply.id)
            before = await _before(tab, path)
        except Exception as error:
            return self._refused(_told(error))
        prompt, model, author = inspection.prompt, inspection.model, reply.author
        return {
            self.column: gr.update(visible=True),
            self._title: f"### {_('Inspect')} · {html.escape(model.name)} · {html.escape(model.precision)}",
            self._summary: views.prompt_summary(inspection),
            self._source: views.by_source(prompt),
            self._cached: views.by_cache(inspection),
            self._text: prompt.text,
            self._ids: json.dumps(prompt.token_ids),
            self._messages: views.messages_json(prompt),
            self._template: model.template.text if model.template else "",
            self._reply: views.tokens_summary(inspection),
            self._tokens: views.by_probability(inspection),
            self._others: "",
            self._time: views.time_view(inspection, page),
            self._memory: estimates_view.memory(inspection, path),
            self._ceiling: estimates_view.ceiling(inspection),
            self._why: views.why(inspection, before, reply),
            self._python: python_script.as_python(inspection, author.settings, author.seed) if author else "",
            self._price: estimates_view.persona(inspection),
            self._this: "",
            self._that: "",
        }

    def _refused(self, error: ChatError) -> PanelUpdates:
        """Nothing but why there is nothing to see; warnings of Gradio's do not reach events past its queue."""
        lists = (self._source, self._cached, self._tokens)
        nothing: PanelUpdates = {part: [] if part in lists else "" for part in self._shown}
        message, remedy = page_language.error_in_language(error)
        said = f"**{html.escape(message)}** {html.escape(remedy)}"
        return {**nothing, self.column: gr.update(visible=True), self._title: _("### Inspect"), self._summary: said}

    async def _saw(self, seen: str, *place: Any) -> None:
        times = _seen(seen)
        if times is None:
            return
        with contextlib.suppress(ChatError):
            tab = self._tab_of(place)
            for _attempt in range(KEPT_WITHIN if tab.runner.inspects else 0):
                # The reply is on the page a little before its inspection is in the store.
                if await asyncio.to_thread(tab.shelf.saw, _asked(seen), times):
                    return
                await asyncio.sleep(0.25)

    async def _choose(self, event: gr.SelectData, asked: str, *place: Any) -> str:
        try:
            id = _asked(asked)
            inspection, _page = await _inspection(self._tab_of(place), id)
            at = int(event.index[0] if isinstance(event.index, list | tuple) else event.index)
            if not 0 <= at < len(inspection.traces):
                raise NotFoundError("token")
            return views.alternatives(inspection, id, at)
        except Exception as error:
            return html.escape(page_language.sentence(_told(error)))

    async def _ask_again(self, asked: str, *inputs: Any) -> AsyncGenerator[tuple[str, str]]:
        """The same message and seed once more, with the persona and settings as they stand; nothing of it is kept."""
        try:
            id = _asked(asked)
            tab = self._tab_of(inputs[:2])
            reply = await asyncio.to_thread(tab.shelf.message, id)
            inspection, _page = await _inspection(tab, id)
            this = _column(_("This reply"), reply.content, inspection.finish, _persona_tokens(inspection))
            request = await self._again(tab, reply, inputs)
            said, finish, persona = "", None, 0
            async with contextlib.aclosing(batch_deltas(tab.runner.backend.stream(request))) as batches:
                async for deltas in batches:
                    for delta in deltas:
                        said, _thought = delta.onto(said, "")
                        finish = delta.finish or finish
                        if delta.prompt is not None:
                            persona = sum(span.tokens for span in delta.prompt.spans if span.source == "persona")
                    yield this, _column(_("With persona and settings at the right"), said, finish, persona)
        except Exception as error:
            yield "", html.escape(page_language.sentence(_told(error)))


async def with_other_token(tab: Tab, message: str, choice: str) -> StoredMessage:
    """A reply up to one of its tokens, with another in its place, by `choice`: the token's number, a point, an id.

    Raises NotFoundError where there is no such reply or token.
    """
    reply = await asyncio.to_thread(tab.shelf.message, message)
    inspection, _ = await _inspection(tab, message)
    at, _, other = choice.partition(".")
    traces = inspection.traces
    if not (at.isdecimal() and other.isdecimal() and int(at) < len(traces) and int(other) in traces[int(at)].ids):
        raise NotFoundError("token")
    return views.begun(inspection, reply, int(at), int(other))


async def _inspection(tab: Tab, id: str) -> tuple[Inspection, PageTimes | None]:
    kept = await asyncio.to_thread(tab.shelf.inspection, id)
    found = await asyncio.to_thread(Inspection.unpacked, kept.data) if kept is not None else None
    if kept is None or found is None:
        raise ChatError(
            "How this reply came about was not kept.",
            "Imported replies and those that failed have nothing to inspect; one just written has it in a moment.",
        )
    return found, kept.page


async def _before(tab: Tab, path: Sequence[StoredMessage]) -> Inspection | None:
    """The inspection of the reply in the turn before the last one of the path, if it was kept."""
    earlier = [message for message in path[:-1] if message.role == "assistant"]
    if not earlier:
        return None
    with contextlib.suppress(ChatError):
        inspection, _ = await _inspection(tab, earlier[-1].id)
        return inspection
    return None


def _asked(text: str) -> str:
    """The message that a page speaks of: `number|id|...`."""
    return (text or "").partition("|")[2].partition("|")[0]


def _seen(text: str) -> PageTimes | None:
    """When a page showed it: `number|id|first,last`; None where that makes no sense."""
    try:
        first, last = (float(part) for part in (text or "").rpartition("|")[2].split(","))
    except ValueError:
        return None
    return PageTimes(first, last) if 0 <= first <= last < 1e6 else None


def _persona_tokens(inspection: Inspection) -> int:
    return sum(span.tokens for span in inspection.prompt.spans if span.source == "persona")


def _column(title: str, text: str, finish: Finish | None, persona: int) -> str:
    facts = ngettext("persona {count} token", "persona {count} tokens", persona)
    if finish is not None:
        facts += " · " + ngettext(
            "{count} token in, read in {seconds} s · {written} out, {speed} tokens/s",
            "{count} tokens in, read in {seconds} s · {written} out, {speed} tokens/s",
            finish.prompt_tokens,
            seconds=number(finish.prefill_seconds, 2),
            written=finish.completion_tokens,
            speed=number(finish.tokens_per_second, 1),
        )
    return f"**{title}**\n\n<small>{facts}</small>\n\n{markdown_escape.escape(text)}"


def _told(error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    log.error("an event of the Inspect view failed", exc_info=error)
    return unexpected(error)


def _coloured(label: str, colours: dict[str, str], id: str | None = None) -> gr.HighlightedText:
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
