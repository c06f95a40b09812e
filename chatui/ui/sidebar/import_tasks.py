"""Imports of chats: each runs in a thread while the page that started it polls its progress."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextvars import copy_context
from dataclasses import dataclass, field

from chatui.errors import ChatError, LimitError, TransferError
from chatui.i18n import _, ngettext, translated
from chatui.store.imports import import_process
from chatui.store.imports.archives import SkippedItem
from chatui.store.imports.importing import ImportSource
from chatui.store.notifications import ORIGIN
from chatui.store.owner_store import OwnerStore
from chatui.store.records import MergeResult
from chatui.ui.gradio_compat import request_context
from chatui.ui.gradio_compat.upload_button import take_upload
from chatui.ui.shared import error_messages

MAX_NAMED = 8
"""Skipped items that are listed by name."""
POLL_SECONDS = 0.5
MAX_CONCURRENT = 2
"""Running imports of all users: parsing a file may take some gigabytes of memory."""


@dataclass
class ImportTask:
    """The import of a file into an owner's store. Each conversation is imported completely or not at all.

    `origin` is the tab that imports it, see ORIGIN.
    """

    owner_store: OwnerStore
    path: str | None
    origin: str = ""
    source: ImportSource = field(default_factory=ImportSource)
    started: bool = False
    done: int = 0
    new: int = 0
    updated: int = 0
    unchanged: int = 0
    _cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def cancelled(self) -> bool:
        """Whether `stop` was called."""
        return self._cancelled.is_set()

    def stop(self) -> None:
        """Cancel the import, from any thread. Imported conversations stay; a partly imported one is rolled back."""
        self._cancelled.set()
        self.source.stop()

    def run(self) -> None:
        """Import the file in this thread and remove it. Raises TransferError and StoreError."""
        self.started = True
        ORIGIN.set(self.origin)  # of the context that this thread has got for itself
        with take_upload(self.path) as file:
            self.source = import_process.open_import(file)
            if self.cancelled:
                return
            for tree in self.source:
                try:
                    merged = self.owner_store.merge_tree(tree, lambda: not self.cancelled)
                except (LimitError, TransferError) as error:
                    title = tree.conversation.title
                    self.source.skip(f"“{title}”" if title else _("Untitled"), error_messages.error_line(error))
                else:
                    if merged is None:
                        return
                    self._count(merged)
                self.done = self.source.done

    def _count(self, merged: MergeResult) -> None:
        self.new += not merged.existed
        self.updated += merged.existed and merged.added > 0
        self.unchanged += merged.existed and not merged.added

    def progress(self) -> str:
        """The progress as a sentence."""
        if not self.started:
            return _("Waiting for other imports to end …")
        total = self.source.total
        if total is not None:
            return ngettext("{done} of {count} conversation", "{done} of {count} conversations", total, done=self.done)
        if self.done:
            return ngettext("{count} conversation so far", "{count} conversations so far", self.done)
        return _("Reading the file …")

    def summary(self) -> str:
        """The numbers of conversations that are new, have new messages, or were imported before."""
        parts = [
            _("The import was cancelled; what was whole by then is here.") if self.cancelled else "",
            _("Conversations imported: {count}.", count=self.new) if self.new or self.cancelled else "",
            _("Brought up to date: {count}.", count=self.updated) if self.updated else "",
            _("Here already: {count}.", count=self.unchanged) if self.unchanged else "",
        ]
        return " ".join(part for part in parts if part)

    def skipped_items(self) -> str:
        """The skipped items, a line for each reason; "" if there are none."""
        listed, unlisted_count = self.source.skipped, self.source.unlisted
        if not listed:
            return ""
        titles = defaultdict(list)
        for item in listed[:MAX_NAMED]:
            titles[translated(item.reason)].append(item_name(item))
        lines = [_("Not everything in the file came in:")]
        lines += [f"{', '.join(names)}: {reason}" for reason, names in titles.items()]
        remaining = len(listed) - MAX_NAMED + unlisted_count
        if remaining > 0:
            lines.append(_("And more: {count}.", count=remaining))
        return "\n".join(lines)


def item_name(item: SkippedItem) -> str:
    """The file and title of a skipped item."""
    return ", ".join(filter(None, (item.file, translated(item.title))))


class ImportTasks:
    """Runs at most one import of each owner and MAX_CONCURRENT of all."""

    def __init__(self) -> None:
        self._tasks: dict[str, ImportTask] = {}
        self._running = 0

    async def run(self, owner: str, task: ImportTask) -> AsyncGenerator[None]:
        """Run an import; yields whenever its progress may have changed. Closing the generator cancels the import.

        Raises ChatError if the import fails.
        """
        if owner in self._tasks:
            with take_upload(task.path):
                raise ChatError("Another import of yours is still running.", "Wait until it ends, or cancel it.")
        self._tasks[owner] = task
        work: asyncio.Future[None] | None = None
        try:
            while self._running >= MAX_CONCURRENT and not task.cancelled and not request_context.is_abandoned():
                yield
                await asyncio.sleep(POLL_SECONDS)
            work = self._start(owner, task)
            while not (await asyncio.wait({work}, timeout=POLL_SECONDS))[0] and not request_context.is_abandoned():
                yield
            if work.done():
                await work
                if not task.cancelled and not (task.done or task.source.skipped):
                    raise TransferError("There are no conversations in this file.", "Choose another one.")
        finally:
            if work is None or not work.done():
                task.stop()
            if work is None:
                self._start(owner, task)  # removes the file

    def cancel(self, owner: str) -> None:
        """Cancel the owner's running import, if there is one."""
        if (task := self._tasks.get(owner)) is not None:
            task.stop()

    def _start(self, owner: str, task: ImportTask) -> asyncio.Future[None]:
        self._running += 1
        work = asyncio.get_running_loop().run_in_executor(None, copy_context().run, task.run)
        work.add_done_callback(lambda future: self._ended(owner, future))
        return work

    def _ended(self, owner: str, future: asyncio.Future[None]) -> None:
        self._running -= 1
        self._tasks.pop(owner, None)
        if not future.cancelled():
            future.exception()  # marks it as retrieved: nothing may await it
