"""The components of the page that events of the chat read and update."""

from dataclasses import dataclass
from typing import Any

from gradio.components import Component

from chatui.ui.persona.persona_panel import PersonaPanel
from chatui.ui.sidebar.sidebar import Sidebar


@dataclass(frozen=True)
class ChatComponents:
    """`tab_state` is the hidden textbox with the TabState; `action` and `draft` are written by the page's scripts.

    `refreshed` gets the number of the refresh that changes.js has asked for, with what it shows. `draft` is not the
    message box itself: an event that takes the box as an input clears its validation message.
    """

    chatbot: Component
    textbox: Component
    status: Component
    tab_state: Component
    action: Component
    draft: Component
    refreshed: Component
    sidebar: Sidebar
    panel: PersonaPanel
    model: Component

    @property
    def tab_inputs(self) -> list[Component]:
        """What identifies the tab of an event, as `current_tab` takes it."""
        return [self.tab_state, self.sidebar.search]

    @property
    def outputs(self) -> list[Component]:
        """What every event may update. Gradio processes each output at every redraw, changed or not."""
        return [self.chatbot, self.textbox, self.status, self.tab_state, self.sidebar.list]

    @property
    def outputs_with_persona(self) -> list[Any]:
        """What an event that opens a conversation may update."""
        return [*self.outputs, *self.panel.outputs, self.model]
