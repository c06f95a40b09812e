"""Rate-limits failed logins and API keys per client."""

import ipaddress
import math
import time
from collections import OrderedDict

from starlette.exceptions import HTTPException

from chatui.i18n import ngettext
from chatui.security import Login, Passwords, client_address, parse_ip

MAX_FAILED_KEYS = 10
"""Failed attempts, with a key or a password, that a client may make before the first wait."""
FIRST_WAIT, MAX_WAIT = 60.0, 3600.0
"""Seconds. Each failed attempt after a wait doubles the next wait."""
MAX_CLIENTS = 10_000

ClientKey = tuple[str, str]
"""(network, user name)."""


class AttemptLimiter(OrderedDict[ClientKey, tuple[int, float]]):
    """Per client: the number of failed attempts, and the time.monotonic() until which further ones are refused.

    Holds at most MAX_CLIENTS; the client with the oldest failure is forgotten first.
    """

    def wait_seconds(self, client: ClientKey) -> int:
        """Seconds until the client's next attempt is accepted; 0 if it is accepted now."""
        count, until = self.get(client, (0, 0.0))
        now = time.monotonic()
        if now > until + MAX_WAIT:
            self.pop(client, None)
        return math.ceil(until - now) if count >= MAX_FAILED_KEYS and until > now else 0

    def record_failure(self, client: ClientKey) -> None:
        """Count a failed attempt, and set the next wait."""
        count = self.get(client, (0, 0.0))[0] + 1
        wait = FIRST_WAIT * 2 ** min(count - MAX_FAILED_KEYS, 10) if count >= MAX_FAILED_KEYS else 0.0
        self[client] = count, time.monotonic() + min(wait, MAX_WAIT)
        self.move_to_end(client)
        if len(self) > MAX_CLIENTS:
            self.popitem(last=False)


def too_many_attempts(passwords: Passwords | None) -> Login | None:
    """A login check that answers 429 after too many wrong passwords for one user from one network.

    Other users and other networks are not affected, because many people may share one address. Unknown user names have
    a limiter of their own, so that many of them cannot evict the failures of a known one. The check and the count are
    one step without await, so that parallel attempts count like sequential ones.
    """
    if passwords is None:
        return None
    known_users, unknown_users = AttemptLimiter(), AttemptLimiter()

    def check(user: str, password: str) -> bool:
        limiter = known_users if user in passwords else unknown_users
        client = network(client_address.get()), user[:100]
        if not limiter.wait_seconds(client):
            if passwords.check(user, password):
                limiter.pop(client, None)
                return True
            limiter.record_failure(client)
        if seconds := limiter.wait_seconds(client):
            message = ngettext(
                "Too many wrong passwords. Wait {count} second.",
                "Too many wrong passwords. Wait {count} seconds.",
                seconds,
            )
            raise HTTPException(429, message, headers={"Retry-After": str(seconds)})
        return False

    return check


def network(address: str) -> str:
    """The network that counts as one client: an IPv4 address, or the /64 of an IPv6 address, as one customer has it."""
    parsed = parse_ip(address)
    if parsed is None:
        return address[:100]
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((int(parsed), 64), strict=False))
