"""Who waits for the model: one line for each user, served in turn, so that nobody holds up the others."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from chatui.errors import OverloadError

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items in the order in which they will be served: next is who has the least in work, then who waits longest.

    `in_work` tells how many items of a user are being worked on; without it users simply take turns.
    """

    def __init__(self, in_work: Callable[[str], int] = lambda _: 0) -> None:
        self._lines: dict[str, deque[Item]] = {}
        self._in_work = in_work

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def __iter__(self) -> Iterator[Item]:
        """The items as they would be served, if none that is in work ended meanwhile."""
        lines = {user: deque(line) for user, line in self._lines.items()}
        in_work = Counter({user: self._in_work(user) for user in lines})
        while lines:
            user = min(lines, key=in_work.__getitem__)
            in_work[user] += 1
            line = lines.pop(user)
            yield line.popleft()
            if line:
                lines[user] = line

    def put(self, user: str, item: Item) -> None:
        """At the end of this user's line."""
        self._lines.setdefault(user, deque()).append(item)

    def take(self, item: Item) -> None:
        """It is served: its user goes behind the others. Nothing where it does not wait."""
        for user, line in self._lines.items():
            if item in line:
                line.remove(item)
                del self._lines[user]
                if line:
                    self._lines[user] = line
                return

    def drop(self, item: Item) -> None:
        """Take an item out, if it is still there."""
        for user, line in self._lines.items():
            if item in line:
                line.remove(item)
                if not line:
                    del self._lines[user]
                return


def check_capacity(user: str, waiting: Sequence[str], limit: int) -> None:
    """Whether one more request of this user may wait, where those of the users `waiting` do. Raises OverloadError.

    The last quarter of the places is for users of whom fewer requests than that wait, so that no single one turns all
    others away.
    """
    count, own = len(waiting), waiting.count(user)
    if count >= limit:
        raise OverloadError(f"{count} requests are waiting already.", "Try again in a while.", retry_after=10)
    reserved = limit // 4
    if own >= reserved > 0 and count >= limit - reserved:
        raise OverloadError(
            f"{own} of your requests are waiting, and the places that are left are for others.",
            "Try again when some of them are answered.",
            retry_after=10,
        )
