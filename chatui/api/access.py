"""Authorizes requests for /v1: by API key or, if none is set, only from this computer."""

import hmac

from starlette.datastructures import Headers

from chatui.api.responses import ApiError
from chatui.attempt_limiter import AttemptLimiter, network
from chatui.peers import is_forwarded
from chatui.security import host_of, is_local, serves_one_computer
from chatui.setting_values import api_keys
from chatui.settings import AppSettings

CALLER = "api:"
"""Begins the name of a user who asks by /v1: that of the key follows, or the address."""


class Access:
    """Checks each request for /v1.

    Without an API key the request must come from this computer, and the server must serve nobody else: no --share, no
    proxy, no login. The Host must be a local name, which protects against DNS rebinding. Whoever has the key may load
    and unload models, and choose all of them: it is the operator's.
    """

    def __init__(self, settings: AppSettings) -> None:
        self._keys = api_keys(settings.api_key)
        self._open = serves_one_computer(settings)
        self._failures = AttemptLimiter()

    @property
    def has_key(self) -> bool:
        """Whether requests need an API key."""
        return bool(self._keys)

    def check(self, headers: Headers, address: str) -> str:
        """Who sends a request with these headers from this address. Raises ApiError if it is not allowed."""
        if self._keys:
            name = self._key_name(headers, address)
            return f"{CALLER}{name or network(address)}"
        if not self._open:
            raise ApiError(403, "/v1 is closed: this server is not for one computer alone. Start it with --api-key.")
        if not (is_local(address) and is_local(host_of(headers))) or is_forwarded(headers):
            raise ApiError(403, "/v1 serves only this computer, by the name localhost. Start it with --api-key.")
        return f"{CALLER}{network(address)}"

    def _key_name(self, headers: Headers, address: str) -> str:
        """The name of the key that the bearer token is. Raises ApiError if it is none.

        The right key is accepted even during a wait, because clients may share an address. Guessing it takes too long.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _unauthorized("This server needs its key: Authorization: Bearer KEY.")
        sent = token.strip().encode("latin-1")
        # Each key is compared, so that the time tells nothing of which one it is.
        matching = [key for key in self._keys if hmac.compare_digest(sent, key.key.encode())]
        if matching:
            return matching[0].name
        client = network(address), ""
        if not self._failures.wait_seconds(client):
            self._failures.record_failure(client)
        if seconds := self._failures.wait_seconds(client):
            message = f"Too many wrong keys came from this address. Take the right one, or wait {seconds} seconds."
            raise ApiError(429, message, headers={"Retry-After": str(seconds)})
        raise _unauthorized("This key is wrong.")


def _unauthorized(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
