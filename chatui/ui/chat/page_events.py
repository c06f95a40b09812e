"""The events of the page itself: its initial values, loading and closing."""

import contextlib

import gradio as gr

from chatui.errors import ChatError
from chatui.ui.chat.components import ChatComponents
from chatui.ui.chat.event_runner import EventRunner
from chatui.ui.chat.preview_memos import PreviewMemos
from chatui.ui.chat.temporary_chats import TemporaryChats
from chatui.ui.gradio_compat import request_context
from chatui.ui.shared.tab import Tab
from chatui.ui.shared.tab_state import TabState
from chatui.ui.shared.updates import ComponentUpdates


class PageEvents:
    """`loaded` and `closed` are Gradio event handlers; the page is sent with what `initial_values` returns."""

    def __init__(
        self, components: ChatComponents, events: EventRunner, temporary: TemporaryChats, memos: PreviewMemos
    ) -> None:
        self._components, self._events = components, events
        self._temporary, self._memos = temporary, memos

    async def initial_values(self) -> ComponentUpdates:
        """The values that the page is sent with, at a URL that may have the id of a conversation."""

        async def action(tab: Tab) -> None:
            tab.state = tab.state.in_chat(request_context.query_params().get("chat", "")[:100])

        personas: ComponentUpdates = {}
        with contextlib.suppress(ChatError):  # the chat shows a card for the same error
            personas = await self._components.panel.choice_updates()
        async with contextlib.aclosing(self._events.run_and_show(("", ""), action, with_persona=True)) as updates:
            return {**personas, **await anext(updates)}

    async def loaded(self, tab_state: str, _: str) -> ComponentUpdates:
        """Show the conversation unless the page was sent prefilled, and let the page follow a running reply.

        What the user has sent meanwhile is newer, and stays.
        """
        unchanged: ComponentUpdates = {self._components.tab_state: gr.skip()}
        last_sent = self._events.last_sent()
        updates = unchanged if tab_state else await self.initial_values()
        if self._events.last_sent() is not last_sent:
            return unchanged
        if TabState.from_json(tab_state or updates.get(self._components.tab_state)).reply_running:
            updates[self._components.action] = "0|refresh"
        return updates

    async def closed(self) -> None:
        """Remove the temporary chat of a closed tab, its preview memo and its Gradio session."""
        self._memos.close(request_context.tab())
        await self._temporary.close(request_context.tab())
        await request_context.forget_tab()
