"""gr.ChatInterface over the stored conversations: every way to ask, and what the tab shows while it is answered.

The tab only listens: replies are written by the runner, and texts come from the store, never from the browser.
"""

import asyncio
import contextlib
import html
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component

from chatui import character_prompt, i18n
from chatui.character_prompt import CharacterPrompt
from chatui.chat import ChatRequest, Message, ModelStatus
from chatui.errors import ChatError, NotFoundError, StoreError, unexpected
from chatui.i18n import _
from chatui.macros import Scene
from chatui.personas import Persona
from chatui.runner import ReplyProgress, Runner, RunningReply, build_messages
from chatui.settings import GenerationSettings
from chatui.store.records import Author, NewTurn, Path, Rating, StoredMessage
from chatui.store.rows import new_id, shown_size
from chatui.ui.chat import actions, api_endpoint, context_bar, transcript
from chatui.ui.chat.preview_memos import PreviewMemos
from chatui.ui.chat.redraw import SingleFlight, Superseding, pause_after_redraw, render_off_loop
from chatui.ui.chat.tab import Tab
from chatui.ui.chat.tab_state import TabState
from chatui.ui.chat.temporary_chats import TemporaryChats
from chatui.ui.chat.transcript import Shown, View
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.chat_interface import ChatInterface
from chatui.ui.gradio_compat.hidden_textbox import hidden_textbox
from chatui.ui.gradio_compat.page_blocks import PageBlocks
from chatui.ui.gradio_compat.sessions import MAX_TABS
from chatui.ui.inspector import inspector_panel
from chatui.ui.inspector.inspector_panel import InspectorPanel
from chatui.ui.page import header, page_language
from chatui.ui.persona import macro_values, setting_controls
from chatui.ui.persona.persona_panel import LEFT, PersonaPanel
from chatui.ui.sidebar.import_tasks import ImportTask, ImportTasks
from chatui.ui.sidebar.sidebar import Sidebar

log = logging.getLogger(__name__)

LIST_SECONDS = 2.0
POLL_SECONDS = 0.5
"""How often a reply that another server writes is looked at."""

CONTEXT_LENGTH = 4096
"""Tokens for which lore is chosen while the model is loading."""

HALF = "\ufffd"
"""What stands for the rest of a character where a reply was cut within one."""

PageUpdates = AsyncGenerator[dict[Component, Any]]
TabAction = Callable[[Tab], Awaitable[RunningReply | None]]


