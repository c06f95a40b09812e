"""The left sidebar: new chats, search, the list of conversations, what is brought in and taken away."""

import asyncio
from datetime import datetime, timedelta, timezone

import gradio as gr

from chatui.i18n import N_, _
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.upload_button import UploadButton
from chatui.ui.shared import header
from chatui.ui.shared.tab import Tab
from chatui.ui.sidebar import conversation_list


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
        self.upload = UploadButton(N_("Import chats"), size="sm", file_types=kinds, elem_id="bring")
        with gr.Column(visible=False, elem_id="bringing") as self.import_status:
            self.progress = gr.Markdown()
            self.cancel = gr.Button(N_("Cancel import"), size="sm", elem_id="cancel-import")
        self.below = gr.Markdown(below(), elem_id="below-chats")
        if logs_out:
            gr.Button(N_("Log out"), size="sm", elem_id="log-out")  # chatui.js does it

    async def listed(self, tab: Tab) -> str:
        """The list as this tab shows it."""
        if tab.search.strip():
            hits = await asyncio.to_thread(tab.list_store.search, tab.search)
            return conversation_list.found(hits, tab.state)
        place = tab.state
        if place.show_deleted:
            gone = await asyncio.to_thread(tab.list_store.deleted, place.list_limit + 1)
            return conversation_list.deleted(gone[: place.list_limit], place, len(gone) > place.list_limit)
        found = await asyncio.to_thread(tab.list_store.conversations, place.list_limit + 1, None, place.show_archived)
        now = datetime.now(timezone(timedelta(minutes=request_context.utc_offset_minutes())))
        offered = await asyncio.to_thread(tab.count_adoptable)
        return conversation_list.listing(found[: place.list_limit], place, now, len(found) > place.list_limit, offered)
