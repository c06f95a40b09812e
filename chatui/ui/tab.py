"""The tab that an event came from: whose it is, and where it stands."""

from dataclasses import dataclass

from chatui.runner import Runner
from chatui.store.shelf import Shelf
from chatui.ui.place import Place


@dataclass
class Tab:
    """`search` is what stands in the search box."""

    owner: str
    place: Place
    runner: Runner
    search: str = ""

    @property
    def shelf(self) -> Shelf:
        """Where its conversation is kept."""
        return self.runner.shelf(self.owner, self.place.temporary)

    @property
    def kept(self) -> Shelf:
        """Where the conversations of the list are kept."""
        return self.runner.shelf(self.owner)
