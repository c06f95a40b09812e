"""gr.ChatInterface with our events in place of its own.

Replaced: `ChatInterface._setup_events` in `gradio/chat_interface.py`.
Why: its chain of eight events for a turn leaves the textbox disabled after a failure, and cannot stop a reply to an
edited message. There is no public way to get the components without the events.
Upstream: the constructor creates the components `chatbot`, `textbox`, `additional_inputs`, `additional_outputs` and,
for programs, `fake_api_btn`, `api_response` and `chatbot_state`; then it calls `_setup_events()` once.
"""

from collections.abc import Sequence

import gradio as gr
from gradio.components import Component

from chatui.ui.gradio_compat.lazy_config import LazyConfig


class ChatInterface(LazyConfig, gr.ChatInterface):
    """The components of gr.ChatInterface. A subclass connects their events in `setup_events`."""

    def _setup_events(self) -> None:
        self.setup_events()

    def setup_events(self) -> None:
        """Called by the constructor once the components exist."""
        raise NotImplementedError

    def add_api_endpoint(self, inputs: Sequence[Component], description: str) -> None:
        """Offer the chat function to programs under `api_name`, with the history that Gradio keeps for each client."""
        self.fake_api_btn.click(
            self.fn,
            [self.textbox, self.chatbot_state, *inputs],
            [self.api_response, self.chatbot_state],
            api_name=self.api_name,
            api_description=description,
            concurrency_limit=None,
            postprocess=False,
        )