class Conversation(ChatInterface):
    """gr.ChatInterface with one event per turn instead of its chain of eight.

    The chain leaves the text box dead after a failure and cannot stop a reply to an edited message. Here every event
    is one generator that does a step, shows the conversation, and listens to the reply that is written there, if any;
    it never raises.
    """

    def __init__(self, page: PageBlocks, runner: Runner, panel: PersonaPanel, sidebar: Sidebar, **parts: Any) -> None:
        """`page` is the one being built; the others are what its events need."""
        self._page, self._runner, self._backend = page, runner, runner.backend
        self._panel, self._sidebar = panel, sidebar
        self._where = hidden_textbox("where")
        self._action = hidden_textbox("action")
        # Not the message box itself: an event that takes it clears what its validation has said.
        self._draft = hidden_textbox("draft")
        self._latest = Superseding()
        self._temporary = TemporaryChats(runner)
        self._imports = ImportTasks()
        self._memos = PreviewMemos()
        self._once: SingleFlight[TabState] = SingleFlight(MAX_TABS)
        super().__init__(
            api_endpoint.chat(self._backend), api_name="chat", editable=True, concurrency_limit=None, **parts
        )

    def setup_events(self) -> None:
        """Connect the events of the chat and of what acts on it."""
        self._status: Component = self.additional_outputs[0]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        outputs = [self.chatbot, self.textbox, self._status, self._where, self._sidebar.list]
        # Each output costs at every redraw, changed or not; only what opens a conversation shows its persona.
        opened = [*outputs, *self._panel.outputs]
        # One event of a tab ends the one before on the server, see Latest; ended by the browser, it may take the new
        # one along.
        turn: dict[str, Any] = {"outputs": outputs, "concurrency_limit": None, "trigger_mode": "multiple", **quiet}
        place: list[Component] = [self._where, self._sidebar.search]
        asked = [*place, *self._panel.inputs, *self.additional_inputs]
        for event in (
            self.textbox.submit(self._send, [self.textbox, *asked], validator=_check_message, **turn),
            self.chatbot.example_select(self._send_example, asked, validator=_check, **turn),
            self.chatbot.retry(self._retry, asked, validator=_check, **turn),
            self.chatbot.edit(self._edit, [self._draft, *asked], validator=_check, **turn),
            self._action.change(self._do, [self._action, *asked], **{**turn, "outputs": opened}),
        ):
            event.failure(_ready, None, self.textbox, queue=False, **quiet)
        self.chatbot.undo(self._undo, place, **turn)
        self._sidebar.new.click(self._new, place, **turn)
        self._sidebar.temporary.click(self._new_temporary, place, **turn)
        # Not queued: of several queued events at once Gradio's page may lose one.
        loaded = self._page.load(self._open, place, [*opened, self._action], queue=False, **quiet)
        self._page.opens_with(loaded, self._first)
        self._page.unload(self._closed)
        self.textbox.stop(self._stop, place, **turn)
        self.chatbot.like(self._like, place, **turn)
        found: dict[str, Any] = {"queue": False, "trigger_mode": "always_last", **quiet}
        self._sidebar.search.change(self._search, place, self._sidebar.list, **found)
        brought: dict[str, Any] = {"concurrency_limit": None, "trigger_mode": "multiple", **quiet}
        coming: list[Component] = [self._sidebar.list, self._sidebar.bringing, self._sidebar.progress]
        self._sidebar.bring.upload(self._import, [self._sidebar.bring, *place], coming, **brought)
        self._sidebar.cancel.click(self._cancel_import, place, None, queue=False, **quiet)
        api_inputs = [gr.Textbox(visible=False, label="system_prompt"), *setting_controls.build_api()]
        self.add_api_endpoint(
            api_inputs, "Send a message; yields the reply as it grows. What is left out is the model's default."
        )

    def connect(self, inspect: InspectorPanel, context: gr.Markdown) -> None:
        """Make the Inspect view and the line about the context work, which stand behind the chat on the page."""
        place: list[Component] = [self._where, self._sidebar.search]
        asked = [*self._panel.inputs, *self.additional_inputs]
        inspect.connect(self._tab, self._again, place, asked)
        boxes: list[Any] = [*self._panel.inputs[-2:], *self.additional_inputs]
        gr.on(
            [self._draft.change, self._where.change, *(box.change for box in boxes)],
            self._context,
            [self._draft, *place, *asked],
            context,
            queue=False,
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )

    async def _send(self, message: str, *inputs: Any) -> PageUpdates:
        async def step(tab: Tab) -> RunningReply:
            return await self._ask(tab, inputs, message, tab.place.ids[-1] if tab.place.ids else None)

        async for update in self._run(inputs, step, asks=message, sent=True):
            yield update

    async def _send_example(self, event: gr.SelectData, *inputs: Any) -> PageUpdates:
        async def step(tab: Tab) -> RunningReply:
            return await self._ask(tab, inputs, str(event.value["text"]), None)

        async for update in self._run(inputs, step, asks=event.value):
            yield update

    async def _retry(self, event: gr.RetryData, *inputs: Any) -> PageUpdates:
        async def step(tab: Tab) -> RunningReply:
            return await self._ask(tab, inputs, None, tab.place.message(_index(event.index)))

        async for update in self._run(inputs, step, asks=("retry", event.index)):
            yield update

    async def _edit(self, event: gr.EditData, draft: str | None, *inputs: Any) -> PageUpdates:
        """Ask anew with another text; where it is refused, the text goes to the box below what is typed there."""
        text, refused = transcript.text_of(event.value), False

        async def step(tab: Tab) -> RunningReply:
            nonlocal refused
            edited = await asyncio.to_thread(tab.owner_store.message, tab.place.message(_index(event.index)))
            try:
                return await self._ask(tab, inputs, text, edited.parent)
            except ChatError:
                refused = True
                raise

        async for update in self._run(inputs, step, asks=(event.index, event.value)):
            if refused:
                kept = f"{draft}\n\n{text}" if (draft or "").strip() else text
                update = {**update, self.textbox: gr.update(value=kept, **_waits())}
            yield update

    async def _undo(self, event: gr.UndoData, *inputs: Any) -> PageUpdates:
        """Take the last turn back into the text box; it stays in the tree as another version."""
        draft = ""

        async def step(tab: Tab) -> None:
            nonlocal draft
            await tab.stop()
            message = await asyncio.to_thread(tab.owner_store.message, tab.place.message(_index(event.index)))
            await asyncio.to_thread(tab.owner_store.rewind, message.id)
            draft = message.content

        async for update in self._run(inputs, step):
            yield {**update, self.textbox: gr.update(value=draft, **_waits())}

    async def _new(self, *inputs: Any) -> PageUpdates:
        async for update in self._run(inputs, _leave):
            yield update

    async def _new_temporary(self, *inputs: Any) -> PageUpdates:
        async for update in self._run(inputs, _leave_no_trace):
            yield update

    async def _stop(self, *inputs: Any) -> PageUpdates:
        async def step(tab: Tab) -> RunningReply | None:
            return await tab.stop()

        async for update in self._run(inputs, step):
            yield update

    async def _do(self, action: str, *inputs: Any) -> PageUpdates:
        """An action of the list of conversations or of the bar below a message: `number|name=target=value`."""
        name, _, rest = (action or "").partition("|")[2].partition("=")
        if name == "greeting":
            yield await self._greets(rest, inputs)
            return

        async def step(tab: Tab) -> RunningReply | None:
            target, _, value = rest.partition("=")
            if name == "other":
                begun = await inspector_panel.with_other_token(tab, target, value)
                return await self._ask(tab, inputs, None, begun.parent, goes_on=begun)
            if name != "continue":
                tab.place = await actions.do(tab, name, target, value)
                return None
            cut = await asyncio.to_thread(tab.owner_store.message, target)
            if not transcript.can_go_on(cut):
                raise ChatError("This reply cannot be continued.", "Ask for another version instead.")
            return await self._ask(tab, inputs, None, cut.parent, goes_on=cut)

        asks = rest if name in ("continue", "other", "branch") else None
        async for update in self._run(inputs, step, asks=asks, opens=name in ("open", "branch", "restore")):
            yield update

    async def _greets(self, number: str, inputs: Sequence[Any]) -> dict[Component, Any]:
        """Another greeting of the persona's in the empty chat."""
        try:
            persona, *_ = await self._chosen(self._tab(inputs), inputs)
            return self._panel.greets(persona, number)
        except ChatError as error:
            page_language.warn(error)
            return {self._panel.greeting: gr.skip()}

    async def _first(self) -> dict[Any, Any]:
        """What the page shows at first, at an address that may name a conversation."""

        async def step(tab: Tab) -> None:
            tab.place = tab.place.at(request_context.address().get("chat", "")[:100])

        listed: dict[Any, Any] = {}
        with contextlib.suppress(ChatError):  # what is wrong is said in the chat
            listed = await self._panel.listed()
        async with contextlib.aclosing(self._done(("", ""), step, sent=False, opens=True)) as updates:
            return {**listed, **await anext(updates)}

    async def _open(self, where: str, _: str) -> dict[Any, Any]:
        """The page has been loaded: show what it was not sent with, and listen to a reply that is being written."""
        shown = {self._where: gr.skip()} if where else await self._first()
        if TabState.read(where or shown.get(self._where)).growing:
            shown[self._action] = "0|refresh"
        return shown

    async def _closed(self) -> None:
        """The tab is closed: let go of its temporary chat, and of what Gradio keeps of it."""
        self._memos.left(request_context.tab())
        await self._temporary.left(request_context.tab())
        await request_context.forget_tab()

    async def _like(self, event: gr.LikeData, *inputs: Any) -> PageUpdates:
        async def step(tab: Tab) -> None:
            rated = await asyncio.to_thread(tab.owner_store.message, tab.place.message(_index(event.index)))
            rating: Rating | None = "like" if event.liked is True else "dislike" if event.liked is False else None
            await asyncio.to_thread(tab.owner_store.rate, rated.id, rating, rated.note if rating else "")

        async for update in self._run(inputs, step):
            yield update

    async def _search(self, *inputs: Any) -> Any:
        return await self._searched(inputs)

    async def _searched(self, inputs: Sequence[Any]) -> Any:
        try:
            return await self._sidebar.listed(self._tab(inputs))
        except Exception as error:
            page_language.warn(_known(error))
            return gr.skip()

    async def _import(self, path: str | None, *inputs: Any) -> PageUpdates:
        shown: dict[Component, Any] = {}
        try:
            tab = self._tab(inputs)
            coming = ImportTask(tab.kept, path)
            async with contextlib.aclosing(self._imports.run(tab.owner, coming)) as steps:
                async for _step in steps:
                    shown = {self._sidebar.bringing: gr.update(visible=False)}
                    yield {self._sidebar.bringing: gr.update(visible=True), self._sidebar.progress: coming.progress()}
            _tell_of(coming)
        except Exception as error:
            page_language.warn(_known(error))
        yield {**shown, self._sidebar.list: await self._searched(inputs)}

    async def _cancel_import(self, *inputs: Any) -> None:
        with contextlib.suppress(ChatError):
            self._imports.cancel(self._tab(inputs).owner)

    def _tab(self, inputs: Sequence[Any]) -> Tab:
        place = TabState.read(inputs[0])
        owner = request_context.owner()
        if owner is None:
            raise ChatError(
                "This browser keeps no cookies, so nobody can tell whose chats to show.", "Load the page again."
            )
        return Tab(owner, place, self._runner, inputs[1] or "", request_context.before_login())

    async def _ask(
        self,
        tab: Tab,
        inputs: Sequence[Any],
        question: str | None,
        parent: str | None,
        goes_on: StoredMessage | None = None,
    ) -> RunningReply:
        """Begin a reply: to a new `question` below `parent`, or to the message `parent`, or one that `goes_on`."""
        persona, start_with, settings = await self._chosen(tab, inputs)
        model = self._backend.models()[0]
        seed = settings.seed if settings.seed is not None else random.SystemRandom().getrandbits(32)
        chat = tab.place.chat or new_id()
        scene = macro_values.macro_scene(persona, model.name, seed, chat)
        greetings = macro_values.greetings(persona, model.name)
        greeting = self._greeting(inputs, greetings)
        await tab.stop()
        before: Sequence[str] = greetings[greeting : greeting + 1] if question is not None else ()
        if tab.place.chat:
            before = await self._said(tab, persona, parent)
        prompted = await self._prompted(persona, [*before, *([question] if question is not None else [])], scene)
        author = Author(
            model=model.name,
            revision=model.info.revision if model.info else "",
            system_prompt=prompted.system_prompt,
            settings=settings,
            seed=seed,
            prefix=goes_on.content.rstrip(HALF) if goes_on else start_with,
            prefix_reasoning=goes_on.reasoning if goes_on else "",
            insertions=prompted.insertions,
            moment=scene.moment.isoformat(),
        )
        turn = NewTurn(tab.place.chat or None, parent or None, question, author, persona, greetings, chat, greeting)
        live = await self._runner.ask(tab.owner, turn, tab.place.temporary)
        tab.place = replace(tab.place, chat=live.conversation.id)
        return live

    async def _chosen(self, tab: Tab, inputs: Sequence[Any]) -> tuple[Persona, str, GenerationSettings]:
        """The persona, the reply's start, and the settings."""
        chosen, (start_with, *values) = inputs[2 : 2 + len(self._panel.inputs)], inputs[2 + len(self._panel.inputs) :]
        settings = setting_controls.read(values)
        persona = await self._panel.persona(*chosen)
        if tab.place.chat and str(chosen[0]).startswith(LEFT):
            left = await asyncio.to_thread(tab.owner_store.initial_persona, tab.place.chat)
            persona = replace(persona, card=left.card if left.name == persona.name else None)
        return persona, start_with or "", settings

    def _greeting(self, inputs: Sequence[Any], greetings: Sequence[str]) -> int:
        """Which greeting the empty page shows."""
        return macro_values.number(inputs[1 + len(self._panel.inputs)], greetings)

    async def _said(self, tab: Tab, persona: Persona, leaf: str | None) -> list[str]:
        """What has been said up to this message, as far as it matters for what the persona is told."""
        if not leaf or not character_prompt.has_lorebook(persona):
            return []
        path = await self._runner.path(tab.owner, tab.place.chat, leaf, tab.place.temporary)
        return [message.content for message in path.messages]

    async def _prompted(self, persona: Persona, said: Sequence[str], scene: Scene) -> CharacterPrompt:
        """The persona's system prompt, and what stands inside the conversation."""
        info = self._backend.models()[0].info
        context = info.context_length if info else CONTEXT_LENGTH
        return await asyncio.to_thread(character_prompt.build_prompt, persona, list(filter(None, said)), scene, context)

    async def _again(self, tab: Tab, reply: StoredMessage, inputs: Sequence[Any]) -> ChatRequest:
        """The request for `reply` once more with its seed, and with the persona and settings as they now stand."""
        persona, start_with, settings = await self._chosen(tab, inputs)
        path = await self._runner.path(tab.owner, reply.conversation, reply.parent, tab.place.temporary)
        seed, moment = (reply.author.seed, reply.author.moment) if reply.author else (settings.seed, "")
        settings = settings.model_copy(update={"seed": seed})
        scene = macro_values.macro_scene(persona, self._backend.models()[0].name, seed, reply.conversation, moment)
        prompted = await self._prompted(persona, [message.content for message in path.messages], scene)
        begun = Message("assistant", start_with) if start_with else None
        messages = build_messages(prompted.system_prompt, path.messages, begun, prompted.insertions)
        chat = tab.place.chat if tab.place.temporary else ""
        return ChatRequest(messages, settings, user=tab.owner, chat=chat)

    async def _context(self, draft: str | None, *inputs: Any) -> str:
        """How full the context is, with what is being typed."""
        info = self._backend.models()[0].info
        if info is None or len(draft or "") > api_endpoint.MAX_MESSAGE_LENGTH:
            return ""
        try:
            tab = self._tab(inputs)
            persona, start_with, settings = await self._chosen(tab, inputs)
            model = self._backend.models()[0].name
            end = Path(())
            if tab.place.chat:
                end = await self._runner.path(tab.owner, tab.place.chat, None, tab.place.temporary)
            greetings = () if tab.place.chat else macro_values.greetings(persona, model)
            blank = not (draft or "").strip()
            path: list[StoredMessage | Message] = [
                *(Message("assistant", text) for text in greetings[self._greeting(inputs, greetings) :][:1]),
                *end.messages,
                Message("user", "?" if blank else draft or ""),
            ]
            scene = macro_values.macro_scene(persona, model, settings.seed, tab.place.chat)
            prompted = await self._prompted(persona, [message.content for message in path], scene)
            begun = Message("assistant", start_with) if start_with else None
            messages = build_messages(prompted.system_prompt, path, begun, prompted.insertions)
            memo = self._memos.at(request_context.tab(), tab.place.chat)
            found = await self._backend.preview(ChatRequest(messages, settings), memo)
            if found is None:
                return ""
            return context_bar.bar(info, replace(found, dropped=found.dropped + end.earlier), settings, blank)
        except ChatError as error:
            return context_bar.refusal(error)

    async def _run(
        self, inputs: Sequence[Any], step: TabAction, asks: object = None, sent: bool = False, opens: bool = False
    ) -> PageUpdates:
        """Do a step, then show where the tab stands and listen.

        `asks` is what a step writes anew, which is done once; `sent` empties the box, `opens` shows the persona.
        """
        name = request_context.tab()
        async with self._latest.in_place_of_the_last(name) as superseded:
            if asks is None:
                self._once.forget(name)
            else:
                step = self._done_once(name, (inputs, asks), step)
            async for update in self._done(inputs, step, sent, opens):
                if superseded.is_set():
                    return
                yield update

    def _done_once(self, name: str, asked: object, step: TabAction) -> TabAction:
        """The step; where the tab `name` has just `asked` the same, what came of it is shown once more."""

        async def once(tab: Tab) -> RunningReply | None:
            live: RunningReply | None = None

            async def work() -> TabState:
                nonlocal live
                live = await step(tab)
                return tab.place

            tab.place = await self._once.do(name, asked, work)
            return live

        return once

    async def _done(self, inputs: Sequence[Any], step: TabAction, sent: bool, opens: bool) -> PageUpdates:
        tab: Tab | None = None
        live: RunningReply | None = None
        failure: list[Shown] = []
        try:
            tab = self._tab(inputs)
            live = await step(tab)
        except Exception as error:
            failure.append(_card(error))
        if tab is None:
            yield {self.chatbot: failure, self.textbox: _ready()}
            return
        try:
            async for update in self._shown(tab, live, sent and not failure, opens, failure):
                yield update
        except Exception as error:
            if isinstance(error, StoreError) and not opens:
                page_language.warn(error)  # what is shown stays; there may be nothing to read
                yield {self.textbox: _ready()}
                return
            yield {self.chatbot: [_card(error)], self.textbox: _ready()}

    async def _shown(
        self, tab: Tab, live: RunningReply | None, sent: bool, opens: bool, failure: list[Shown]
    ) -> PageUpdates:
        """The conversation where the tab stands, and its last reply while it grows."""
        most = transcript.most(tab.place.messages)
        end = transcript.end(Path(live.path, live.earlier), *most) if live else Path(())
        try:
            if live is None and tab.place.chat:
                end = await asyncio.to_thread(tab.owner_store.visible_path, tab.place.chat, *most)
        except NotFoundError as error:
            tab.place = tab.place.at("")
            failure = [*failure, transcript.card(error)]
        path = end.messages
        writing = path[-1] if path and path[-1].state == "running" else None
        length = sum(map(shown_size, path))
        seen = await render_off_loop(length, transcript.view, path[:-1] if writing else path, writing, end.earlier)
        before = seen.shown
        ids = (*seen.ids, writing.id) if writing else tuple(seen.ids)
        tab.place = replace(tab.place, ids=ids, growing=writing is not None)
        if not self._temporary.is_closed(request_context.tab()):
            self._memos.stands(request_context.tab(), tab.place.chat)
        await self._temporary.stands(request_context.tab(), tab.owner, tab.place.chat if tab.place.temporary else "")
        model = self._backend.models()[0]
        panel = await self._panel_shows(tab) if opens else {}
        yield {
            **panel,
            self.chatbot: {
                **panel.get(self.chatbot, {}),
                **gr.update(value=[*before, *failure], feedback_value=seen.ratings),
            },
            self.textbox: _busy(sent) if writing else _ready(sent),
            self._status: header.status(model),
            self._where: tab.place.written(),
            self._sidebar.list: await self._listed(tab),
        }
        if writing is None:
            return
        live = live or self._runner.live(tab.owner, writing.id)
        last, growing = writing, live.growing if live else None
        async for last in self._growing(tab, live, writing):
            if request_context.is_abandoned():
                return
            model = self._backend.models()[0]
            unkept = live.unkept if live else None
            reply = await render_off_loop(
                shown_size(last), transcript.reply, last, growing, _phase(model, growing), unkept
            )
            speed = transcript.speed(growing) if growing else ""
            yield {self.chatbot: [*before, *reply], self._status: header.status(model, speed)}
        if live is not None and live.unkept is not None:
            async for update in self._unkept(tab, live, seen, failure):
                yield update
            last = live.as_message()
        seen.add(last, await render_off_loop(shown_size(last), transcript.reply, last, growing))
        yield self._ended(tab, seen, growing, failure)

    async def _unkept(self, tab: Tab, live: RunningReply, seen: View, failure: list[Shown]) -> PageUpdates:
        """A reply is over and cannot be saved: say so until it is. Meanwhile the page is ready for the next message."""
        said = ""
        async for _change in live.changes(until_kept=True):
            if request_context.is_abandoned():
                return
            if live.unkept is not None and str(live.unkept) != said:
                said, last = str(live.unkept), live.as_message()
                reply = await render_off_loop(shown_size(last), transcript.reply, last, live.growing, "", live.unkept)
                view = seen.and_then(last, reply)
                yield self._ended(tab, view, live.growing, failure)
            else:
                yield {self._status: gr.skip()}  # by which the event learns that another takes its place

    def _ended(self, tab: Tab, seen: View, growing: ReplyProgress | None, failure: list[Shown]) -> dict[Component, Any]:
        tab.place = replace(tab.place, ids=tuple(seen.ids), growing=False)
        return {
            self.chatbot: gr.update(value=[*seen.shown, *failure], feedback_value=seen.ratings),
            self.textbox: _ready(),
            self._status: header.status(self._backend.models()[0], transcript.speed(growing) if growing else ""),
            self._where: tab.place.written(),
        }

    async def _listed(self, tab: Tab) -> Any:
        """The list; as it was where the store does not give it, for that holds up no chat."""
        try:
            async with asyncio.timeout(LIST_SECONDS):
                return await self._sidebar.listed(tab)
        except (StoreError, TimeoutError):
            return gr.skip()

    async def _growing(
        self, tab: Tab, live: RunningReply | None, message: StoredMessage
    ) -> AsyncIterator[StoredMessage]:
        """The reply as it grows, to its end: from the runner, or from the store where another server writes it."""
        if live is None:
            while message.state == "running":
                yield message
                await asyncio.sleep(POLL_SECONDS)
                with contextlib.suppress(StoreError):  # it may be there again the next time
                    message = await asyncio.to_thread(tab.owner_store.message, message.id)
        else:
            async for _change in live.changes():
                began = time.monotonic()
                yield live.as_message()
                await pause_after_redraw(
                    len(live.growing.text) + len(live.growing.reasoning), self._runner.replies, began
                )
            message = live.as_message()
        yield message

    async def _panel_shows(self, tab: Tab) -> dict[Component, Any]:
        """The persona that the conversation began with, as it was then, also for the next chat that is begun."""
        if not tab.place.chat:
            return {}
        persona = await asyncio.to_thread(tab.owner_store.initial_persona, tab.place.chat)
        return {**await self._panel.shows(persona), **self._panel.greets(persona)}


