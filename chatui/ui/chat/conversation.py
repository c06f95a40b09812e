"""gr.ChatInterface over the stored conversations: binds the events of the page to their handlers."""

from typing import Any

import gradio as gr
from gradio.components import Component

from chatui.runner import Runner
from chatui.ui.chat import api_endpoint, message_box
from chatui.ui.chat.components import ChatComponents
from chatui.ui.chat.context_preview import ContextPreview
from chatui.ui.chat.conversation_view import ConversationView
from chatui.ui.chat.event_runner import EventRunner
from chatui.ui.chat.list_events import ListEvents
from chatui.ui.chat.page_events import PageEvents
from chatui.ui.chat.preview_memos import PreviewMemos
from chatui.ui.chat.reply_requests import ReplyRequests
from chatui.ui.chat.temporary_chats import TemporaryChats
from chatui.ui.chat.turn_events import TurnEvents
from chatui.ui.chat.validators import check_message, check_settings
from chatui.ui.gradio_compat.chat_interface import ChatInterface
from chatui.ui.gradio_compat.hidden_textbox import hidden_textbox
from chatui.ui.gradio_compat.page_blocks import PageBlocks
from chatui.ui.inspector.inspector_panel import InspectorPanel
from chatui.ui.persona import setting_controls
from chatui.ui.persona.persona_panel import PersonaPanel
from chatui.ui.shared.model_access import ModelAccess
from chatui.ui.shared.tab import current_tab
from chatui.ui.sidebar.sidebar import Sidebar

PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
CONCURRENT: dict[str, Any] = {"concurrency_limit": None, "trigger_mode": "multiple", **PRIVATE}
# The newest event of a tab ends the previous one on the server, see Superseding. If the browser ended
# it, that could end the newer one too.


class Conversation(ChatInterface):
    """gr.ChatInterface with one event per turn instead of its chain of eight.

    The chain leaves the text box dead after a failure and cannot stop a reply to an edited message.
    """

    def __init__(
        self,
        page: PageBlocks,
        runner: Runner,
        panel: PersonaPanel,
        sidebar: Sidebar,
        access: ModelAccess,
        **kwargs: Any,
    ) -> None:
        """`page` is the one being built; `kwargs` are the arguments of gr.ChatInterface."""
        self._page, self.runner, self._access = page, runner, access
        self.panel, self._sidebar = panel, sidebar
        self._tab_state, self._action, self._draft, self._changed, self._refreshed = map(
            hidden_textbox, ("where", "action", "draft", "changed", "refreshed")
        )
        self._memos = PreviewMemos()
        self.requests = ReplyRequests(runner, panel, access)
        super().__init__(
            api_endpoint.chat(runner.backend, access), api_name="chat", editable=True, concurrency_limit=None, **kwargs
        )

    def setup_events(self) -> None:
        """Called by the constructor once the components are there."""
        self._components = ChatComponents(
            chatbot=self.chatbot,
            textbox=self.textbox,
            status=self.additional_outputs[0],
            tab_state=self._tab_state,
            action=self._action,
            draft=self._draft,
            refreshed=self._refreshed,
            sidebar=self._sidebar,
            panel=self.panel,
            model=self.additional_inputs[0],
        )
        temporary = self.temporary_chats = TemporaryChats(self.runner)
        view = ConversationView(self.runner, self._access, self._components, temporary, self._memos)
        events = EventRunner(self.runner, self._components, view)
        self._bind_turns(TurnEvents(self._components, events, self.requests))
        self._bind_page(PageEvents(self._components, events, temporary, self._memos))
        self._bind_list(ListEvents(self.runner, self._components, events))
        self._bind_api()

    @property
    def tab_inputs(self) -> list[Component]:
        """What identifies the tab of an event, as `current_tab` takes it."""
        return self._components.tab_inputs

    @property
    def reply_inputs(self) -> list[Component]:
        """What ReplyRequests takes, after the inputs of the tab."""
        return [*self.panel.inputs, *self.additional_inputs]

    def _bind_turns(self, events: TurnEvents) -> None:
        tab = self._components.tab_inputs
        reply_inputs = [*tab, *self.reply_inputs]
        options: dict[str, Any] = {"outputs": self._components.outputs, **CONCURRENT}
        link_outputs = [*self._components.outputs_with_persona, self._refreshed]
        send_options = {"validator": check_message, "api_name": "_send", **options}
        for event in (
            self.textbox.submit(events.send, [self.textbox, *reply_inputs], **send_options),
            self.chatbot.example_select(events.send_example, reply_inputs, validator=check_settings, **options),
            self.chatbot.retry(events.retry, reply_inputs, validator=check_settings, **options),
            self.chatbot.edit(events.edit, [self._draft, *reply_inputs], validator=check_settings, **options),
            self._action.change(
                events.follow_link,
                [self._action, *reply_inputs],
                validator=check_settings,
                **{**options, "outputs": link_outputs},
            ),
        ):
            event.failure(message_box.ready, None, self.textbox, queue=False, **PRIVATE)
        self.chatbot.undo(events.undo, tab, **options)
        self._sidebar.new.click(events.new_chat, tab, **options)
        self._sidebar.temporary.click(events.new_temporary_chat, tab, **options)
        self.textbox.stop(events.stop, tab, **options)
        self.chatbot.like(events.rate, tab, **options)

    def _bind_page(self, events: PageEvents) -> None:
        # Not queued: of several queued events at once Gradio's page may lose one.
        outputs = [*self._components.outputs_with_persona, self._action]
        loaded = self._page.load(events.loaded, self._components.tab_inputs, outputs, queue=False, **PRIVATE)
        self._page.prefill_with(loaded, events.initial_values)
        self._page.unload(events.closed)

    def _bind_list(self, events: ListEvents) -> None:
        sidebar, tab = self._sidebar, self._components.tab_inputs
        sidebar.search.change(events.search, tab, sidebar.list, queue=False, trigger_mode="always_last", **PRIVATE)
        refreshed: list[Component] = [sidebar.list, self._refreshed]
        self._changed.change(events.refresh, [self._changed, *tab], refreshed, queue=False, **PRIVATE)
        outputs: list[Component] = [sidebar.list, sidebar.import_status, sidebar.progress]
        sidebar.upload.upload(events.import_chats, [sidebar.upload, *tab], outputs, **CONCURRENT)
        sidebar.cancel.click(events.cancel_import, tab, None, queue=False, **PRIVATE)

    def _bind_api(self) -> None:
        system_prompt, model = (
            gr.Textbox(value=None, visible=False, label=name) for name in ("system_prompt", "model")
        )
        inputs: list[Component] = [system_prompt, *setting_controls.build_api(), model]
        self.add_api_endpoint(
            inputs, "Send a message; yields the reply as it grows. What is left out is the model's default."
        )

    def connect(self, inspect: InspectorPanel, context: gr.Markdown) -> None:
        """Bind the events of the Inspect view and of the context bar, which are rendered after the chat."""
        tab = self._components.tab_inputs
        inspect.connect(lambda inputs: current_tab(self.runner, inputs), self.requests.repeat, tab, self.reply_inputs)
        boxes: list[Any] = [*self.panel.inputs[-2:], *self.additional_inputs]
        gr.on(
            [self._draft.change, self._tab_state.change, *(box.change for box in boxes)],
            ContextPreview(self.requests, self._memos).update,
            [self._draft, *tab, *self.reply_inputs],
            context,
            queue=False,
            trigger_mode="always_last",
            **PRIVATE,
        )
