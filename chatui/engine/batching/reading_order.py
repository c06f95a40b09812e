"""Which prompts a forward pass reads, and how much of each: users take turns, and short prompts do not wait for long
ones. Pure: it is told the time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

# Fewer tokens of one more prompt are not worth its part of the pass.
MIN_CHUNK = 16
# Of one user's prompts the shortest rest is read first, but none is passed over for longer than this.
PATIENCE_SECONDS = 2.0


class Reading(Protocol):
    """A prompt of `user` of which `unread` tokens are left; it was added, or last read, at `read_at`. It `is_short`
    where little had to be read from the start.
    """

    user: str
    read_at: float

    @property
    def unread(self) -> int:
        """Tokens that are still to be read."""

    @property
    def is_short(self) -> bool:
        """Whether its first token should not wait for long prompts."""


Row = TypeVar("Row", bound=Reading)


class ReadingOrder:
    """Half of a pass is for the shortest rests. The other half is for users in turn, least recently read first: so
    each is read after as many passes, at most, as there are users with something to read.
    """

    def __init__(self) -> None:
        self._read_at: dict[str, float] = {}

    def plan(self, rows: Sequence[Row], tokens: int, long_tokens: int, now: float) -> dict[Row, int]:
        """How many tokens of which rows are read next: at most `tokens`, `long_tokens` of them of rows that are not
        short.
        """
        counts: dict[Row, int] = {}
        left, long_left = tokens, min(tokens, long_tokens)
        fewest = min(MIN_CHUNK, long_left)
        for row in dict.fromkeys([*_shortest(rows, tokens // 2, long_left // 2), *self._in_turn(rows, now)]):
            count = min(row.unread, left if row.is_short else min(left, long_left))
            if counts and count < min(MIN_CHUNK if row.is_short else fewest, row.unread):
                continue
            counts[row] = count
            left -= count
            long_left -= 0 if row.is_short else count
        return counts

    def record(self, rows: Sequence[Reading], now: float) -> None:
        """These rows were read."""
        self._read_at.update((row.user, now) for row in rows)

    def forget(self, user: str) -> None:
        """This user has no rows any more."""
        self._read_at.pop(user, None)

    def _in_turn(self, rows: Sequence[Row], now: float) -> list[Row]:
        """One row of each user in turn, then another of each, and so on."""
        waits_since = {row.user: row.read_at for row in sorted(rows, key=lambda row: -row.read_at)}
        turns = {user: max(since, self._read_at.get(user, since)) for user, since in waits_since.items()}
        late = now - PATIENCE_SECONDS
        own = sorted(rows, key=lambda row: (0, row.read_at) if row.read_at < late else (1, row.unread))
        ranks, seen = dict[Row, int](), Counter[str]()
        for row in own:
            ranks[row] = seen[row.user]
            seen[row.user] += 1
        return sorted(own, key=lambda row: (ranks[row], turns[row.user]))


def _shortest(rows: Sequence[Row], tokens: int, long_tokens: int) -> Iterator[Row]:
    """The shortest rests, as many as have room together; in `long_tokens` of it those that are not short. None where
    the room is too small to be shared.
    """
    left, long_left = (room if room >= MIN_CHUNK else 0 for room in (tokens, long_tokens))
    for row in sorted(rows, key=lambda row: row.unread):
        if row.unread > left:
            return
        if not row.is_short:
            if row.unread > long_left:
                continue
            long_left -= row.unread
        left -= row.unread
        yield row
