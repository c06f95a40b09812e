"""Who waits for the model: one line for each user, served in turn, so that nobody holds up the others."""

from collections import deque
from collections.abc import Iterator
from itertools import zip_longest
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items in the order in which they will be served: first everybody's first, then everybody's second, and so on."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Item]] = {}

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def __iter__(self) -> Iterator[Item]:
        """The items as they would be popped."""
        for nth in zip_longest(*self._lines.values()):
            yield from (item for item in nth if item is not None)

    def waiting(self, user: str) -> int:
        """How many items of this user wait."""
        return len(self._lines.get(user, ()))

    def put(self, user: str, item: Item) -> None:
        """At the end of this user's line."""
        self._lines.setdefault(user, deque()).append(item)

    def pop(self) -> Item:
        """The next item; its user goes behind the others. Raises IndexError where nobody waits."""
        if not self._lines:
            raise IndexError("nobody waits")
        user, line = next(iter(self._lines.items()))
        item = line.popleft()
        del self._lines[user]
        if line:
            self._lines[user] = line
        return item

    def drop(self, item: Item) -> None:
        """Take an item out, if it is still there."""
        for user, line in list(self._lines.items()):
            if item in line:
                line.remove(item)
                if not line:
                    del self._lines[user]
                return
