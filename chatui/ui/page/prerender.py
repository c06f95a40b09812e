"""Renders a conversation as plain HTML, which prerender.js shows until Gradio has built its page.

Gradio takes a second to build its page on a small machine. Uses no component.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from markdown_it import MarkdownIt
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from chatui import i18n
from chatui.errors import ChatError
from chatui.i18n import _
from chatui.owners import OwnerOf
from chatui.runner import Runner
from chatui.store.records import StoredMessage
from chatui.ui.gradio_compat import request_context
from chatui.ui.shared.redraw import render_off_loop
from chatui.ui.shared.tab_state import LIST_PAGE_SIZE, TabState
from chatui.ui.sidebar import conversation_list

MAX_MESSAGES = 12
MAX_CHARACTERS = 60_000
"""Characters of all messages together. The chat is scrolled to the end of the last one."""

# Tags and entities are shown literally.
_MARKDOWN = (
    MarkdownIt("commonmark", {"html": False, "breaks": True})
    .enable(["table", "strikethrough"])
    .disable(["image", "entity"])
)


def render(path: Sequence[StoredMessage], conversations: str) -> str:
    """HTML of the end of a conversation, beside the HTML of the list of conversations."""
    messages: list[str] = []
    remaining = MAX_CHARACTERS
    for message in reversed(path[-MAX_MESSAGES:]):
        if messages and len(message.content) > remaining:
            break
        remaining -= len(message.content)
        content = message.content[-MAX_CHARACTERS:]
        side = "user" if message.role == "user" else "bot"
        thought = f'<p class="early-thought">{_("Thought")}</p>' if message.reasoning else ""
        messages.append(f'<div class="early-{side}">{thought}{_MARKDOWN.render(content)}</div>')
    parts = {
        "early-list": conversations,
        "early-chat": f'<div class="early-column">{"".join(reversed(messages))}</div>',
        "early-box": "",
        "early-settings": "",
    }
    return "".join(f'<div class="{name}">{part}</div>' for name, part in parts.items())


def route(runner: Runner, owner_of: OwnerOf) -> Route:
    """The route from which prerender.js loads a conversation of the request's owner: `early?chat=ID`, or 404."""

    async def prerendered(request: Request) -> Response:
        chat, owner = request.query_params.get("chat", "")[:100], owner_of(request)
        headers = {"Cache-Control": "no-store"}
        if not chat or owner is None:
            return HTMLResponse("", 404, headers)
        owner_store = runner.owner_store(owner)
        try:
            path = list(
                (await asyncio.to_thread(owner_store.visible_path, chat, MAX_MESSAGES, MAX_CHARACTERS)).messages
            )
            listed = await asyncio.to_thread(owner_store.conversations, LIST_PAGE_SIZE + 1)
        except ChatError as error:
            return HTMLResponse("", error.status, headers)
        running = runner.running_reply(owner, path[-1].id) if path else None
        if running is not None:
            path[-1] = running.as_message()
        now = datetime.now(timezone(timedelta(minutes=request_context.utc_offset_in(request.cookies))))
        with i18n.use_language(i18n.negotiate(request.headers.get("accept-language"))):
            conversations = conversation_list.render_list(
                listed[:LIST_PAGE_SIZE], TabState(chat), now, len(listed) > LIST_PAGE_SIZE
            )
            length = sum(len(message.content) for message in path)
            return HTMLResponse(await render_off_loop(length, render, path, conversations), headers=headers)

    return Route("/early", prerendered)
