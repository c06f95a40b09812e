"""Runs the events of tabs: the newest of a tab ends the one before, a repeated one runs once, failures become cards."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import gradio as gr

from chatui import tracing
from chatui.errors import ChatError, StoreError, unexpected
from chatui.runner import Runner
from chatui.running_reply import RunningReply
from chatui.store.notifications import ORIGIN
from chatui.ui.chat import message_box, transcript
from chatui.ui.chat.components import ChatComponents
from chatui.ui.chat.conversation_view import LIST_TIMEOUT_SECONDS, ConversationView
from chatui.ui.chat.transcript import ChatbotMessage
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.sessions import MAX_TABS
from chatui.ui.shared import error_messages
from chatui.ui.shared.redraw import SingleFlight, Superseding
from chatui.ui.shared.tab import Tab, current_tab
from chatui.ui.shared.tab_state import TabState
from chatui.ui.shared.updates import ComponentUpdates, PageUpdates

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_TRANSIT_SECONDS = 10.0
"""After which a tab knows the state that it was sent, or has got another one from another server."""

TabAction = Callable[[Tab], Awaitable[RunningReply | None]]
"""What an event does to its tab; returns the reply that it started, if any."""


class EventRunner:
    """Each event runs an action, then shows the tab's conversation and its running reply. It never raises."""

    def __init__(self, runner: Runner, components: ChatComponents, view: ConversationView) -> None:
        self._runner, self._components, self._view = runner, components, view
        self._superseding = Superseding()
        self._single_flight: SingleFlight[TabState] = SingleFlight(MAX_TABS)
        self._sent_states: dict[str, tuple[float, str]] = {}

    async def run(
        self,
        inputs: Sequence[Any],
        action: TabAction,
        idempotency_key: object = None,
        clear: bool = False,
        with_persona: bool = False,
        yields: bool = False,
    ) -> PageUpdates:
        """Run an action in place of the tab's running event, then show the conversation.

        An action with an `idempotency_key` runs once where the tab sends it twice in a row with the same inputs.
        `clear` empties the message box; `with_persona` updates the persona panel. With `yields` nothing is done if the
        tab has an event that goes on: that shows the conversation.
        """
        session = request_context.tab()
        if yields and not await self._is_current(session, inputs):
            return
        async with self._superseding.supersede(session) as superseded:
            if idempotency_key is None:
                self._single_flight.forget(session)
            else:
                action = self._run_once(session, (inputs, idempotency_key), action)
            async for update in self.run_and_show(inputs, action, clear, with_persona):
                if superseded.is_set():
                    # Gradio sends an event's last update again when the event has ended, which may be after the newer
                    # event's update. This one changes nothing.
                    yield {self._components.status: gr.skip()}
                    return
                self._note_state(session, update)
                yield update

    async def when_idle(self, inputs: Sequence[Any], read: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """What `read` returns; None if the tab has another event before or meanwhile, which `inputs` do not know.

        None too if it takes longer than LIST_TIMEOUT_SECONDS. Another event does not wait for it.
        """
        session = request_context.tab()
        if not await self._is_current(session, inputs):
            return None
        async with self._superseding.supersede(session) as superseded:
            reading, newer = asyncio.ensure_future(read()), asyncio.ensure_future(superseded.wait())
            try:
                await asyncio.wait((reading, newer), timeout=LIST_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                return reading.result() if reading.done() and not superseded.is_set() else None
            finally:
                reading.cancel()
                newer.cancel()

    def last_sent(self) -> object:
        """What tells the last thing that the tab of this event has sent from all others."""
        return self._single_flight.last(request_context.tab())

    async def _is_current(self, session: str, inputs: Sequence[Any]) -> bool:
        """Whether no event of the tab is running, and `inputs` have the state that the last one has sent."""
        idle = await self._superseding.wait_idle(session)
        sent_at, state = self._sent_states.get(session, (float("-inf"), ""))
        if not idle or time.monotonic() - sent_at >= MAX_TRANSIT_SECONDS:
            return idle
        return TabState.from_json(state) == TabState.from_json(inputs[0])  # but for the turn, which the page restores

    def _note_state(self, session: str, update: ComponentUpdates) -> None:
        """Remember the state that is on its way to the tab."""
        if session and self._components.tab_state in update:
            now = time.monotonic()
            recent = {tab: sent for tab, sent in self._sent_states.items() if now - sent[0] < MAX_TRANSIT_SECONDS}
            self._sent_states = {**recent, session: (now, update[self._components.tab_state])}

    def _run_once(self, session: str, key: object, action: TabAction) -> TabAction:
        """The action; if the last one of this session had the same key, its result is shown again instead."""

        async def once(tab: Tab) -> RunningReply | None:
            reply: RunningReply | None = None

            async def work() -> TabState:
                nonlocal reply
                reply = await action(tab)
                return tab.state

            tab.state = await self._single_flight.run(session, key, work)
            return reply

        return once

    async def run_and_show(
        self, inputs: Sequence[Any], action: TabAction, clear: bool = False, with_persona: bool = False
    ) -> PageUpdates:
        """Run an action and show the conversation, without ending the tab's running event."""
        tab: Tab | None = None
        reply: RunningReply | None = None
        errors: list[ChatbotMessage] = []
        try:
            tab = current_tab(self._runner, inputs)
            ORIGIN.set(request_context.tab())
            with tracing.span("page.event"):
                reply = await action(tab)
        except Exception as error:
            errors.append(transcript.error_card(as_chat_error(error)))
        if tab is None:
            yield {self._components.chatbot: errors, self._components.textbox: message_box.ready()}
            return
        try:
            async for update in self._view.show(tab, reply, clear and not errors, with_persona, errors):
                yield update
        except Exception as error:
            if isinstance(error, StoreError) and not with_persona:
                error_messages.warn(error)  # what is shown stays; there may be nothing to read
                yield {self._components.textbox: message_box.ready()}
                return
            card = transcript.error_card(as_chat_error(error))
            yield {self._components.chatbot: [card], self._components.textbox: message_box.ready()}


def as_chat_error(error: Exception) -> ChatError:
    """The error itself, or an unexpected one in its place, which is logged."""
    if isinstance(error, ChatError):
        return error
    log.error("an event of the page failed", exc_info=error)
    return unexpected(error)
