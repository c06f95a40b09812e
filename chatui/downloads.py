"""What a browser may take away as a file: conversations and personas, their owner's own only."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from chatui import cards
from chatui.errors import ChatError, NotFoundError, SettingsError
from chatui.owners import OwnerOf
from chatui.store import exporting
from chatui.store.owner_store import OwnerStore
from chatui.store.store import Store

CHATS = {
    "json": (exporting.as_json, "json", "application/json"),
    "md": (exporting.as_markdown, "md", "text/markdown"),
    "messages": (exporting.as_messages, "messages.json", "application/json"),
}


def routes(store: Store, owner_of: OwnerOf) -> list[Route]:
    """GET chats/export?format=json|md|messages[&chat=ID] and persona/export?id=ID&format=json|card|png."""

    def answered(answer: Callable[[Request, OwnerStore], Response]) -> Callable[[Request], object]:
        async def answering(request: Request) -> Response:
            owner = owner_of(request)
            try:
                if owner is None:
                    raise NotFoundError
                return await asyncio.to_thread(answer, request, store.for_owner(owner))
            except ChatError as error:
                return JSONResponse({"error": str(error)}, status_code=error.status)

        return answering

    return [Route("/chats/export", answered(_chats)), Route("/persona/export", answered(_persona))]


def _chats(request: Request, owner_store: OwnerStore) -> Response:
    chat, form = request.query_params.get("chat"), request.query_params.get("format", "json")
    if form not in CHATS:
        raise SettingsError("format", "there is no such one.", f"Choose one of {', '.join(CHATS)}.")
    name = owner_store.conversation(chat).title if chat else "chats"
    write, ending, kind = CHATS[form]
    trees = owner_store.trees([chat] if chat else None)
    pieces = write(trees)
    first = next(pieces, "")  # what is wrong comes to light before the answer begins
    return StreamingResponse(_stepwise(chain([first], pieces)), media_type=kind, headers=_attached(f"{name}.{ending}"))


async def _stepwise(pieces: Iterator[str]) -> AsyncIterator[str]:
    """Each piece made in a thread, for the database may be slow."""
    while True:
        piece = await asyncio.to_thread(next, pieces, None)
        if piece is None:
            return
        yield piece


def _persona(request: Request, owner_store: OwnerStore) -> Response:
    wanted, form = request.query_params.get("id", ""), request.query_params.get("format", "json")
    found = owner_store.persona(wanted)
    if form == "png":
        return Response(cards.as_png(found), media_type="image/png", headers=_attached(f"{found.name}.png"))
    if form not in ("json", "card"):
        raise SettingsError("format", "there is no such one.", "Choose json, card or png.")
    text = cards.as_json(found) if form == "json" else cards.as_card_json(found)
    ending = "json" if form == "json" else "card.json"
    return Response(text, media_type="application/json", headers=_attached(f"{found.name}.{ending}"))


def _attached(name: str) -> dict[str, str]:
    """A file to be saved, never shown: its text is anybody's."""
    plain = re.sub(r"[^\w .()-]", "_", name, flags=re.ASCII)[:80] or "chatui"
    return {"Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name[:200])}"}
