"""The left sidebar: new chats, search, the list of conversations, what is brought in and taken away."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import gradio as gr

from chatui.errors import LimitError, TransferError
from chatui.i18n import N_, _
from chatui.store import checks, importing
from chatui.store.records import Merged
from chatui.store.shelf import Shelf
from chatui.ui import header, listening, listing, speaking
from chatui.ui.tab import Tab
from chatui.ui.uploads import Upload, uploaded

LISTED = 8
"""Conversations that are named where not all could be read."""


def below() -> str:
    """What stands under the list."""
    return (
        f'<p class="chat-list-below"><a class="act" href="#archived">{_("Archive")}</a> · '
        f'<a class="act" href="#deleted">{_("Recently deleted")}</a> · '
        f'<a class="download" href="chats/export?format=json">{_("Export all")}</a></p>'
    )


class Sidebar:
    """Its components, rendered where it is made."""

    def __init__(self, logs_out: bool) -> None:
        gr.Markdown(header.BRAND)
        self.new = gr.Button(N_("New chat"), variant="primary", elem_id="new-chat")
        self.temporary = gr.Button(N_("Temporary chat"), size="sm", elem_id="temporary-chat")
        self.search = gr.Textbox(
            label=N_("Search"),
            show_label=False,
            placeholder=N_("Search chats"),
            elem_id="search",
            container=False,
            max_lines=1,
        )
        self.list = gr.Markdown(elem_id="chats")
        kinds = [".json", ".jsonl", ".ndjson", ".zip"]
        self.bring = Upload(N_("Import chats"), size="sm", file_types=kinds, elem_id="bring")
        self.below = gr.Markdown(below(), elem_id="below-chats")
        if logs_out:
            gr.Button(N_("Log out"), size="sm", elem_id="log-out")  # chatui.js does it

    async def listed(self, tab: Tab) -> str:
        """The list as this tab shows it."""
        if tab.search.strip():
            hits = await asyncio.to_thread(tab.kept.search, tab.search)
            return listing.found(hits, tab.place)
        place = tab.place
        if place.deleted:
            gone = await asyncio.to_thread(tab.kept.deleted, place.shown + 1)
            return listing.deleted(gone[: place.shown], place, len(gone) > place.shown)
        found = await asyncio.to_thread(tab.kept.conversations, place.shown + 1, None, place.archived)
        now = datetime.now(timezone(timedelta(minutes=listening.minutes_ahead())))
        offered = await asyncio.to_thread(tab.offered)
        return listing.listing(found[: place.shown], place, now, len(found) > place.shown, offered)

    async def add(self, tab: Tab, path: str | None) -> tuple[str, str]:
        """Take in the conversations of an uploaded file, which is then removed.

        Returns what came of it, and what did not come in and why, "" where nothing was left.
        """
        data = await asyncio.to_thread(uploaded, path, checks.MOST_BYTES)
        reading = importing.read(data)
        merged = await asyncio.to_thread(_merged, tab.kept, reading)
        if not merged and not reading.left:
            raise TransferError("There are no conversations in this file.", "Choose another one.")
        return _came(merged), _left(reading.left)


def _merged(shelf: Shelf, reading: importing.Reading) -> list[Merged]:
    """Take in what fits; the rest is left."""
    merged = []
    for tree in reading:
        try:
            merged.append(shelf.merge(tree))
        except (LimitError, TransferError) as error:
            title = f"“{tree.conversation.title}”" if tree.conversation.title else _("Untitled")
            reading.left.append(importing.Left(title, speaking.sentence(error)))
    return merged


def _came(merged: Sequence[Merged]) -> str:
    """How many conversations are new, have new messages, or were all known."""
    new = sum(not one.known for one in merged)
    grown = sum(one.known and one.new > 0 for one in merged)
    same = len(merged) - new - grown
    parts = [
        _("Conversations imported: {count}.", count=new) if new else "",
        _("Brought up to date: {count}.", count=grown) if grown else "",
        _("Here already: {count}.", count=same) if same else "",
    ]
    return " ".join(part for part in parts if part)


def _left(left: Sequence[importing.Left]) -> str:
    """What did not come in, a line each."""
    if not left:
        return ""
    lines = [_("Not everything in the file came in:"), *map(str, left[:LISTED])]
    more = len(left) - LISTED
    if more > 0:
        lines.append(_("And more: {count}.", count=more))
    return "\n".join(lines)
