"""Identifies the owner of a request: the login name or, without a login, a random id in a signed cookie.

Knows no store.
"""

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

from chatui import shallow_json
from chatui.errors import ChatError

log = logging.getLogger(__name__)

COOKIE = "chatui_owner"
"""The cookie's name in earlier versions, and the prefix of its name now."""
GUEST = "guest:"
"""Prefix of owners that are identified by a cookie alone."""
LOCAL = "local"
"""The owner who runs the server and uses it on the same computer, without a login."""

YEAR_SECONDS = 365 * 24 * 3600
MAX_REMEMBERED = 10_000
OWNER = "chatui.owner"
"""Key of the ASGI scope with the owner that the cookie identifies, or None."""

OPERATOR = "chatui.operator"
"""Key of the ASGI scope: whether the request is the operator's, on a server that serves nobody else."""

LOGIN_UNKNOWN = "chatui.login_unknown"
"""Key of the ASGI scope: true where a login token could not be looked up, so that a user may be logged in unknown."""

GRADIO = "/gradio_api/"
SESSION = "session_hash"
SESSION_IN_PATH = re.compile(f"({GRADIO}(?:heartbeat|stream)/)([^/]+)")

OwnerOf = Callable[[Request], str | None]
"""Gives the owner of a request; None if it is unknown."""


def login_owner(login: str) -> str:
    """The owner for a login name."""
    return f"login:{login}"


def cookie_owner(request: Request) -> str | None:
    """The owner that the request's cookie identifies; None without a valid cookie."""
    owner: str | None = request.scope.get(OWNER)
    return owner


class Cookies:
    """Signs and verifies the cookie's value with a stored secret of 32 bytes.

    The cookie's name is derived from the secret, because all servers of one host share their cookies.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.instance = hmac.new(secret, b"instance", hashlib.sha256).hexdigest()[:12]
        self.name = f"{COOKIE}_{self.instance}"

    def issue(self, owner: str | None = None) -> str:
        """A signed value for a new guest, or for LOCAL."""
        guest = owner or secrets.token_urlsafe(24)
        return f"{guest}.{self._sign(guest)}"

    def owner(self, value: str) -> str | None:
        """The owner of a value; None if its signature is wrong."""
        guest, _, signature = value.rpartition(".")
        if not guest or not hmac.compare_digest(signature.encode(), self._sign(guest).encode()):
            return None
        return LOCAL if guest == LOCAL else f"{GUEST}{guest}"

    def valid_value(self, headers: Headers) -> str:
        """The first validly signed value in a request, under the current name or the earlier one; "" if none."""
        pairs = [pair.strip().partition("=") for line in headers.getlist("cookie") for pair in line.split(";")]
        for name in (self.name, COOKIE):
            for key, _, value in pairs:
                if key == name and self.owner(value) is not None:
                    return value
        return ""

    def session(self, name: str, visitor: str) -> str:
        """The internal session name for a visitor's tab. No other visitor can produce the same name."""
        message = json.dumps(["session", visitor, name]).encode()
        return f"{name}.{hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]}"

    def _sign(self, guest: str) -> str:
        return hmac.new(self._secret, f"owner {guest}".encode(), hashlib.sha256).hexdigest()


class Adopter(Protocol):
    """Moves conversations from one owner to another. Both methods may block on the disk, and raise ChatError."""

    def adopt(self, source: str, target: str) -> None:
        """Move everything that `source` owns to `target`."""
        ...

    def adopted(self, source: str, target: str) -> bool:
        """Whether `target` has adopted `source`."""
        ...


