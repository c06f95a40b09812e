"""The tab Compare of the Models view: one message to two models, personas or settings, blind votes and ratings."""

import asyncio
import contextlib
import html
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from random import SystemRandom
from typing import Any, ClassVar

import gradio as gr

from chatui.errors import ChatError, SettingsError, unexpected
from chatui.generation_settings import GenerationSettings
from chatui.i18n import N_, _
from chatui.models.votes import Choice, tags_in
from chatui.setting_values import number_from_text
from chatui.ui.chat.api_endpoint import MAX_MESSAGE_LENGTH
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.sessions import MAX_TABS
from chatui.ui.gradio_compat.unchecked_inputs import UncheckedDropdown
from chatui.ui.markdown import markdown_escape
from chatui.ui.models.ratings_section import NAMED, RatingsSection
from chatui.ui.models.reply_columns import reply_columns, verdict
from chatui.ui.models.side_by_side import Comparisons, Label, RecentTabs, Side, SideBySide
from chatui.ui.models.tabs import QUIET, ModelsContext
from chatui.ui.shared import error_messages
from chatui.ui.shared.redraw import pause_after_redraw
from chatui.ui.shared.tab import Tab, current_tab
from chatui.ui.shared.updates import ComponentUpdates, PageUpdates

log = logging.getLogger(__name__)

FIELDS = GenerationSettings.model_fields
SETTINGS = {f"{NAMED}{name}": name for name in FIELDS if name not in ("seed", "stop")}
"""The settings that may differ, by their choices."""
CHOICES: tuple[tuple[Choice, str], ...] = (
    ("a", N_("A is better")),
    ("b", N_("B is better")),
    ("both", N_("Both are good")),
    ("neither", N_("Neither is good")),
)
CURRENT_PERSONA = (N_("The persona in the settings"), "")
INTRO = N_(
    "One message goes to both sides at once, with the same seed. Which reply is A and which is B is drawn at random; "
    "who wrote them, how fast and with what thoughts is shown after your vote. Settings that you do not choose here "
    "are those of the page."
)
OPEN_HINT = N_("The names are shown, so there is no vote: knowing them changes what one prefers.")
VOTE_HINT = N_("Which reply is better? The vote shows who wrote them.")

Action = Callable[..., Awaitable[ComponentUpdates]]


