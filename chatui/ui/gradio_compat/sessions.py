"""What the server remembers of an open tab: what Gradio's events need, and no copy of what the tab shows.

Replaced: the name `StateHolder` in `gradio/routes.py`, and `SessionState` (`gradio/state_holder.py`) by `Session`.
Why: `SessionState` keeps the configuration of all components as a tab shows them, for deep links to a copy of the page.
That holds what was said in temporary chats, and is made anew for each tab and in part at each redraw.
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
"""What so many tabs and programs were told is kept, those last heard of; a tab goes on without it."""

SECONDS_WHEN_CLOSED = 3600


class Session(SessionState):
    """Without a copy of all components as the tab shows them, which Gradio keeps for links to a copy of the page.

    It would hold what is said in temporary chats; it is made anew for each tab, and in part at each redraw.
    """

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
        """Nothing of it is kept."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nothing of it is kept."""


class Sessions(StateHolder):
    """The sessions of all tabs."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks)
        return super().__getitem__(session_id)


def install() -> None:
    """Make Gradio's servers, from now on, keep their sessions here."""
    vars(gradio.routes)["StateHolder"] = Sessions
