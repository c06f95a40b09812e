"""Who may use /v1: those with the operator's key, or without one only the programs of this computer.

Whoever guesses keys, or passwords of the page's login, is soon not heard any more.
"""

import hmac
import ipaddress
import math
import time
from collections import OrderedDict

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from chatui.api.answers import ApiError
from chatui.security import Login, Passwords, asking_address, host_of, is_local, unmapped
from chatui.settings import AppSettings

WRONG_KEYS = 10
"""Wrong guesses that are heard before the first wait; of passwords as well."""
FIRST_WAIT, LONGEST_WAIT = 60.0, 3600.0
"""Seconds. Each wrong guess after a wait doubles the next."""
MOST_GUESSERS = 10_000

FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host")
"""Set by reverse proxies, behind which everyone seems to be on this computer."""

Guesser = tuple[str, str]
"""A network, and the user name that is tried from there."""


class Guesses(OrderedDict[Guesser, tuple[int, float]]):
    """How many wrong guesses came from whom, and until when no more is heard."""

    def closed(self, guesser: Guesser) -> int:
        """Seconds until the next guess is heard; 0 where it is now."""
        count, until = self.get(guesser, (0, 0.0))
        now = time.monotonic()
        if now > until + LONGEST_WAIT:
            self.pop(guesser, None)
        return math.ceil(until - now) if count >= WRONG_KEYS and until > now else 0

    def note(self, guesser: Guesser) -> None:
        """A wrong guess has come from there."""
        count = self.get(guesser, (0, 0.0))[0] + 1
        wait = FIRST_WAIT * 2 ** min(count - WRONG_KEYS, 10) if count >= WRONG_KEYS else 0.0
        self[guesser] = count, time.monotonic() + min(wait, LONGEST_WAIT)
        self.move_to_end(guesser)
        if len(self) > MOST_GUESSERS:
            self.popitem(last=False)


class Access:
    """Checks each request for /v1. Without a key it must come from this computer, to a server that shows itself to no
    other: not shared, behind no proxy and no login, and asked for by a local name, which a foreign page that points
    its own name here (DNS rebinding) cannot do."""

    def __init__(self, settings: AppSettings) -> None:
        self._key = settings.api_key.encode() if settings.api_key else None
        seen_by_others = settings.share or settings.auth or settings.root_path or not is_local(settings.host)
        self._open = not seen_by_others
        self._wrong = Guesses()

    @property
    def has_key(self) -> bool:
        """Whether those who get in know the operator's key."""
        return self._key is not None

    def check(self, headers: Headers, address: str) -> None:
        """Raises ApiError where the request from this address may not pass."""
        if self._key is not None:
            self._check_key(self._key, headers, address)
        elif not self._open:
            raise ApiError(403, "/v1 is closed: this server is not for one computer alone. Start it with --api-key.")
        elif not (is_local(address) and is_local(host_of(headers))) or any(name in headers for name in FORWARDED):
            raise ApiError(403, "/v1 serves only this computer, by the name localhost. Start it with --api-key.")

    def _check_key(self, key: bytes, headers: Headers, address: str) -> None:
        guesser = network(address), ""
        if not self._wrong.closed(guesser):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not given.strip():
                raise _unauthorized("This server needs its key: Authorization: Bearer KEY.")
            if hmac.compare_digest(given.strip().encode("latin-1"), key):
                self._wrong.pop(guesser, None)
                return
            self._wrong.note(guesser)
        if seconds := self._wrong.closed(guesser):
            raise ApiError(429, f"Too many wrong keys. Wait {seconds} seconds.", headers={"Retry-After": str(seconds)})
        raise _unauthorized("This key is wrong.")


def limited(passwords: Passwords | None) -> Login | None:
    """The check that hears a few wrong passwords only of one user from one network: then it answers 429 for a while.

    Whoever tries to get in as somebody else, or from elsewhere, is not concerned, for many may come from one address.
    Made-up names are counted apart, so that no number of them makes a real one's guesses forgotten. It looks and notes
    in one go, so that many guesses at once are no more than as many in a row.
    """
    if passwords is None:
        return None
    wrong, unknown = Guesses(), Guesses()

    def check(user: str, password: str) -> bool:
        guesses = wrong if user in passwords else unknown
        guesser = network(asking_address.get()), user[:100]
        if not guesses.closed(guesser):
            if passwords.check(user, password):
                guesses.pop(guesser, None)
                return True
            guesses.note(guesser)
        if seconds := guesses.closed(guesser):
            headers = {"Retry-After": str(seconds)}
            raise HTTPException(429, f"Too many wrong passwords. Wait {seconds} seconds.", headers=headers)
        return False

    return check


def network(address: str) -> str:
    """Whom to count as one: an IPv6 customer has 2**64 addresses."""
    parsed = unmapped(address)
    if parsed is None:
        return address[:100]
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((int(parsed), 64), strict=False))


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