class CompareTab:
    """The components of the tab. The latest comparison of each browser tab is kept in memory for its vote."""

    id: ClassVar = "compare"
    title: ClassVar = N_("Compare")

    def __init__(self, context: ModelsContext) -> None:
        self._access, self._chat = context.access, context.chat
        self._comparisons = Comparisons(MAX_TABS)
        self._seen = RecentTabs(MAX_TABS)
        gr.Markdown(INTRO, elem_id="compare-intro")
        self._message = gr.Textbox(label=N_("Message"), lines=2, max_lines=8, elem_id="compare-message")
        with gr.Row(elem_id="compare-options"):
            settings = [(FIELDS[name].title or name, choice) for choice, name in SETTINGS.items()]
            self._setting = UncheckedDropdown(
                settings, value=f"{NAMED}temperature", label=N_("Setting that may differ"), filterable=False
            )
            self._tags = gr.Textbox(label=N_("Tags"), placeholder=N_("For example: code, poems"), max_lines=1)
        default = context.backend.models()[0].name
        with gr.Row(elem_id="compare-sides"):
            first, second = _side(default), _side(default)
        self._history = gr.Checkbox(label=N_("After the messages of the open chat"), value=False)
        self._open = gr.Checkbox(label=N_("Show the names at once (no vote)"), value=False)
        self._models, self._personas, self._values = zip(first, second, strict=True)
        self._start = gr.Button(N_("Compare"), variant="primary", size="sm", elem_id="compare-start")
        self._notice = gr.Markdown(elem_id="compare-notice")
        self._build_replies()
        self._ratings = RatingsSection(context.chat.runner)
        self.outputs: Sequence[Any] = [*self._models, *self._personas, *self._ratings.outputs]

    def _build_replies(self) -> None:
        with gr.Row(elem_id="compare-replies"):
            self._replies, self._stops = zip(*(_reply_column(label) for label in ("A", "B")), strict=True)
        with gr.Row(elem_id="compare-votes", visible=False) as self._votes:
            self._vote_buttons = [(choice, gr.Button(N_(label), size="sm")) for choice, label in CHOICES]
        with gr.Row(elem_id="compare-takeover", visible=False) as self._takeover:
            self._take = [
                gr.Button(N_("Go on with A in a chat"), size="sm"),
                gr.Button(N_("Go on with B in a chat"), size="sm"),
            ]

    async def show(self) -> ComponentUpdates:
        """The models and personas to choose from, and the ratings."""
        names = [model.name for model in self._access.models()]
        personas = [(_(CURRENT_PERSONA[0]), ""), *await self._chat.panel.choices()]
        first_time = self._seen.add(request_context.tab())
        other: dict[str, Any] = {"value": names[1]} if first_time and len(names) > 1 else {}
        return {
            self._models[0]: gr.update(choices=names),
            self._models[1]: gr.update(choices=names, **other),
            **{box: gr.update(choices=personas) for box in self._personas},
            **await self._ratings.updates(),
        }

    def connect(self) -> None:
        """Register the events of the tab."""
        tab = self._chat.tab_inputs
        sides = [*self._models, *self._personas, *self._values]
        inputs = [self._message, self._setting, self._history, self._open, *sides, *tab, *self._chat.reply_inputs]
        shown = [self._notice, *self._replies, *self._stops, self._votes, self._takeover]
        streamed = {**QUIET, "queue": True, "concurrency_limit": None, "trigger_mode": "once"}
        self._start.click(self._compare, inputs, shown, **streamed)
        labels: tuple[Label, Label] = ("a", "b")
        for label, stop, take in zip(labels, self._stops, self._take, strict=True):
            stop.click(partial(self._stop, label), tab, None, **QUIET)
            take.click(self._reporting(partial(self._take_over, label)), tab, self._notice, **QUIET)
        outputs = [*shown, *self._ratings.outputs]
        vote_inputs = [self._tags, *tab, *self._ratings.filters]
        for choice, button in self._vote_buttons:
            button.click(self._reporting(partial(self._vote, choice)), vote_inputs, outputs, **QUIET)
        self._ratings.connect()
        self._chat.temporary_chats.listeners.append(self._comparisons.forget)

    def _reporting(self, action: Action) -> Action:
        """The action as an event handler that shows an error in the tab."""

        async def handled(*inputs: Any) -> ComponentUpdates:
            try:
                return await action(*inputs)
            except Exception as error:
                return {self._notice: error_html(error)}

        return handled

    async def _compare(self, message: str, setting: str, history: bool, open_names: bool, *inputs: Any) -> PageUpdates:
        """Stream both replies."""
        sides, page_inputs = inputs[:6], inputs[6:]
        try:
            tab = current_tab(self._chat.runner, page_inputs)
            built = await self._sides(tab, message, setting, sides, page_inputs, history)
            comparison = SideBySide(tab.owner, built, not open_names, tab.state.temporary, tab.state.chat)
            self._comparisons.start(request_context.tab(), comparison)
        except Exception as error:
            yield {self._notice: error_html(error)}
            return
        async with contextlib.aclosing(self._stream(comparison)) as updates:
            async for update in updates:
                yield update

    async def _stream(self, comparison: SideBySide) -> AsyncGenerator[ComponentUpdates]:
        async with contextlib.aclosing(comparison.run(self._chat.runner.backend)) as steps:
            async for _step in steps:
                if request_context.is_abandoned():
                    return
                started = time.monotonic()
                yield self._shown(comparison)
                if comparison.running:
                    characters = sum(len(side.progress.text) for side in comparison.sides.values())
                    await pause_after_redraw(characters, self._chat.runner.running_count + 1, started)

    def _shown(self, comparison: SideBySide) -> ComponentUpdates:
        """Updates that show the comparison as it is now."""
        hint = verdict(comparison)
        if comparison.can_vote:
            hint = f"<p>{html.escape(_(VOTE_HINT))}</p>"
        elif not comparison.blind:
            hint = f"<p>{html.escape(_(OPEN_HINT))}</p>"
        stops = zip(self._stops, comparison.sides.values(), strict=True)
        can_take = comparison.names_shown and not comparison.running and not comparison.temporary
        return {
            self._notice: hint,
            **dict(zip(self._replies, reply_columns(comparison), strict=True)),
            **{button: gr.update(visible=not side.ended) for button, side in stops},
            self._votes: gr.update(visible=comparison.can_vote),
            self._takeover: gr.update(visible=can_take),
        }

    async def _sides(
        self, tab: Tab, message: str, setting: str, chosen: Sequence[Any], inputs: Sequence[Any], history: bool
    ) -> list[Side]:
        """Both sides as they were chosen: models, personas, values. Raises ChatError if nothing differs."""
        check_message(message)
        seed = SystemRandom().getrandbits(32)
        sides = []
        for model, persona_key, value in zip(chosen[:2], chosen[2:4], chosen[4:6], strict=True):
            settings = {"seed": seed, **changes(setting, value or "")}
            persona, request = await self._chat.requests.separate(
                tab, inputs, message, model or "", persona_key or "", settings, history
            )
            sides.append(Side(persona, request))
        if sides[0].contestant == sides[1].contestant:
            raise ChatError("Both sides are the same.", "Choose another model, persona or value for one of them.")
        return sides

    async def _stop(self, label: Label, *tab_inputs: Any) -> None:
        with contextlib.suppress(ChatError):
            tab = current_tab(self._chat.runner, tab_inputs)
            self._comparisons.find(request_context.tab(), tab.owner).stop(label)

    async def _vote(self, choice: Choice, tags: str, *inputs: Any) -> ComponentUpdates:
        """Store the vote, and show who wrote which reply."""
        tab, filters = current_tab(self._chat.runner, inputs[:2]), inputs[2:]
        comparison = self._comparisons.find(request_context.tab(), tab.owner)
        vote = comparison.vote(choice, tags_in(tags or ""))
        comparison.choice = choice  # before the store is asked: a second click must not vote again
        if not comparison.temporary:
            try:
                await asyncio.to_thread(tab.list_store.votes.add, [vote])
            except BaseException:
                comparison.choice = None
                raise
        return {**self._shown(comparison), **await self._ratings.updates(*filters)}

    async def _take_over(self, label: Label, *tab_inputs: Any) -> ComponentUpdates:
        """Store a reply in a new conversation, and show the link to it."""
        tab = current_tab(self._chat.runner, tab_inputs)
        comparison = self._comparisons.find(request_context.tab(), tab.owner)
        if comparison.running or not comparison.names_shown or comparison.temporary:
            raise ChatError("This reply cannot be taken over yet.", "Vote first.")
        (added,) = await asyncio.to_thread(tab.list_store.add_trees, [comparison.sides[label].as_tree()])
        link = f'<a class="chat-link" href="?chat={html.escape(added.id)}">{html.escape(_("Open the new chat"))}</a>'
        return {self._notice: f"<p>{link}</p>"}


