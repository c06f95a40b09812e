"""Logins that outlive the server and end at POST /logout: Gradio's table of tokens, kept in the store.

Replaced: `App.tokens`, `App.cookie_id` and the route `/logout` of `gradio/routes.py`.
Why: Gradio keeps logins in memory, so that a restart logs everybody out; its cookies have a new name at each start, and
any other site can log its users out by a link to GET /logout.
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
from chatui.security import refusal
from chatui.store.logins import Logins

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
"""So long what was found in the store is taken as it is: another server may have logged somebody out meanwhile."""

MAX_TOKENS = 10_000
MAX_TOKEN_LENGTH = 100


class LoginTokens(MutableMapping[str, str]):
    """Users by login token, in memory as Gradio needs it; Sessions brings it in step with the store.

    Gradio looks tokens up while it answers, where nothing may wait for the disk.
    """

    def __init__(self) -> None:
        self._users: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self.fresh: list[str] = []
        """What Gradio has added, and the store does not have yet."""

    def __getitem__(self, token: str) -> str:
        return self._users[token][0]

    def __setitem__(self, token: str, user: str) -> None:
        self.know(token, user)
        self.fresh.append(token)

    def __delitem__(self, token: str) -> None:
        del self._users[token]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._users))

    def __len__(self) -> int:
        return len(self._users)

    def know(self, token: str, user: str) -> None:
        """The store has said so just now."""
        self._users[token] = user, time.monotonic()
        self._users.move_to_end(token)
        if len(self._users) > MAX_TOKENS:
            self._users.popitem(last=False)

    def is_fresh(self, token: str) -> bool:
        """Whether what is known of a token was heard of a moment ago."""
        return token in self._users and time.monotonic() - self._users[token][1] < FRESH_SECONDS


class LoginMiddleware:
    """Before each request looks its token up in the store; before the answer to a login, keeps that there."""

    def __init__(self, app: ASGIApp, tokens: LoginTokens, logins: Logins, names: tuple[str, ...]) -> None:
        self._app, self._tokens, self._logins, self._names = app, tokens, logins, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for token in _sent(Request(scope), self._names):
            if not self._tokens.is_fresh(token):
                await self._look_up(token)

        logs_in = scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/login")

        async def kept(message: Message) -> None:
            while logs_in and message["type"] == "http.response.start" and self._tokens.fresh:
                await self._keep(self._tokens.fresh.pop())
            await send(message)

        await self._app(scope, receive, kept)

    async def _look_up(self, token: str) -> None:
        try:
            user = await asyncio.to_thread(self._logins.user, token)
        except ChatError as error:  # who was in stays in
            log.warning("nobody can tell who is logged in: %s", error)
            return
        if user is None:
            self._tokens.pop(token, None)
        else:
            self._tokens.know(token, user)

    async def _keep(self, token: str) -> None:
        try:
            await asyncio.to_thread(self._logins.keep, token, self._tokens[token])
        except ChatError as error:
            log.warning("a login holds until the server ends only: %s", error)


def install(app: FastAPI, gradio_app: Any, logins: Logins, instance: str) -> None:
    """Let the logins of Gradio's app, which `app` mounts, be kept, and end by POST /logout alone.

    Their cookies are the instance's own, for all servers on one host share their cookies.
    """
    gradio_app.cookie_id = instance
    gradio_app.tokens = tokens = LoginTokens()
    names = cookie_names(gradio_app)
    gradio_app.router.routes[:] = [
        route for route in gradio_app.router.routes if getattr(route, "path", "") != "/logout"
    ]

    async def logout(request: Request) -> Response:
        try:
            for token in _sent(request, names):
                await asyncio.to_thread(logins.forget, token)
                tokens.pop(token, None)
        except ChatError as error:
            return refusal(error.status, str(error))
        answer = Response(status_code=204)
        answer.delete_cookie(names[0], secure=True, httponly=True, samesite="none")
        answer.delete_cookie(names[1], httponly=True)
        return answer

    app.router.routes.insert(0, Route("/logout", logout, methods=["POST"]))
    app.add_middleware(LoginMiddleware, tokens=tokens, logins=logins, names=names)


def cookie_names(gradio_app: Any) -> tuple[str, str]:
    """What Gradio calls the cookies of a login, where it is secure and where it is not."""
    return f"access-token-{gradio_app.cookie_id}", f"access-token-unsecure-{gradio_app.cookie_id}"


def login_of(gradio_app: Any, request: Request) -> str | None:
    """Who is logged in with a request; None for nobody."""
    names = cookie_names(gradio_app)
    token = next((request.cookies[name] for name in names if request.cookies.get(name)), None)
    name: str | None = gradio_app.tokens.get(token)
    return name


def _sent(request: Request, names: tuple[str, ...]) -> set[str]:
    found = {request.cookies.get(name, "") for name in names}
    return {token for token in found if 0 < len(token) <= MAX_TOKEN_LENGTH}
