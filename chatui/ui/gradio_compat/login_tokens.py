"""Logins that survive a restart and end at POST /logout: Gradio's table of tokens, saved in the store.

Replaced: `App.tokens`, `App.cookie_id` and the route `/logout` of `gradio/routes.py`.
Why: Gradio keeps logins in memory, so a restart logs everybody out. The names of its cookies change at each start. Any
other site can log its users out by a link to GET /logout.
Upstream: `App.__init__` sets `tokens = {}` and a random `cookie_id`; `login` puts a token into `tokens` and sends it as
the cookies `access-token-ID` and `access-token-unsecure-ID`; `get_current_user` looks it up in `tokens`.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.errors import ChatError
from chatui.owners import LOGIN_UNKNOWN
from chatui.security import error_response
from chatui.store.logins import Logins
from chatui.store.notifications import Notification, Notifications

log = logging.getLogger(__name__)

CACHE_SECONDS = 2.0
"""How long a token found in the store is not looked up again: another server may log its user out meanwhile."""

MAX_TOKENS = 10_000
MAX_TOKEN_LENGTH = 100


class LoginTokens(MutableMapping[str, str]):
    """Users by login token, cached in memory; LoginMiddleware syncs it with the store.

    Gradio looks tokens up on the event loop, where reading from disk would block.
    """

    def __init__(self) -> None:
        self._users: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._expired_at = float("-inf")
        self.unsaved: list[str] = []
        """Tokens that Gradio has added and the store does not have yet."""

    def __getitem__(self, token: str) -> str:
        return self._users[token][0]

    def __setitem__(self, token: str, user: str) -> None:
        self.cache(token, user)
        self.unsaved.append(token)

    def __delitem__(self, token: str) -> None:
        del self._users[token]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._users))

    def __len__(self) -> int:
        return len(self._users)

    def cache(self, token: str, user: str, read_at: float | None = None) -> None:
        """Store the user of a token that was read from the store at `read_at`, or written to it just now."""
        self._users[token] = user, time.monotonic() if read_at is None else read_at
        self._users.move_to_end(token)
        if len(self._users) > MAX_TOKENS:
            self._users.popitem(last=False)

    def is_cached(self, token: str) -> bool:
        """Whether a token was cached less than CACHE_SECONDS ago, and not before expire()."""
        cached_at = self._users[token][1] if token in self._users else float("-inf")
        return cached_at > max(self._expired_at, time.monotonic() - CACHE_SECONDS)

    def expire(self) -> None:
        """Look all tokens up again, because another server has logged somebody out."""
        self._expired_at = time.monotonic()


class LoginMiddleware:
    """Looks the token of each request up in the store, and saves the token of each login before its response."""

    def __init__(self, app: ASGIApp, tokens: LoginTokens, logins: Logins, names: tuple[str, ...]) -> None:
        self._app, self._tokens, self._logins, self._names = app, tokens, logins, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request of any type."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for token in _tokens_of(Request(scope), self._names):
            if not self._tokens.is_cached(token):
                scope[LOGIN_UNKNOWN] = not await self._look_up(token) or scope.get(LOGIN_UNKNOWN, False)

        logs_in = scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/login")

        async def save_login(message: Message) -> None:
            while logs_in and message["type"] == "http.response.start" and self._tokens.unsaved:
                await self._save(self._tokens.unsaved.pop())
            await send(message)

        await self._app(scope, receive, save_login)

    async def _look_up(self, token: str) -> bool:
        """Cache the token's user, or forget the token. False if the store fails."""
        read_at = time.monotonic()
        try:
            user = await asyncio.to_thread(self._logins.user, token)
        except ChatError as error:  # a logged-in user stays logged in
            log.warning("a login token cannot be looked up: %s", error)
            return False
        if user is None:
            self._tokens.pop(token, None)
        else:
            self._tokens.cache(token, user, read_at)
        return True

    async def _save(self, token: str) -> None:
        try:
            await asyncio.to_thread(self._logins.add, token, self._tokens[token])
        except ChatError as error:
            log.warning("a login is lost when the server restarts: %s", error)


def install(app: FastAPI, gradio_app: Any, logins: Logins, instance: str, notifications: Notifications) -> None:
    """Keep the logins of Gradio's app, which `app` mounts, in the store, and replace GET /logout by POST /logout.

    `instance` is part of the cookies' names, because all servers on one host share cookies. `notifications` tell when
    somebody has logged out on another server.
    """
    gradio_app.cookie_id = instance
    gradio_app.tokens = tokens = LoginTokens()

    def expire(notification: Notification) -> None:
        if notification.kind in ("logout", "reconnected"):
            tokens.expire()

    notifications.subscribe(expire)
    names = cookie_names(gradio_app)
    gradio_app.router.routes[:] = [
        route for route in gradio_app.router.routes if getattr(route, "path", "") != "/logout"
    ]

    async def logout(request: Request) -> Response:
        try:
            for token in _tokens_of(request, names):
                await asyncio.to_thread(logins.remove, token)
                tokens.pop(token, None)
        except ChatError as error:
            return error_response(error.status, str(error))
        response = Response(status_code=204)
        response.delete_cookie(names[0], secure=True, httponly=True, samesite="none")
        response.delete_cookie(names[1], httponly=True)
        return response

    app.router.routes.insert(0, Route("/logout", logout, methods=["POST"]))
    app.add_middleware(LoginMiddleware, tokens=tokens, logins=logins, names=names)


def cookie_names(gradio_app: Any) -> tuple[str, str]:
    """The names of Gradio's login cookies, for HTTPS and for HTTP."""
    return f"access-token-{gradio_app.cookie_id}", f"access-token-unsecure-{gradio_app.cookie_id}"


def login_of(gradio_app: Any, request: Request) -> str | None:
    """The user who is logged in with a request, or None."""
    names = cookie_names(gradio_app)
    token = next((request.cookies[name] for name in names if request.cookies.get(name)), None)
    name: str | None = gradio_app.tokens.get(token)
    return name


def _tokens_of(request: Request, names: tuple[str, ...]) -> set[str]:
    tokens = {request.cookies.get(name, "") for name in names}
    return {token for token in tokens if 0 < len(token) <= MAX_TOKEN_LENGTH}
