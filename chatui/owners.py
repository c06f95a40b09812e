"""Who owns a conversation: the login name or, without a login, a random id in a cookie that we sign. Knows no store."""

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.errors import ChatError

log = logging.getLogger(__name__)

COOKIE = "chatui_owner"
"""The cookie's name in earlier versions, and the beginning of its name now."""
GUEST = "guest:"
"""What the owners begin with whom only their cookie tells."""
LOCAL = "local"
"""The owner who runs the server and uses it at the same computer, without a login."""

YEAR_SECONDS = 365 * 24 * 3600
MAX_REMEMBERED = 10_000
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
    """Makes and checks the cookie's value with a secret of 32 bytes that outlives the server.

    Its name is the secret's own, for all servers on one host share their cookies, whatever their ports and paths.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.instance = hmac.new(secret, b"instance", hashlib.sha256).hexdigest()[:12]
        self.name = f"{COOKIE}_{self.instance}"

    def issue(self, owner: str | None = None) -> str:
        """A value for someone new, or for LOCAL."""
        guest = owner or secrets.token_urlsafe(24)
        return f"{guest}.{self._sign(guest)}"

    def owner(self, value: str) -> str | None:
        """The owner that a value stands for; None where we have not made it."""
        guest, _, signature = value.rpartition(".")
        if not guest or not hmac.compare_digest(signature.encode(), self._sign(guest).encode()):
            return None
        return LOCAL if guest == LOCAL else f"{GUEST}{guest}"

    def sent(self, headers: Headers) -> str:
        """The good value that a request brings, under today's name before the one of earlier versions; "" if none."""
        pairs = [pair.strip().partition("=") for line in headers.getlist("cookie") for pair in line.split(";")]
        for name in (self.name, COOKIE):
            for key, _, value in pairs:
                if key == name and self.owner(value) is not None:
                    return value
        return ""

    def session(self, name: str, visitor: str) -> str:
        """The name under which a visitor's tab is known inside, which is nobody else's whatever they call theirs."""
        told = json.dumps(["session", visitor, name]).encode()
        return f"{name}.{hmac.new(self._secret, told, hashlib.sha256).hexdigest()[:32]}"

    def _sign(self, guest: str) -> str:
        return hmac.new(self._secret, f"owner {guest}".encode(), hashlib.sha256).hexdigest()


class Adopter(Protocol):
    """What has become of owners; each may wait for the disk, and raises ChatError."""

    def adopt(self, source: str, target: str) -> None:
        """Give all that `source` has to `target`."""
        ...

    def adopted(self, source: str, target: str) -> bool:
        """Whether that has been done."""
        ...


class OwnerMiddleware:
    """Puts the owner into the scope, and gives a cookie to whoever opens the page; every answer to them renews it.

    Where `is_local`, it is one and the same person whatever the browser and its cookies, whose conversations become
    that person's. Elsewhere the cookie tells.

    Gradio gives what a tab is told to anyone who knows the name that the tab's browser made up for its session: so that
    name is made to hold for the same visitor only.
    """

    def __init__(
        self,
        app: ASGIApp,
        cookies: Cookies,
        adopting: Adopter | None = None,
        is_local: Callable[[Scope], bool] = lambda _: False,
    ) -> None:
        self._app, self._cookies, self._adopting, self._is_local = app, cookies, adopting, is_local
        self._went: OrderedDict[str, bool] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        value = self._cookies.sent(headers)
        owner = self._cookies.owner(value)
        if self._is_local(scope):
            await self._adopt(owner, is_page)
            owner = LOCAL
        elif owner is not None and await self._has_gone(owner, is_page):
            owner = LOCAL
        if owner is None and is_page:
            value = self._cookies.issue()
            owner = self._cookies.owner(value)
        elif owner == LOCAL and is_page:
            value = self._cookies.issue(LOCAL)
        scope[OWNER] = owner
        scope, receive = self._in_own_session(scope, receive, owner or _login(headers))
        renews = bool(value) and (is_page or scope["method"] == "POST")

        async def introduced(message: Message) -> None:
            if message["type"] == "http.response.start" and renews:
                MutableHeaders(scope=message).append("set-cookie", self._set_cookie(value, scope, headers))
            await send(message)

        await self._app(scope, receive, introduced)

    async def _adopt(self, owner: str | None, again: bool) -> None:
        """Give the person at this computer what a cookie's owner has; what fails is tried `again` with a page."""
        if owner is None or owner == LOCAL or self._adopting is None:
            return
        went = self._went.get(owner)
        if went or (went is False and not again):
            return
        try:
            await asyncio.to_thread(self._adopting.adopt, owner, LOCAL)
            self._remember(owner, True)
        except ChatError as error:
            log.warning("the conversations of a cookie stay where they are: %s", error)
            self._remember(owner, False)

    async def _has_gone(self, owner: str, anew: bool) -> bool:
        """Whether the person at this computer has adopted what this owner had; asked `anew` with every page."""
        if owner == LOCAL or self._adopting is None:
            return False
        if anew or owner not in self._went:
            try:
                self._remember(owner, await asyncio.to_thread(self._adopting.adopted, owner, LOCAL))
            except ChatError as error:
                log.warning("nobody can tell whether a cookie's conversations were adopted: %s", error)
        return self._went.get(owner, False)

    def _remember(self, owner: str, went: bool) -> None:
        self._went[owner] = went
        if len(self._went) > MAX_REMEMBERED:
            self._went.popitem(last=False)

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
            receive = _ReadBody(receive, own)
        return {**scope, "path": path}, receive

    def _set_cookie(self, value: str, scope: Scope, headers: Headers) -> str:
        """A Space is shown in a frame of another site, where only a partitioned cookie of this kind is kept.

        It is never sent along with another site's form: SecurityMiddleware refuses those. Its path is the whole host,
        for the page may be reached past the proxy that shows it under a path, and that path may change.
        """
        proto = headers.get("x-forwarded-proto", scope.get("scheme", "http")).split(",")[0].strip()
        site = "SameSite=None; Secure; Partitioned" if proto == "https" else "SameSite=Lax"
        return f"{self._cookies.name}={value}; Path=/; Max-Age={YEAR_SECONDS}; HttpOnly; {site}"


class _ReadBody:
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