class OwnerMiddleware:
    """Puts the owner into the ASGI scope, sets a cookie when the page is opened, and renews it with every response.

    If `is_local`, the owner is LOCAL in every browser, and conversations of the browser's cookie are moved to LOCAL.
    Otherwise the cookie identifies the owner. `is_operator` tells the operator, who may manage models.

    Gradio sends a tab's events to anyone who knows its session name, which the browser chooses. So the session name is
    replaced by one that is bound to the visitor.
    """

    def __init__(
        self,
        app: ASGIApp,
        cookies: Cookies,
        adopter: Adopter | None = None,
        is_local: Callable[[Scope], bool] = lambda _: False,
        is_operator: Callable[[Scope], bool] = lambda _: False,
    ) -> None:
        self._app, self._cookies, self._adopter = app, cookies, adopter
        self._is_local, self._is_operator = is_local, is_operator
        self._adopted: OrderedDict[str, bool] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        value = self._cookies.valid_value(headers)
        owner = self._cookies.owner(value)
        if self._is_local(scope):
            await self._adopt(owner, is_page)
            owner = LOCAL
        elif owner is not None and await self._is_adopted(owner, is_page):
            owner = LOCAL
        if owner is None and is_page:
            value = self._cookies.issue()
            owner = self._cookies.owner(value)
        elif owner == LOCAL and is_page:
            value = self._cookies.issue(LOCAL)
        scope[OWNER], scope[OPERATOR] = owner, self._is_operator(scope)
        scope, receive = self._with_visitor_session(scope, receive, owner or _login_tokens(headers))
        renews = bool(value) and (is_page or scope["method"] == "POST")

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and renews:
                MutableHeaders(scope=message).append("set-cookie", self._set_cookie(value, scope, headers))
            await send(message)

        await self._app(scope, receive, send_with_cookie)

    async def _adopt(self, owner: str | None, retry: bool) -> None:
        """Move the conversations of a cookie's owner to LOCAL, once. After a failure, try again only with `retry`."""
        if owner is None or owner == LOCAL or self._adopter is None:
            return
        adopted = self._adopted.get(owner)
        if adopted or (adopted is False and not retry):
            return
        try:
            await asyncio.to_thread(self._adopter.adopt, owner, LOCAL)
            self._remember(owner, True)
        except ChatError as error:
            log.warning("the conversations of a cookie stay where they are: %s", error)
            self._remember(owner, False)

    async def _is_adopted(self, owner: str, refresh: bool) -> bool:
        """Whether LOCAL has adopted this owner. Cached; `refresh` reads it from the store again."""
        if owner == LOCAL or self._adopter is None:
            return False
        if refresh or owner not in self._adopted:
            try:
                self._remember(owner, await asyncio.to_thread(self._adopter.adopted, owner, LOCAL))
            except ChatError as error:
                log.warning("nobody can tell whether a cookie's conversations were adopted: %s", error)
        return self._adopted.get(owner, False)

    def _remember(self, owner: str, adopted: bool) -> None:
        self._adopted[owner] = adopted
        if len(self._adopted) > MAX_REMEMBERED:
            self._adopted.popitem(last=False)

    def _with_visitor_session(self, scope: Scope, receive: Receive, visitor: str) -> tuple[Scope, Receive]:
        """The request with its session name, in the path, query or JSON body, bound to the visitor."""
        if GRADIO not in scope["path"]:
            return scope, receive

        def bind(name: str) -> str:
            return self._cookies.session(name, visitor)

        path = SESSION_IN_PATH.sub(lambda match: match[1] + bind(match[2]), scope["path"])
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if any(name == SESSION for name, _ in query):
            query = [(name, bind(value) if name == SESSION else value) for name, value in query]
            scope = {**scope, "query_string": urlencode(query).encode()}
        headers = Headers(scope=scope)
        if scope["method"] == "POST" and not headers.get("content-type", "").lower().startswith("multipart/"):
            receive = _ReceiveWithSession(receive, bind)
        return {**scope, "path": path}, receive

    def _set_cookie(self, value: str, scope: Scope, headers: Headers) -> str:
        """The Set-Cookie header. A Space runs in another site's frame, where browsers keep only partitioned cookies.

        SameSite=None is safe because SecurityMiddleware refuses other sites' forms. The path is the whole host, because
        the page can be reached without the proxy that shows it under a path, and that path may change.
        """
        proto = headers.get("x-forwarded-proto", scope.get("scheme", "http")).split(",")[0].strip()
        site = "SameSite=None; Secure; Partitioned" if proto == "https" else "SameSite=Lax"
        return f"{self._cookies.name}={value}; Path=/; Max-Age={YEAR_SECONDS}; HttpOnly; {site}"


class _ReceiveWithSession:
    """An ASGI receive() that replaces the session name in a JSON body. Other bodies pass unchanged."""

    def __init__(self, receive: Receive, bind: Callable[[str], str]) -> None:
        self._receive, self._bind = receive, bind
        self._read = False

    async def __call__(self) -> Message:
        """The whole body as the first message, then the messages after it."""
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
            data: Any = shallow_json.loads(body)
        except ValueError:
            return body
        if not isinstance(data, dict) or not isinstance(data.get(SESSION), str):
            return body
        return json.dumps({**data, SESSION: self._bind(data[SESSION])}).encode()


def _login_tokens(headers: Headers) -> str:
    """Gradio's login tokens in the cookies, which identify a logged-in visitor; "" without a login."""
    return " ".join(re.findall(r"access-token-[^;,\s]+", headers.get("cookie", "")))
