"""Who may use /v1: those with the operator's key, or without one only the programs of this computer."""

import hmac

from starlette.datastructures import Headers

from chatui.api.responses import ApiError
from chatui.attempt_limiter import AttemptLimiter, network
from chatui.security import host_of, is_local
from chatui.settings import AppSettings

FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host")
"""Set by reverse proxies, behind which everyone seems to be on this computer."""


class Access:
    """Checks each request for /v1. Without a key it must come from this computer, to a server that shows itself to no
    other: not shared, behind no proxy and no login, and asked for by a local name, which a foreign page that points
    its own name here (DNS rebinding) cannot do."""

    def __init__(self, settings: AppSettings) -> None:
        self._key = settings.api_key.encode() if settings.api_key else None
        seen_by_others = settings.share or settings.auth or settings.root_path or not is_local(settings.host)
        self._open = not seen_by_others
        self._wrong = AttemptLimiter()

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
        """The right key is always heard, for many may come from one address: it is its length that nobody guesses."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise _unauthorized("This server needs its key: Authorization: Bearer KEY.")
        if hmac.compare_digest(given.strip().encode("latin-1"), key):
            return
        guesser = network(address), ""
        if not self._wrong.closed(guesser):
            self._wrong.note(guesser)
        if seconds := self._wrong.closed(guesser):
            message = f"Too many wrong keys came from this address. Take the right one, or wait {seconds} seconds."
            raise ApiError(429, message, headers={"Retry-After": str(seconds)})
        raise _unauthorized("This key is wrong.")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
