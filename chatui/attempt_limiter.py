"""Who guesses passwords or keys is not heard for a while, and nobody else is concerned."""

import ipaddress
import math
import time
from collections import OrderedDict

from starlette.exceptions import HTTPException

from chatui.i18n import ngettext
from chatui.security import Login, Passwords, asking_address, unmapped

MAX_FAILED_KEYS = 10
"""Wrong guesses that are heard before the first wait; of passwords as well."""
FIRST_WAIT, MAX_WAIT = 60.0, 3600.0
"""Seconds. Each wrong guess after a wait doubles the next."""
MAX_CLIENTS = 10_000

ClientKey = tuple[str, str]
"""A network, and the user name that is tried from there."""


class AttemptLimiter(OrderedDict[ClientKey, tuple[int, float]]):
    """How many wrong guesses came from whom, and until when no more is heard."""

    def closed(self, guesser: ClientKey) -> int:
        """Seconds until the next guess is heard; 0 where it is now."""
        count, until = self.get(guesser, (0, 0.0))
        now = time.monotonic()
        if now > until + MAX_WAIT:
            self.pop(guesser, None)
        return math.ceil(until - now) if count >= MAX_FAILED_KEYS and until > now else 0

    def note(self, guesser: ClientKey) -> None:
        """A wrong guess has come from there."""
        count = self.get(guesser, (0, 0.0))[0] + 1
        wait = FIRST_WAIT * 2 ** min(count - MAX_FAILED_KEYS, 10) if count >= MAX_FAILED_KEYS else 0.0
        self[guesser] = count, time.monotonic() + min(wait, MAX_WAIT)
        self.move_to_end(guesser)
        if len(self) > MAX_CLIENTS:
            self.popitem(last=False)


def too_many_attempts(passwords: Passwords | None) -> Login | None:
    """The check that hears a few wrong passwords only of one user from one network: then it answers 429 for a while.

    Whoever tries to get in as somebody else, or from elsewhere, is not concerned, for many may come from one address.
    Made-up names are counted apart, so that no number of them makes a real one's guesses forgotten. It looks and notes
    in one go, so that many guesses at once are no more than as many in a row.
    """
    if passwords is None:
        return None
    wrong, unknown = AttemptLimiter(), AttemptLimiter()

    def check(user: str, password: str) -> bool:
        guesses = wrong if user in passwords else unknown
        guesser = network(asking_address.get()), user[:100]
        if not guesses.closed(guesser):
            if passwords.check(user, password):
                guesses.pop(guesser, None)
                return True
            guesses.note(guesser)
        if seconds := guesses.closed(guesser):
            message = ngettext(
                "Too many wrong passwords. Wait {count} second.",
                "Too many wrong passwords. Wait {count} seconds.",
                seconds,
            )
            raise HTTPException(429, message, headers={"Retry-After": str(seconds)})
        return False

    return check


def network(address: str) -> str:
    """Whom to count as one: an IPv6 customer has 2**64 addresses."""
    parsed = unmapped(address)
    if parsed is None:
        return address[:100]
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((int(parsed), 64), strict=False))
