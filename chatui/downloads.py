"""Routes that export conversations, replies, personas and votes as files, to their owner only."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain, islice
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from chatui import cards, notebook
from chatui.errors import ChatError, ExportCutOffError, NotFoundError, SettingsError, StoreError
from chatui.inspection import Inspection
from chatui.models import votes
from chatui.owners import OwnerOf
from chatui.store import exporting
from chatui.store.owner_store import OwnerStore
from chatui.store.store import Store

log = logging.getLogger(__name__)

CHATS = {
    "json": (exporting.as_json, "json", "application/json"),
    "md": (exporting.as_markdown, "md", "text/markdown"),
    "messages": (exporting.as_messages, "messages.json", "application/json"),
}
VOTES = {"json": (votes.as_json, "application/json"), "csv": (votes.as_csv, "text/csv")}


def routes(store: Store, owner_of: OwnerOf) -> list[Route]:
    """The routes of downloads.

    GET chats/export?format=json|md|messages[&chat=ID], chats/export?format=ipynb&chat=ID[&reply=ID],
    persona/export?id=ID&format=json|card|png, and votes/export?format=json|csv.
    """

    def export_route(build_response: Callable[[Request, OwnerStore], Response]) -> Callable[[Request], object]:
        async def endpoint(request: Request) -> Response:
            owner = owner_of(request)
            try:
                if owner is None:
                    raise NotFoundError
                return await asyncio.to_thread(build_response, request, store.for_owner(owner))
            except ChatError as error:
                return JSONResponse({"error": str(error)}, status_code=error.status)

        return endpoint

    return [
        Route("/chats/export", export_route(_export_chats)),
        Route("/persona/export", export_route(_export_persona)),
        Route("/votes/export", export_route(_export_votes)),
    ]


def _export_chats(request: Request, owner_store: OwnerStore) -> Response:
    chat, file_format = request.query_params.get("chat"), request.query_params.get("format", "json")
    if file_format == "ipynb":
        return _export_notebook(owner_store, chat or "", request.query_params.get("reply"))
    if file_format not in CHATS:
        raise SettingsError("format", "there is no such one.", f"Choose one of {', '.join(CHATS)}, ipynb.")
    name = owner_store.conversation(chat).title if chat else "chats"
    serialize, suffix, media_type = CHATS[file_format]
    trees = owner_store.trees([chat] if chat else None)
    pieces = serialize(trees)
    first = list(islice(pieces, 2))  # one may be a heading; what fails with the first conversation is answered as error
    return StreamingResponse(
        _in_threads(chain(first, pieces)), media_type=media_type, headers=_attachment_headers(f"{name}.{suffix}")
    )


def _export_notebook(owner_store: OwnerStore, chat: str, reply: str | None) -> Response:
    """The notebook of a reply, by default of the last one in the conversation that has a generation trace.

    Raises NotFoundError.
    """
    title = owner_store.conversation(chat).title
    for message in reversed(owner_store.path(chat, reply)):
        stored = owner_store.inspection(message.id) if message.author is not None else None
        inspection = Inspection.unpacked(stored.data) if stored is not None else None
        if inspection is not None and message.author is not None:
            text = notebook.as_notebook(inspection, message.author.settings, message.author.seed)
            return Response(text, media_type="application/x-ipynb+json", headers=_attachment_headers(f"{title}.ipynb"))
        if reply is not None:
            break
    raise NotFoundError("generation trace")


async def _in_threads(pieces: Iterator[str]) -> AsyncIterator[str]:
    """Iterate over the pieces, each in a thread, because the database may be slow.

    Raises ExportCutOffError where it fails. That ends the connection, so that nobody takes a part of the file for the
    whole.
    """
    while True:
        try:
            piece = await asyncio.to_thread(next, pieces, None)
        except StoreError as error:
            log.warning("an export was cut off: %s", error)
            raise ExportCutOffError(error.message, error.remedy) from error
        if piece is None:
            return
        yield piece


def _export_persona(request: Request, owner_store: OwnerStore) -> Response:
    persona_id, file_format = request.query_params.get("id", ""), request.query_params.get("format", "json")
    persona = owner_store.persona(persona_id)
    if file_format == "png":
        return Response(
            cards.as_png(persona), media_type="image/png", headers=_attachment_headers(f"{persona.name}.png")
        )
    if file_format not in ("json", "card"):
        raise SettingsError("format", "there is no such one.", "Choose json, card or png.")
    text = cards.as_json(persona) if file_format == "json" else cards.as_card_json(persona)
    suffix = "json" if file_format == "json" else "card.json"
    return Response(text, media_type="application/json", headers=_attachment_headers(f"{persona.name}.{suffix}"))


def _export_votes(request: Request, owner_store: OwnerStore) -> Response:
    file_format = request.query_params.get("format", "json")
    if file_format not in VOTES:
        raise SettingsError("format", "there is no such one.", "Choose json or csv.")
    serialize, media_type = VOTES[file_format]
    text = serialize(owner_store.votes.all())
    return Response(text, media_type=media_type, headers=_attachment_headers(f"votes.{file_format}"))


def _attachment_headers(name: str) -> dict[str, str]:
    """Headers with which a browser saves the file and never shows it: its content is not trusted."""
    ascii_name = re.sub(r"[^\w .()-]", "_", name, flags=re.ASCII)[:80] or "chatui"
    return {"Content-Disposition": f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name[:200])}"}