async def _leave(tab: Tab) -> None:
    tab.place = tab.place.at("")


async def _leave_no_trace(tab: Tab) -> None:
    tab.place = tab.place.at("", temporary=True)


def _tell_of(coming: ImportTask) -> None:
    """Say what an import came to."""
    if came := coming.came():
        gr.Info(html.escape(came))
    if left := coming.left():
        gr.Warning(html.escape(left).replace("\n", "<br>"), duration=60)


def _card(error: Exception) -> Shown:
    return transcript.card(_known(error))


def _known(error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    log.error("an event of the page failed", exc_info=error)
    return unexpected(error)


def _index(index: Any) -> int:
    """The position of a message; Gradio gives a pair for a part of a group."""
    return int(index[0] if isinstance(index, list | tuple) else index)


def _phase(model: ModelStatus, growing: ReplyProgress | None) -> str:
    """What goes on before the first text."""
    if model.state == "loading":
        return _("Waiting for the model: {phase} …", phase=i18n.translated(model.phase))
    return transcript.phase(growing) if growing is not None else ""


def _check_message(message: str, *inputs: Any) -> list[Any]:
    wrong = ""
    if not message or not message.strip():
        wrong = _("Type a message first.")
    elif len(message) > api_endpoint.MAX_MESSAGE_LENGTH:
        wrong = _(
            "The message has {count} characters; at most {most} can be sent.",
            count=len(message),
            most=api_endpoint.MAX_MESSAGE_LENGTH,
        )
    settings = _check(*inputs)
    # Said at the message box too, for a closed sidebar shows nothing.
    wrong = wrong or next((problem["message"] for problem in settings if not problem["is_valid"]), "")
    return [gr.validate(not wrong, wrong), *settings]


def _check(*inputs: Any) -> list[Any]:
    """For each input, of which the settings are the last: what is wrong with it."""
    settings = inputs[-len(setting_controls.NAMES) :]
    fine = [gr.validate(True, "") for _ in inputs[: -len(setting_controls.NAMES)]]
    return [*fine, *(gr.validate(not problem, problem) for problem in setting_controls.problems(settings))]


def _waits() -> dict[str, Any]:
    return {"submit_btn": _("Send"), "stop_btn": False, "interactive": True}


def _busy(clear: bool = False) -> Any:
    """The text box while a reply is written; what is being typed stays unless it was just sent."""
    buttons: dict[str, Any] = {"submit_btn": False, "stop_btn": _("Stop")}
    return gr.update(value="", **buttons) if clear else gr.update(**buttons)


def _ready(clear: bool = False) -> Any:
    return gr.update(value="", **_waits()) if clear else gr.update(**_waits())
