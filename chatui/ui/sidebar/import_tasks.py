"""Imports on their way in: each runs in a thread, while the page that asked looks at how far it has come."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextvars import copy_context
from dataclasses import dataclass, field

from chatui.errors import ChatError, LimitError, TransferError
from chatui.i18n import _, ngettext, translated
from chatui.store import import_process
from chatui.store.archives import SkippedItem
from chatui.store.importing import ImportSource
from chatui.store.owner_store import OwnerStore
from chatui.store.records import MergeResult
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.upload_button import take_upload
from chatui.ui.page import page_language

LISTED = 8
"""Conversations that are named where not all could be read."""
POLL_SECONDS = 0.5
MAX_CONCURRENT = 2
"""Imports of all users together: each may take some gigabytes of memory while its file is parsed."""


@dataclass
class ImportTask:
    """A file on its way into an owner's store. Conversations come in whole, or not at all."""

    owner_store: OwnerStore
    path: str | None
    source: ImportSource = field(default_factory=ImportSource)
    began: bool = False
    done: int = 0
    new: int = 0
    grown: int = 0
    same: int = 0
    _unwanted: threading.Event = field(default_factory=threading.Event)

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop."""
        return self._unwanted.is_set()

    def stop(self) -> None:
        """Called in any thread: what is in stays, the conversation that is half in goes."""
        self._unwanted.set()
        self.source.stop()

    def run(self) -> None:
        """Take in what the file has, in this thread. The file is removed. Raises TransferError and StoreError."""
        self.began = True
        with take_upload(self.path) as file:
            self.source = import_process.open_import(file)
            if self.cancelled:
                return
            for tree in self.source:
                try:
                    merged = self.owner_store.merge_tree(tree, lambda: not self.cancelled)
                except (LimitError, TransferError) as error:
                    title = tree.conversation.title
                    self.source.skip(f"“{title}”" if title else _("Untitled"), page_language.sentence(error))
                else:
                    if merged is None:
                        return
                    self._count(merged)
                self.done = self.source.done

    def _count(self, merged: MergeResult) -> None:
        self.new += not merged.existed
        self.grown += merged.existed and merged.added > 0
        self.same += merged.existed and not merged.added

    def progress(self) -> str:
        """How far it has come."""
        if not self.began:
            return _("Waiting for other imports to end …")
        total = self.source.total
        if total is not None:
            return ngettext("{done} of {count} conversation", "{done} of {count} conversations", total, done=self.done)
        if self.done:
            return ngettext("{count} conversation so far", "{count} conversations so far", self.done)
        return _("Reading the file …")

    def came(self) -> str:
        """How many conversations are new, have new messages, or were all known."""
        parts = [
            _("The import was cancelled; what was whole by then is here.") if self.cancelled else "",
            _("Conversations imported: {count}.", count=self.new) if self.new or self.cancelled else "",
            _("Brought up to date: {count}.", count=self.grown) if self.grown else "",
            _("Here already: {count}.", count=self.same) if self.same else "",
        ]
        return " ".join(part for part in parts if part)

    def left(self) -> str:
        """What did not come in, a line for each reason, "" where nothing was left."""
        named, unnamed = self.source.skipped, self.source.unlisted
        if not named:
            return ""
        titles = defaultdict(list)
        for one in named[:LISTED]:
            titles[translated(one.reason)].append(called(one))
        lines = [_("Not everything in the file came in:")]
        lines += [f"{', '.join(those)}: {reason}" for reason, those in titles.items()]
        more = len(named) - LISTED + unnamed
        if more > 0:
            lines.append(_("And more: {count}.", count=more))
        return "\n".join(lines)


def called(skipped: SkippedItem) -> str:
    """What did not come in, by its name."""
    return ", ".join(filter(None, (skipped.file, translated(skipped.title))))


class ImportTasks:
    """One import of each owner at a time, and a few of all."""

    def __init__(self) -> None:
        self._of: dict[str, ImportTask] = {}
        self._running = 0

    async def run(self, owner: str, coming: ImportTask) -> AsyncGenerator[None]:
        """Run it; yields whenever its progress may be shown, and ends with it. Ended before that, it is cancelled.

        Raises ChatError where it did not come to its end.
        """
        if owner in self._of:
            with take_upload(coming.path):
                raise ChatError("Another import of yours is still running.", "Wait until it ends, or cancel it.")
        self._of[owner] = coming
        work: asyncio.Future[None] | None = None
        try:
            while self._running >= MAX_CONCURRENT and not coming.cancelled and not request_context.is_abandoned():
                yield
                await asyncio.sleep(POLL_SECONDS)
            work = self._begin(owner, coming)
            while not (await asyncio.wait({work}, timeout=POLL_SECONDS))[0] and not request_context.is_abandoned():
                yield
            if work.done():
                await work
                if not coming.cancelled and not (coming.done or coming.source.skipped):
                    raise TransferError("There are no conversations in this file.", "Choose another one.")
        finally:
            if work is None or not work.done():
                coming.stop()
            if work is None:
                self._begin(owner, coming)  # only to remove the file

    def cancel(self, owner: str) -> None:
        """Stop the owner's import, if there is one."""
        if (coming := self._of.get(owner)) is not None:
            coming.stop()

    def _begin(self, owner: str, coming: ImportTask) -> asyncio.Future[None]:
        self._running += 1
        work = asyncio.get_running_loop().run_in_executor(None, copy_context().run, coming.run)
        work.add_done_callback(lambda ended: self._over(owner, ended))
        return work

    def _over(self, owner: str, ended: asyncio.Future[None]) -> None:
        self._running -= 1
        self._of.pop(owner, None)
        if not ended.cancelled():
            ended.exception()  # nobody may be there to hear it
