"""The left sidebar: new chats, search, the list of conversations, import and export."""

import asyncio
from datetime import datetime, timedelta, timezone

import gradio as gr

from chatui.i18n import N_, _
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.upload_button import UploadButton
from chatui.ui.shared import header
from chatui.ui.shared.tab import Tab
from chatui.ui.sidebar import conversation_list


def footer_html() -> str:
    """HTML of the links below the list."""
    return (
        f'<p class="chat-list-below"><a class="act" href="#archived">{_("Archive")}</a>'
        f'<a class="act" href="#deleted">{_("Recently deleted")}</a>'
        f'<a class="download" href="chats/export?format=json">{_("Export all")}</a>'
        f'<a href="#tour">{_("Guided tour")}</a></p>'
    )


class Sidebar:
    """The components, rendered where the sidebar is created."""

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
        extensions = [".json", ".jsonl", ".ndjson", ".zip"]
        self.upload = UploadButton(N_("Import chats"), size="sm", file_types=extensions, elem_id="bring")
        with gr.Column(visible=False, elem_id="bringing") as self.import_status:
            self.progress = gr.Markdown()
            self.cancel = gr.Button(N_("Cancel import"), size="sm", elem_id="cancel-import")
        self.footer = gr.Markdown(footer_html(), elem_id="below-chats")
        if logs_out:
            gr.Button(N_("Log out"), size="sm", elem_id="log-out")  # chatui.js handles the click

    async def render_list(self, tab: Tab) -> str:
        """HTML of the list that this tab shows."""
        if tab.search.strip():
            hits = await asyncio.to_thread(tab.list_store.search, tab.search)
            return conversation_list.render_hits(hits, tab.state)
        state = tab.state
        if state.show_deleted:
            conversations = await asyncio.to_thread(tab.list_store.deleted, state.list_limit + 1)
            return conversation_list.render_deleted(
                conversations[: state.list_limit], state, len(conversations) > state.list_limit
            )
        conversations = await asyncio.to_thread(
            tab.list_store.conversations, state.list_limit + 1, None, state.show_archived
        )
        now = datetime.now(timezone(timedelta(minutes=request_context.utc_offset_minutes())))
        adoptable = await asyncio.to_thread(tab.count_adoptable)
        return conversation_list.render_list(
            conversations[: state.list_limit], state, now, len(conversations) > state.list_limit, adoptable
        )
