"""Who owns a conversation: the login name or, without a login, a random id in a cookie that we sign. Knows no store."""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "chatui_owner"
YEAR_SECONDS = 365 * 24 * 3600
OWNER = "chatui.owner"
"""The key of the ASGI scope under which the cookie's owner stands, where there is a good cookie."""

GRADIO = "/gradio_api/"
SESSION = "session_hash"
SESSION_IN_PATH = re.compile(f"({GRADIO}(?:heartbeat|stream)/)([^/]+)")

OwnerOf = Callable[[Request], str | None]
"""Who asks: their owner, or None for nobody known."""


def named(login: str) -> str:
    """The owner that a login name stands for."""
    return f"login:{login}"


def guest_of(request: Request) -> str | None:
    """The owner by the cookie of a request; None without a good one."""
    found: str | None = request.scope.get(OWNER)
    return found


class Cookies:
    """Makes and checks the cookie's value with a secret of 32 bytes that outlives the server."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self) -> str:
        """A value for someone new."""
        guest = secrets.token_urlsafe(24)
        return f"{guest}.{self._sign(guest)}"

    def owner(self, value: str) -> str | None:
        """The owner that a value stands for; None where we have not made it."""
        guest, _, signature = value.rpartition(".")
        if not guest or not hmac.compare_digest(signature.encode(), self._sign(guest).encode()):
            return None
        return f"guest:{guest}"

    def session(self, name: str, visitor: str) -> str:
        """The name under which a visitor's tab is known inside, which is nobody else's whatever they call theirs."""
        told = json.dumps(["session", visitor, name]).encode()
        return f"{name}.{hmac.new(self._secret, told, hashlib.sha256).hexdigest()[:32]}"

    def _sign(self, guest: str) -> str:
        return hmac.new(self._secret, f"owner {guest}".encode(), hashlib.sha256).hexdigest()


class OwnerMiddleware:
    """Puts the cookie's owner into the scope, and gives a cookie to whoever opens the page without one.

    Gradio gives what a tab is told to anyone who knows the name that the tab's browser made up for its session: so that
    name is made to hold for the same visitor only.
    """

    def __init__(self, app: ASGIApp, cookies: Cookies) -> None:
        self._app, self._cookies = app, cookies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        value = _cookie(headers)
        scope[OWNER] = self._cookies.owner(value)
        scope, receive = self._in_own_session(scope, receive, scope[OWNER] or _login(headers))
        if scope[OWNER] is not None or scope["method"] != "GET" or "text/html" not in headers.get("accept", ""):
            await self._app(scope, receive, send)
            return
        value = self._cookies.issue()
        scope[OWNER] = self._cookies.owner(value)

        async def introduced(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("set-cookie", _set_cookie(value, scope, headers))
            await send(message)

        await self._app(scope, receive, introduced)

    def _in_own_session(self, scope: Scope, receive: Receive, visitor: str) -> tuple[Scope, Receive]:
        """The request with the visitor's own session in place of the one it names, if any."""
        if GRADIO not in scope["path"]:
            return scope, receive

        def own(name: str) -> str:
            return self._cookies.session(name, visitor)

        path = SESSION_IN_PATH.sub(lambda found: found[1] + own(found[2]), scope["path"])
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(name == SESSION for name, _ in query):
            query = [(name, own(value) if name == SESSION else value) for name, value in query]
            scope = {**scope, "query_string": urlencode(query).encode()}
        headers = Headers(scope=scope)
        if scope["method"] == "POST" and not headers.get("content-type", "").lower().startswith("multipart/"):
            receive = _Told(receive, own)
        return {**scope, "path": path}, receive


class _Told:
    """Receives a body of JSON with its session replaced; any other as it is."""

    def __init__(self, receive: Receive, own: Callable[[str], str]) -> None:
        self._receive, self._own = receive, own
        self._read = False

    async def __call__(self) -> Message:
        """The next message: first the whole body."""
        if self._read:
            return await self._receive()
        self._read = True
        body, more = b"", True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            body += message.get("body", b"")
            more = message.get("more_body", False)
        return {"type": "http.request", "body": self._replaced(body), "more_body": False}

    def _replaced(self, body: bytes) -> bytes:
        try:
            told: Any = json.loads(body)
        except (ValueError, RecursionError):
            return body
        if not isinstance(told, dict) or not isinstance(told.get(SESSION), str):
            return body
        return json.dumps({**told, SESSION: self._own(told[SESSION])}).encode()


def _login(headers: Headers) -> str:
    """What tells two logins apart that have no cookie of ours; "" without a login."""
    return " ".join(re.findall(r"access-token-[^;,\s]+", headers.get("cookie", "")))


def _cookie(headers: Headers) -> str:
    for line in headers.getlist("cookie"):
        try:
            found = SimpleCookie(line).get(COOKIE)
        except CookieError:
            continue
        if found is not None:
            return found.value
    return ""


def _set_cookie(value: str, scope: Scope, headers: Headers) -> str:
    """A Space is shown in a frame of another site, where only a partitioned cookie of this kind is kept.

    It is never sent along with another site's form: SecurityMiddleware refuses those.
    """
    proto = headers.get("x-forwarded-proto", scope.get("scheme", "http")).split(",")[0].strip()
    site = "SameSite=None; Secure; Partitioned" if proto == "https" else "SameSite=Lax"
    return f"{COOKIE}={value}; Path=/; Max-Age={YEAR_SECONDS}; HttpOnly; {site}"
