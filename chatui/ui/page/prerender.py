"""The conversation as plain markup, which prerender.js shows while Gradio's page is still being made.

Gradio takes a second to make its page on a small machine; what was said is to be read before. Knows no component.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta, timezone

from markdown_it import MarkdownIt
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui import i18n
from chatui.errors import NotFoundError
from chatui.i18n import _
from chatui.owners import OwnerOf
from chatui.runner import Runner
from chatui.store.records import StoredMessage
from chatui.ui.chat.redraw import render_off_loop
from chatui.ui.chat.tab_state import FIRST_SHOWN, TabState
from chatui.ui.gradio_compat import request_context
from chatui.ui.page import cache_headers, link_preview, page_language
from chatui.ui.sidebar import conversation_list

MAX_MESSAGES = 12
MAX_CHARACTERS = 60_000
"""Of all of them; the chat is scrolled to the end of the last."""

# Tags and entities show as they are written.
_MARKDOWN = (
    MarkdownIt("commonmark", {"html": False, "breaks": True})
    .enable(["table", "strikethrough"])
    .disable(["image", "entity"])
)


def markup(path: Sequence[StoredMessage], list_of_chats: str) -> str:
    """The end of a conversation, beside the list of all."""
    shown: list[str] = []
    room = MAX_CHARACTERS
    for message in reversed(path[-MAX_MESSAGES:]):
        if shown and len(message.content) > room:
            break
        room -= len(message.content)
        content = message.content[-MAX_CHARACTERS:]
        side = "user" if message.role == "user" else "bot"
        thought = f'<p class="early-thought">{_("Thought")}</p>' if message.reasoning else ""
        shown.append(f'<div class="early-{side}">{thought}{_MARKDOWN.render(content)}</div>')
    parts = {
        "early-list": list_of_chats,
        "early-chat": f'<div class="early-column">{"".join(reversed(shown))}</div>',
        "early-box": "",
        "early-settings": "",
    }
    return "".join(f'<div class="{name}">{part}</div>' for name, part in parts.items())


def route(runner: Runner, owner_of: OwnerOf) -> Route:
    """Where prerender.js finds a conversation of the asker's: `early?chat=ID`; 404 where there is none."""

    async def early(request: Request) -> Response:
        chat, owner = request.query_params.get("chat", "")[:100], owner_of(request)
        headers = {"Cache-Control": "no-store"}
        if not chat or owner is None:
            return HTMLResponse("", 404, headers)
        shelf = runner.shelf(owner)
        try:
            path = list((await asyncio.to_thread(shelf.shown, chat, MAX_MESSAGES, MAX_CHARACTERS)).messages)
        except NotFoundError:
            return HTMLResponse("", 404, headers)
        live = runner.live(owner, path[-1].id) if path else None
        if live is not None:
            path[-1] = live.as_message()
        listed = await asyncio.to_thread(shelf.conversations, FIRST_SHOWN + 1)
        now = datetime.now(timezone(timedelta(minutes=request_context.minutes_ahead_in(request.cookies))))
        with i18n.use_language(i18n.negotiate(request.headers.get("accept-language"))):
            shown = conversation_list.listing(listed[:FIRST_SHOWN], TabState(chat), now, len(listed) > FIRST_SHOWN)
            length = sum(len(message.content) for message in path)
            return HTMLResponse(await render_off_loop(length, markup, path, shown), headers=headers)

    return Route("/early", early)


HEAD = (
    f'<link rel="stylesheet" href="{cache_headers.versioned_url("chatui.css")}">'
    f'<link rel="stylesheet" href="{cache_headers.versioned_url("prerender.css")}">'
    f'<script src="{cache_headers.versioned_url("connections.js")}"></script>'
    f'<script src="{cache_headers.versioned_url("refusals.js")}"></script>'
    f'<script src="{cache_headers.versioned_url("prerender.js")}"></script>'
    f'<script defer src="{cache_headers.versioned_url("access.js")}"></script>'  # these two for the page to log in, too
    f'<script defer src="{cache_headers.versioned_url("heard.js")}"></script>'
).encode()


class HeadMiddleware:
    """Puts HEAD into Gradio's page itself; what Gradio calls its head is added by a script, when much time is gone.

    A page is sent within `opening`, which may put into it what only the one who asks may see.
    """

    def __init__(self, app: ASGIApp, opening: Callable[[Request], AbstractAsyncContextManager[None]]) -> None:
        self._app, self._opening = app, opening

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of any kind."""
        page = (
            scope["type"] == "http"
            and scope["method"] == "GET"
            and "text/html" in Headers(scope=scope).get("accept", "")
        )
        if not page:
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: Message | None = None

        async def completed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_html(message):
                start = message
                return
            if start is None:
                await send(message)
                return
            body = message.get("body", b"")
            made, start = start, None
            added = page_language.spoken(
                body.replace(b"</head>", page_language.words().encode() + HEAD + b"</head>", 1)
            )
            added = link_preview.told(added, Request(scope))
            told = MutableHeaders(scope=made)
            told["cache-control"] = "no-store"
            if "content-length" in told:
                told["content-length"] = str(int(told["content-length"]) + len(added) - len(body))
            await send(made)
            await send({**message, "body": added})

        async with self._opening(Request(scope)):
            await self._app({**scope, "headers": headers}, receive, completed)


def _is_html(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/html")