def error_html(error: Exception) -> str:
    """An error as HTML: Gradio shows no warnings of events that are not queued."""
    if not isinstance(error, ChatError):
        log.error("an event of the tab Compare failed", exc_info=error)
        error = unexpected(error)
    return f'<p class="compare-error">{markdown_escape.plain(error_messages.error_line(error))}</p>'


def check_message(message: str) -> None:
    """Raise ChatError if the message is empty or too long."""
    if not (message or "").strip():
        raise ChatError("Type a message first.")
    if len(message) > MAX_MESSAGE_LENGTH:
        raise ChatError(f"The message has {len(message):,} characters; at most {MAX_MESSAGE_LENGTH:,} can be sent.")


def changes(setting: str, value: str) -> dict[str, Any]:
    """The setting that differs from those of the page; none if its box is empty. Raises SettingsError."""
    if not value.strip():
        return {}
    name = SETTINGS.get(setting)
    if name is None:
        raise SettingsError("setting", "there is no such one.")
    return {name: number_from_text(value.strip().replace(",", "."))}


def _side(model: str) -> tuple[UncheckedDropdown, UncheckedDropdown, gr.Textbox]:
    with gr.Column(min_width=240, elem_classes="compare-side"):
        return (
            UncheckedDropdown([model], value=model, label=N_("Model"), filterable=False),
            UncheckedDropdown([CURRENT_PERSONA], value="", label=N_("Persona"), filterable=False),
            # Not a number box: the browser turns one that is empty at first into 0.
            gr.Textbox(label=N_("Value of the setting"), placeholder=N_("As in the settings"), max_lines=1),
        )


def _reply_column(label: str) -> tuple[gr.Markdown, gr.Button]:
    with gr.Column(min_width=280, elem_classes="compare-reply"):
        text = gr.Markdown(latex_delimiters=markdown_escape.DELIMITERS)
        stop = gr.Button(N_("Stop A") if label == "A" else N_("Stop B"), size="sm", visible=False)
    return text, stop
