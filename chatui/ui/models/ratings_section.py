"""The ratings below a comparison: what is rated by which votes, import and deletion of votes."""

import asyncio
import logging
from typing import Any

import gradio as gr

from chatui.errors import ChatError, unexpected
from chatui.i18n import N_, _
from chatui.models import votes
from chatui.models.votes import Vote
from chatui.runner import Runner
from chatui.store.own_votes import OwnVotes
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.unchecked_inputs import UncheckedDropdown
from chatui.ui.gradio_compat.upload_button import UploadButton, read_upload
from chatui.ui.markdown.markdown_escape import plain
from chatui.ui.models.ratings_view import ENTRANTS, VoteFilter, personas_in, ratings_view, tags_in_votes
from chatui.ui.models.reply_columns import tally
from chatui.ui.models.tabs import QUIET
from chatui.ui.shared import error_messages
from chatui.ui.shared.updates import ComponentUpdates

log = logging.getLogger(__name__)

ALL = ""
NAMED = "="
"""Prefix of all other choices. It tells a persona without a name from all, and keeps them from being translated."""
BY_MODEL = f"{NAMED}model"


class RatingsSection:
    """The components, rendered in the current Gradio context. The votes are those of the running event's user."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        gr.Markdown(N_("#### Ratings by your votes"), elem_id="compare-ratings-title")
        with gr.Row(elem_id="compare-filters"):
            entrants = [(label, NAMED + entrant) for label, entrant in ENTRANTS]
            self._entrant = UncheckedDropdown(entrants, value=BY_MODEL, label=N_("What is rated"), filterable=False)
            self._persona = UncheckedDropdown([(N_("All"), ALL)], value=ALL, label=N_("Persona"), filterable=False)
            self._tag = UncheckedDropdown([(N_("All"), ALL)], value=ALL, label=N_("Tag"), filterable=False)
        self._table = gr.Markdown(elem_id="compare-ratings")
        self._message = gr.Markdown(elem_id="compare-files")
        with gr.Row(elem_id="compare-manage"):
            self._upload = UploadButton(N_("Import votes"), size="sm", min_width=0, scale=0, file_types=[".json"])
            self._delete = gr.Button(N_("Delete all votes"), size="sm", min_width=0, scale=0)
            self._confirm = gr.Button(N_("Yes, delete them all"), size="sm", variant="stop", visible=False, scale=0)
            self._keep = gr.Button(N_("Keep them"), size="sm", min_width=0, visible=False, scale=0)
        self._asking = [self._delete, self._confirm, self._keep]
        self.filters: list[Any] = [self._entrant, self._persona, self._tag]
        self.outputs: list[Any] = [*self.filters, self._table, self._message, self._upload, *self._asking]

    def connect(self) -> None:
        """Register the events."""
        for box in self.filters:
            box.input(self._filter, self.filters, self._table, **{**QUIET, "trigger_mode": "always_last"})
        queued = {**QUIET, "queue": True, "concurrency_limit": None}
        self._upload.upload(self._import, self._upload, self.outputs, **queued)
        self._delete.click(lambda: self._ask(True), None, self._asking, **QUIET)
        self._keep.click(lambda: self._ask(False), None, self._asking, **QUIET)
        self._confirm.click(self._delete_all, None, self.outputs, **QUIET)

    async def updates(self, entrant: str = BY_MODEL, persona: str = ALL, tag: str = ALL) -> ComponentUpdates:
        """The ratings by these values of `filters`, where there are still such votes."""
        try:
            own = await self._read()
        except ChatError as error:
            return {self._table: plain(error_messages.error_line(error))}
        personas, tags = ([NAMED + name for name in names] for names in (personas_in(own), tags_in_votes(own)))
        persona, tag = persona if persona in personas else ALL, tag if tag in tags else ALL
        return {
            self._entrant: entrant,
            self._persona: gr.update(choices=_labelled(personas), value=persona),
            self._tag: gr.update(choices=_labelled(tags), value=tag),
            self._table: await asyncio.to_thread(ratings_view, own, _filter_of(entrant, persona, tag)),
            self._message: "",
            **self._ask(False),
        }

    def _own(self) -> OwnVotes:
        owner = request_context.owner()
        if owner is None:
            raise ChatError(
                "No vote can be kept: this browser takes no cookies.", "Allow them and load the page again."
            )
        return self._runner.owner_store(owner).votes

    async def _read(self) -> list[Vote]:
        return await asyncio.to_thread(self._own().all)

    async def _filter(self, entrant: str, persona: str, tag: str) -> str:
        try:
            return await asyncio.to_thread(ratings_view, await self._read(), _filter_of(entrant, persona, tag))
        except ChatError as error:
            return plain(error_messages.error_line(error))

    async def _import(self, path: str | None) -> ComponentUpdates:
        """Add the votes of a file that are not there yet."""
        try:
            data = await asyncio.to_thread(read_upload, path, votes.MAX_FILE_BYTES)
            given = await asyncio.to_thread(votes.from_json, data)
            added = await asyncio.to_thread(self._own().add, given)
        except Exception as error:
            if not isinstance(error, ChatError):
                log.exception("votes could not be imported")
                error = unexpected(error)
            return {self._message: plain(error_messages.error_line(error)), self._upload: None}
        return {**await self.updates(), self._message: plain(tally(added, len(given) - added)), self._upload: None}

    async def _delete_all(self) -> ComponentUpdates:
        try:
            await asyncio.to_thread(self._own().delete_all)
        except ChatError as error:
            return {self._message: plain(error_messages.error_line(error))}
        return {**await self.updates(), self._message: plain(_("All votes are deleted."))}

    def _ask(self, asking: bool) -> ComponentUpdates:
        """Show the buttons of the question whether to delete all votes, or the one that asks it."""
        return {button: gr.update(visible=asking == (button is not self._delete)) for button in self._asking}


def _labelled(choices: list[str]) -> list[tuple[str, str]]:
    """All, and these choices by their names."""
    return [(_("All"), ALL), *((choice[len(NAMED) :] or _("No persona"), choice) for choice in choices)]


def _filter_of(entrant: str, persona: str, tag: str) -> VoteFilter:
    chosen = next((each for _label, each in ENTRANTS if NAMED + each == entrant), ENTRANTS[0][1])
    names = (choice[len(NAMED) :] if choice and choice.startswith(NAMED) else None for choice in (persona, tag))
    return VoteFilter(chosen, *names)
