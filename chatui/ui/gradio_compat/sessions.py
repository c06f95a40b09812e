"""Sessions of open tabs with what Gradio's events need, but no copy of what the tab shows.

Replaced: the name `StateHolder` in `gradio/routes.py`, and `SessionState` (`gradio/state_holder.py`) by `Session`.
Why: `SessionState` keeps the configuration of all components as a tab shows them, for deep links to a copy of the page.
That contains the messages of temporary chats, and is built again for each tab and in part at each redraw.
Upstream: `App.__init__` makes `StateHolder()`; its `__getitem__` makes a `SessionState(blocks)` for an unknown session;
`config_values`, `_update_config` and `_update_value_in_config` are what is kept for deep links.
"""

from copy import copy
from datetime import datetime
from typing import Any

import gradio.routes
from gradio.blocks import Blocks
from gradio.components import State
from gradio.state_holder import SessionState, StateHolder

MAX_TABS = 500
"""The sessions that are kept, the most recently used ones; a tab still works without its session."""

SECONDS_WHEN_CLOSED = 3600


class Session(SessionState):
    """A SessionState without the copy of all components that Gradio keeps for deep links."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values = {}
        self.state_data = {}
        self._state_ttl = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = SECONDS_WHEN_CLOSED

    def __setitem__(self, key: int, value: Any) -> None:
        block = self.blocks_config.blocks.get(key)
        if isinstance(block, State):
            self._state_ttl[key] = (block.time_to_live, datetime.now())
            self.state_data[key] = value
        else:
            self.blocks_config.blocks[key] = value

    def _update_config(self, key: int) -> None:
        """Do nothing: there is no copy to update."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Do nothing: there is no copy to update."""


class Sessions(StateHolder):
    """The sessions of all tabs."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks)
        return super().__getitem__(session_id)


def install() -> None:
    """Make servers that Gradio creates from now on use Sessions."""
    vars(gradio.routes)["StateHolder"] = Sessions
