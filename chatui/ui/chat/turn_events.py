"""The events of the chat: send, retry, edit, undo, stop, rate, new chats, and the links of list and messages."""

import asyncio
from collections.abc import Sequence
from typing import Any

import gradio as gr

from chatui.errors import ChatError
from chatui.running_reply import RunningReply
from chatui.store.records import Rating
from chatui.ui.chat import actions, message_box, transcript
from chatui.ui.chat.components import ChatComponents
from chatui.ui.chat.event_runner import EventRunner
from chatui.ui.chat.reply_requests import ReplyRequests
from chatui.ui.inspector import inspector_panel
from chatui.ui.shared import continuing, error_messages
from chatui.ui.shared.tab import Tab, current_tab
from chatui.ui.shared.updates import ComponentUpdates, PageUpdates


class TurnEvents:
    """Each method is a Gradio event handler. Its last inputs are those that ReplyRequests or `current_tab` take."""

    def __init__(self, components: ChatComponents, events: EventRunner, requests: ReplyRequests) -> None:
        self._components, self._events, self._requests = components, events, requests

    async def send(self, message: str, *inputs: Any) -> PageUpdates:
        """Ask the message at the end of the conversation."""

        async def action(tab: Tab) -> RunningReply | None:
            parent = tab.state.message_ids[-1] if tab.state.message_ids else None
            return await self._requests.start(tab, inputs, message, parent)

        async for update in self._events.run(inputs, action, idempotency_key=message, clear=True):
            yield update

    async def send_example(self, event: gr.SelectData, *inputs: Any) -> PageUpdates:
        """Ask one of the persona's examples."""

        async def action(tab: Tab) -> RunningReply | None:
            return await self._requests.start(tab, inputs, str(event.value["text"]), None)

        async for update in self._events.run(inputs, action, idempotency_key=event.value):
            yield update

    async def retry(self, event: gr.RetryData, *inputs: Any) -> PageUpdates:
        """Ask for another version of a reply."""

        async def action(tab: Tab) -> RunningReply | None:
            return await self._requests.start(tab, inputs, None, tab.state.message_id(_index(event.index)))

        async for update in self._events.run(inputs, action, idempotency_key=("retry", event.index)):
            yield update

    async def edit(self, event: gr.EditData, draft: str | None, *inputs: Any) -> PageUpdates:
        """Ask again with another text. If that fails, the text is put into the message box, below its draft."""
        text, failed = transcript.edited_text(event.value), False

        async def action(tab: Tab) -> RunningReply | None:
            nonlocal failed
            edited = await asyncio.to_thread(tab.chat_store.message, tab.state.message_id(_index(event.index)))
            try:
                return await self._requests.start(tab, inputs, text, edited.parent)
            except ChatError:
                failed = True
                raise

        async for update in self._events.run(inputs, action, idempotency_key=(event.index, event.value)):
            if failed:
                combined = f"{draft}\n\n{text}" if (draft or "").strip() else text
                update = {**update, self._components.textbox: message_box.ready_with(combined)}
            yield update

    async def undo(self, event: gr.UndoData, *inputs: Any) -> PageUpdates:
        """Take the last turn back into the message box; it stays in the tree as another version."""
        draft = ""

        async def action(tab: Tab) -> None:
            nonlocal draft
            await tab.stop()
            message = await asyncio.to_thread(tab.chat_store.message, tab.state.message_id(_index(event.index)))
            await asyncio.to_thread(tab.chat_store.rewind, message.id)
            draft = message.content

        async for update in self._events.run(inputs, action):
            yield {**update, self._components.textbox: message_box.ready_with(draft)}

    async def new_chat(self, *inputs: Any) -> PageUpdates:
        """Show a new chat."""

        async def action(tab: Tab) -> None:
            tab.state = tab.state.in_chat("")

        async for update in self._events.run(inputs, action):
            yield update

    async def new_temporary_chat(self, *inputs: Any) -> PageUpdates:
        """Show a new temporary chat."""

        async def action(tab: Tab) -> None:
            tab.state = tab.state.in_chat("", temporary=True)

        async for update in self._events.run(inputs, action):
            yield update

    async def stop(self, *inputs: Any) -> PageUpdates:
        """Stop the running reply."""

        async def action(tab: Tab) -> RunningReply | None:
            return await tab.stop()

        async for update in self._events.run(inputs, action):
            yield update

    async def rate(self, event: gr.LikeData, *inputs: Any) -> PageUpdates:
        """Like or dislike a reply, or take that back."""

        async def action(tab: Tab) -> None:
            rated = await asyncio.to_thread(tab.chat_store.message, tab.state.message_id(_index(event.index)))
            rating: Rating | None = "like" if event.liked is True else "dislike" if event.liked is False else None
            await asyncio.to_thread(tab.chat_store.rate, rated.id, rating, rated.note if rating else "")

        async for update in self._events.run(inputs, action):
            yield update

    async def follow_link(self, link: str, *inputs: Any) -> PageUpdates:
        """Do what a link in the list or in the bar below a message asks for: `number|name=target=value`.

        The target of a refresh comes back with it in `refreshed`, unless another event goes first.
        """
        name, _, argument = (link or "").partition("|")[2].partition("=")
        if name == "greeting":
            yield await self._show_greeting(argument, inputs)
            return

        async def action(tab: Tab) -> RunningReply | None:
            target, _, value = argument.partition("=")
            if name in ("continue", "other"):
                return await self._continue(tab, inputs, target, value if name == "other" else None)
            tab.state = await actions.do(tab, name, target, value)
            return None

        key = argument if name in ("continue", "other", "branch") else None
        opens = name in ("open", "branch", "restore")
        options: dict[str, Any] = {"idempotency_key": key, "with_persona": opens, "yields": name == "refresh"}
        answer = {self._components.refreshed: argument} if name == "refresh" and argument else {}
        async for update in self._events.run(inputs, action, **options):
            yield {**update, **answer}

    async def _continue(self, tab: Tab, inputs: Sequence[Any], target: str, token: str | None) -> RunningReply | None:
        """Go on with the cut reply `target`, or from another `token` in it, as a new version."""
        if token is not None:
            prefix = await inspector_panel.with_other_token(tab, target, token)
            return await self._requests.start(tab, inputs, None, prefix.parent, continued=prefix)
        cut = await asyncio.to_thread(tab.chat_store.message, target)
        if not continuing.was_cut(cut):
            raise ChatError("This reply cannot be continued.", "Ask for another version instead.")
        return await self._requests.start(tab, inputs, None, cut.parent, continued=cut)

    async def _show_greeting(self, number: str, inputs: Sequence[Any]) -> ComponentUpdates:
        """Show another greeting of the persona in the empty chat."""
        panel = self._components.panel
        try:
            tab = current_tab(self._requests.runner, inputs)
            persona, *_ = await self._requests.selection(tab, inputs)
            return panel.greeting_updates(persona, number, self._requests.model(inputs).name)
        except ChatError as error:
            error_messages.warn(error)
            return {panel.greeting: gr.skip()}


def _index(index: Any) -> int:
    """The position of a message; Gradio gives a pair for a part of a group."""
    return int(index[0] if isinstance(index, list | tuple) else index)
