"""Who may use /v1: those with the operator's key, or without one only the programs of this computer.

Whoever guesses keys, or passwords of the page's login, is soon not heard any more.
"""

import hmac
import ipaddress
import time
from collections import OrderedDict, deque

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from chatui.api.answers import ApiError
from chatui.security import Login, asking_address
from chatui.settings import AppSettings

WRONG_KEYS = 10
"""Wrong passwords as well."""

WINDOW_SECONDS = 60.0
MOST_ADDRESSES = 10_000

FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host")
"""Set by reverse proxies, behind which everyone seems to be on this computer."""


class Guesses(OrderedDict[str, deque[float]]):
    """When wrong guesses came from whom lately: WRONG_KEYS of them within WINDOW_SECONDS close the door to him."""

    def closed(self, address: str) -> int:
        """Seconds until this address may guess again; 0 if it may."""
        wrong = self.get(_network(address), deque())
        now = time.monotonic()
        while wrong and wrong[0] <= now - WINDOW_SECONDS:
            wrong.popleft()
        return int(wrong[0] + WINDOW_SECONDS - now) + 1 if len(wrong) >= WRONG_KEYS else 0

    def note(self, address: str) -> None:
        """A wrong guess has come from there."""
        network = _network(address)
        self.setdefault(network, deque()).append(time.monotonic())
        self.move_to_end(network)
        if len(self) > MOST_ADDRESSES:
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
        elif not (is_local(address) and is_local(_host(headers))) or any(name in headers for name in FORWARDED):
            raise ApiError(403, "/v1 serves only this computer, by the name localhost. Start it with --api-key.")

    def _check_key(self, key: bytes, headers: Headers, address: str) -> None:
        if not self._wrong.closed(address):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not given.strip():
                raise _unauthorized("This server needs its key: Authorization: Bearer KEY.")
            if hmac.compare_digest(given.strip().encode("latin-1"), key):
                return
            self._wrong.note(address)
        if seconds := self._wrong.closed(address):
            raise ApiError(429, "Too many wrong keys. Wait a minute.", headers={"Retry-After": str(seconds)})
        raise _unauthorized("This key is wrong.")


def limited(login: Login | None) -> Login | None:
    """The same check for a few wrong passwords only: then it answers 429 to that address, to right ones too.

    It looks and notes in one go, so that many guesses at once are no more than as many in a row.
    """
    if login is None:
        return None
    wrong = Guesses()

    def check(user: str, password: str) -> bool:
        address = asking_address.get()
        if not wrong.closed(address):
            if login(user, password):
                return True
            wrong.note(address)
        if seconds := wrong.closed(address):
            headers = {"Retry-After": str(seconds)}
            raise HTTPException(429, "Too many wrong passwords. Wait a minute.", headers=headers)
        return False

    return check


def is_local(host: str) -> bool:
    """Whether a name or address is this computer's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(headers: Headers) -> str:
    """The Host header without its port."""
    host = headers.get("host", "")
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _network(address: str) -> str:
    """Whom to count as one: an IPv6 customer has 2**64 addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((int(parsed), 64), strict=False))


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
