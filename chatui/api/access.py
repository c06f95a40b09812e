"""Authorizes requests for /v1: by API key or, if none is set, only from this computer."""

import hmac

from starlette.datastructures import Headers

from chatui.api.responses import ApiError
from chatui.attempt_limiter import AttemptLimiter, network
from chatui.peers import is_forwarded
from chatui.security import host_of, is_local, serves_one_computer
from chatui.settings import AppSettings


class Access:
    """Checks each request for /v1.

    Without an API key the request must come from this computer, and the server must serve nobody else: no --share, no
    proxy, no login. The Host must be a local name, which protects against DNS rebinding. Whoever has the key may load
    and unload models, and choose all of them: it is the operator's.
    """

    def __init__(self, settings: AppSettings) -> None:
        self._key = settings.api_key.encode() if settings.api_key else None
        self._open = serves_one_computer(settings)
        self._failures = AttemptLimiter()

    @property
    def has_key(self) -> bool:
        """Whether requests need an API key."""
        return self._key is not None

    def check(self, headers: Headers, address: str) -> None:
        """Raises ApiError if a request with these headers from this address is not allowed."""
        if self._key is not None:
            self._check_key(self._key, headers, address)
        elif not self._open:
            raise ApiError(403, "/v1 is closed: this server is not for one computer alone. Start it with --api-key.")
        elif not (is_local(address) and is_local(host_of(headers))) or is_forwarded(headers):
            raise ApiError(403, "/v1 serves only this computer, by the name localhost. Start it with --api-key.")

    def _check_key(self, key: bytes, headers: Headers, address: str) -> None:
        """Raises ApiError unless the bearer token is the key.

        The right key is accepted even during a wait, because clients may share an address. Guessing it takes too long.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("This server needs its key: Authorization: Bearer KEY.")
        if hmac.compare_digest(token.strip().encode("latin-1"), key):
            return
        client = network(address), ""
        if not self._failures.wait_seconds(client):
            self._failures.record_failure(client)
        if seconds := self._failures.wait_seconds(client):
            message = f"Too many wrong keys came from this address. Take the right one, or wait {seconds} seconds."
            raise ApiError(429, message, headers={"Retry-After": str(seconds)})
        raise _unauthorized("This key is wrong.")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
