"""The tab that an event came from: its owner and its state."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatui.errors import ChatError
from chatui.runner import Runner
from chatui.running_reply import RunningReply
from chatui.store.owner_store import OwnerStore
from chatui.ui.gradio_compat import request_context
from chatui.ui.shared.tab_state import TabState


@dataclass
class Tab:
    """`search` is the text of the search box; `previous_owner` the owner of this browser before the login, if any."""

    owner: str
    state: TabState
    runner: Runner
    search: str = ""
    previous_owner: str | None = None

    @property
    def chat_store(self) -> OwnerStore:
        """The store of the tab's conversation: in memory if it is temporary."""
        return self.runner.owner_store(self.owner, self.state.temporary)

    async def stop(self, chat: str | None = None) -> RunningReply | None:
        """Stop the running reply of the tab's conversation, or of `chat` in the list, on whichever server it runs.

        Returns a stopped reply that the store could not save, and which is only in memory.
        """
        conversation, temporary = (chat, False) if chat is not None else (self.state.chat, self.state.temporary)
        await self.runner.stop(self.owner, conversation, temporary)
        return next(iter(self.runner.running_replies(self.owner, conversation)), None)

    @property
    def list_store(self) -> OwnerStore:
        """The store of the conversations in the list."""
        return self.runner.owner_store(self.owner)

    def count_adoptable(self) -> int:
        """Count the chats from before the login that can be adopted."""
        return (
            self.runner.persistent_store.adoptions.offered(self.previous_owner, self.owner)
            if self.previous_owner
            else 0
        )


def current_tab(runner: Runner, inputs: Sequence[Any]) -> Tab:
    """The tab of the running event, whose first inputs are the TabState as JSON and the text of the search box.

    Raises ChatError if the browser has no owner cookie.
    """
    owner = request_context.owner()
    if owner is None:
        raise ChatError(
            "This browser keeps no cookies, so nobody can tell whose chats to show.", "Load the page again."
        )
    return Tab(owner, TabState.from_json(inputs[0]), runner, inputs[1] or "", request_context.owner_before_login())
