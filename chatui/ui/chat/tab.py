"""The tab that an event came from: whose it is, and where it stands."""

from dataclasses import dataclass

from chatui.runner import Runner, RunningReply
from chatui.store.owner_store import OwnerStore
from chatui.ui.chat.tab_state import TabState


@dataclass
class Tab:
    """`search` is what stands in the search box; `before` whose chats this browser had before the login, if any."""

    owner: str
    place: TabState
    runner: Runner
    search: str = ""
    before: str | None = None

    @property
    def owner_store(self) -> OwnerStore:
        """Where its conversation is kept."""
        return self.runner.owner_store(self.owner, self.place.temporary)

    async def stop(self, chat: str | None = None) -> RunningReply | None:
        """Stop what is written in its conversation, or in this one of the list, by whichever server.

        Returns a reply that the store does not take: it is in memory alone.
        """
        found, temporary = (chat, False) if chat is not None else (self.place.chat, self.place.temporary)
        await self.runner.stop(self.owner, found, temporary)
        return next(iter(self.runner.writing(self.owner, found)), None)

    @property
    def kept(self) -> OwnerStore:
        """Where the conversations of the list are kept."""
        return self.runner.owner_store(self.owner)

    def offered(self) -> int:
        """How many chats from before the login could be taken over."""
        return self.runner.kept.adoptions.offered(self.before, self.owner) if self.before else 0
