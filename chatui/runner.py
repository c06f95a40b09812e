"""Replies belong to the server: they are written here, kept in the store as they grow, and pages only listen.

Knows no page and no HTTP.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from chatui.character_prompt import Insertion
from chatui.chat import Backend, ChatRequest, Message
from chatui.errors import ChatError, unexpected
from chatui.inspection import Inspection
from chatui.reply_writer import ReplyWriter
from chatui.running_reply import RunningReply
from chatui.store.owner_store import OwnerStore
from chatui.store.records import NewTurn, Path, StoredMessage
from chatui.store.store import Store

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
LEASE_TIMEOUT = timedelta(seconds=5)
"""A reply of which nothing has been heard for so long has lost its server, where nothing is heard at the next look.

The second look is for servers that could not write before: after a database that was away, or a clock that jumped.
"""

STOP_TIMEOUT_SECONDS = 12.0
STOP_POLL_SECONDS = 0.1
"""How often, and how long, to look whether another server has stopped its reply; one that is gone is swept by then."""

IMPORT_TIMEOUT = timedelta(seconds=60)
"""An import that has added nothing for so long has lost its server; while it runs, it adds something all the time."""

TRASH_RETENTION = timedelta(days=1)
PURGE_SECONDS = 3600.0
TEMPORARY_FOR = timedelta(hours=24)
"""How long a temporary chat stays whose tab never said that it left."""

MAX_CHARACTERS_PER_TOKEN = 32
"""Characters: of a conversation no more is read than fits the model's context where each token has so many."""


class Runner:
    """Writes replies for all owners: `kept` is the store on disk, `passing` the one in memory for temporary chats.

    With `inspect`, how each reply came about is kept as well.
    """

    def __init__(self, backend: Backend, kept: Store, passing: Store, inspect: bool = True) -> None:
        self.backend = backend
        self.keeps_inspections = inspect
        self.persistent_store, self.temporary_store = kept, passing
        self._keepers = {temporary: ReplyWriter(self.store(temporary), self._told) for temporary in (False, True)}
        self._housekeeping: asyncio.Task[None] | None = None
        self._silent: dict[tuple[str, str], datetime] = {}
        self._closing = False

    def store(self, temporary: bool) -> Store:
        """The store of one kind or the other."""
        return self.temporary_store if temporary else self.persistent_store

    def owner_store(self, owner: str, temporary: bool = False) -> OwnerStore:
        """What this owner has there."""
        return self.store(temporary).for_owner(owner)

    @property
    def running_count(self) -> int:
        """How many are being written here now."""
        return len(self._lives())

    @property
    def max_read_characters(self) -> int | None:
        """How many characters of a conversation the model can read at most; None while that is not known."""
        info = self.backend.models()[0].info
        return info.context_length * MAX_CHARACTERS_PER_TOKEN if info else None

    def running_reply(self, owner: str, message: str) -> RunningReply | None:
        """The reply with this id while it is written here, for its owner only."""
        found = next((live for live in self._lives() if live.message.id == message), None)
        return found if found is not None and found.owner == owner else None

    def running_replies(self, owner: str, conversation: str) -> list[RunningReply]:
        """The replies of this conversation that are written here now."""
        return [live for live in self._lives() if live.conversation.id == conversation and live.owner == owner]

    async def start_reply(self, owner: str, turn: NewTurn, temporary: bool = False) -> RunningReply:
        """Begin a reply. It is written to its end, heard or not.

        Raises OverloadError, LimitError, NotFoundError or StoreError; nothing is kept then.
        """
        self.start()
        lease = secrets.token_urlsafe(16)
        ticket = self.backend.admit(owner)
        try:
            begun = await asyncio.to_thread(
                self.owner_store(owner, temporary).start_turn, turn, lease, self.max_read_characters
            )
        except BaseException:
            self.backend.release_ticket(ticket)
            raise
        keeper = self._keepers[temporary]
        begun = replace(begun, path=self._newest(owner, begun.path))
        live = RunningReply(keeper.store, owner, begun, turn.author, lease)
        keeper.replies[live.message.id] = live
        chat = begun.conversation.id if temporary else ""
        request = replace(_chat_request(live, self.keeps_inspections), ticket=ticket, temporary_conversation=chat)
        live.task = asyncio.create_task(self._write(live, request))
        live.task.add_done_callback(lambda _: self._over(live, keeper, ticket))
        return live

    async def read_path(self, owner: str, conversation: str, leaf: str | None = None, temporary: bool = False) -> Path:
        """What ask() reads up to `leaf`, by default the conversation's own. Raises NotFoundError."""
        path = await asyncio.to_thread(
            self.owner_store(owner, temporary).context_path, conversation, self.max_read_characters, leaf
        )
        return replace(path, messages=self._newest(owner, path.messages))

    async def stop(self, owner: str, conversation: str, temporary: bool = False) -> None:
        """End what is being written in this conversation, wherever it was asked and whichever server writes it.

        Returns once that is kept, or the store refuses it.
        """
        stopping = self.running_replies(owner, conversation)
        for live in stopping:
            if live.task is not None:
                live.task.cancel()
        for live in stopping:
            async for _ in live.changes():
                pass
        if conversation and not temporary and not any(live.save_error for live in stopping):
            await self._stop_elsewhere(owner, conversation)

    async def discard(self, owner: str, conversation: str) -> None:
        """End what is written in a temporary chat, and remove all of it at once."""
        await self.stop(owner, conversation, temporary=True)
        self.backend.forget(conversation)
        await asyncio.to_thread(self.temporary_store.discard, owner, conversation)

    async def _stop_elsewhere(self, owner: str, conversation: str) -> None:
        owner_store, until = self.owner_store(owner), time.monotonic() + STOP_TIMEOUT_SECONDS
        running = await asyncio.to_thread(owner_store.running_replies, conversation)
        if running:
            await asyncio.to_thread(owner_store.request_stop, conversation)
        while running and time.monotonic() < until:
            await asyncio.sleep(STOP_POLL_SECONDS)
            running = await asyncio.to_thread(owner_store.running_replies, conversation)

    def start(self) -> None:
        """Keep what is written from now on, on the running event loop; again does nothing."""
        for keeper in self._keepers.values():
            keeper.start()
        loop, task = asyncio.get_running_loop(), self._housekeeping
        if task is None or task.get_loop() is not loop or task.done():
            self._housekeeping = loop.create_task(self._keep_house())

    async def close(self) -> None:
        """End all replies, which are then marked as interrupted, and keep them."""
        self._closing = True
        tasks = [live.task for live in self._lives() if live.task is not None]
        if self._housekeeping is not None:
            tasks.append(self._housekeeping)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(keeper.close() for keeper in self._keepers.values()))

    def _newest(self, owner: str, path: Sequence[StoredMessage]) -> tuple[StoredMessage, ...]:
        """The messages; what the store does not take yet is newer here."""
        known = (self.running_reply(owner, message.id) for message in path)
        return tuple(live.as_message() if live else message for live, message in zip(known, path, strict=True))

    def _lives(self) -> list[RunningReply]:
        return [live for keeper in self._keepers.values() for live in keeper.replies.values()]

    async def _write(self, live: RunningReply, request: ChatRequest) -> None:
        try:
            async with contextlib.aclosing(self.backend.stream(request)) as stream:
                async for delta in stream:
                    live.progress.add(delta)
                    live.notify()
            live.state = "finished"
        except ChatError as error:
            live.state, live.error = "failed", error
        except Exception as error:
            log.exception("a reply failed")
            live.state, live.error = "failed", unexpected(error)

    def _over(self, live: RunningReply, keeper: ReplyWriter[RunningReply], ticket: str) -> None:
        """Its task has ended, perhaps before it began."""
        self.backend.release_ticket(ticket)
        if live.state == "running":
            live.state = "interrupted" if self._closing else "stopped"
        keeper.wake()

    async def _keep_house(self) -> None:
        """Mark what other servers have left, and remove what was deleted."""
        purged, said = float("-inf"), ""
        while not self._closing:
            try:
                await asyncio.to_thread(self._sweep)
                if time.monotonic() - purged > PURGE_SECONDS:
                    await asyncio.to_thread(self._purge)
                    purged = time.monotonic()
                said = ""
            except Exception as error:
                self._silent = {}
                if str(error) != said:
                    log.warning("the store cannot be looked after, and is tried again: %s", error)
                said = str(error)
            await asyncio.sleep(SWEEP_SECONDS)

    def _sweep(self) -> None:
        """Those that are silent still at the second look have lost their server; what is written here has not."""
        found = self.persistent_store.stale_replies(LEASE_TIMEOUT)
        silent = {key: heard for key, heard in found.items() if key[1] not in self._keepers[False].replies}
        lost = {key: heard for key, heard in silent.items() if self._silent.get(key) == heard}
        if lost:
            self.persistent_store.interrupt_stale(LEASE_TIMEOUT, lost)
        self._silent = silent
        self.persistent_store.remove_unfinished_imports(IMPORT_TIMEOUT)

    def _purge(self) -> None:
        self.persistent_store.purge(TRASH_RETENTION)
        for conversation in self.temporary_store.purge_temporary(TEMPORARY_FOR):
            self.backend.forget(conversation)

    def _told(self, live: RunningReply) -> bytes | None:
        return self._inspection(live) if self.keeps_inspections else None

    def _inspection(self, live: RunningReply) -> bytes | None:
        """How a reply that is over came about, packed, as far as that is known."""
        grown, model = live.progress, self.backend.models()[0].info
        if grown.prompt is None or model is None:
            return None
        try:
            told = grown.snapshot()
            # Of a reply that was stopped, a token more may have been chosen than has come.
            traces = told.traces[: grown.tokens]
            cancelled = told.finish and replace(told.finish, completion_tokens=grown.tokens)
            texts = self.backend.decode_tokens(traces.all_ids)
            return Inspection(model, grown.prompt, traces, texts, grown.finish or cancelled).packed()
        except Exception:
            log.exception("how a reply came about could not be told")
            return None


def build_messages(
    system_prompt: str,
    path: Sequence[StoredMessage | Message],
    begun: Message | None = None,
    insertions: Sequence[Insertion] = (),
) -> tuple[Message, ...]:
    """What a backend is sent of a conversation: its messages without replies that say nothing, and a reply's start.

    The insertions stand among the messages, and none of them before the first one's place.
    """
    turns = [Message(message.role, message.content) for message in path if message.content]
    end = len(turns)
    for insertion in reversed(insertions):  # the deepest comes first, so that the places before it stay
        turns.insert(max(end - insertion.depth, 0), Message("system", insertion.content))
    return (Message("system", system_prompt), *turns, *([begun] if begun else []))


def _chat_request(live: RunningReply, trace: bool) -> ChatRequest:
    """What the backend is asked: the path, and the beginning of the new reply."""
    author = live.author
    begins = author.prefix or author.prefix_reasoning
    begun = Message("assistant", author.prefix, author.prefix_reasoning) if begins else None
    messages = build_messages(author.system_prompt, live.path[:-1], begun, author.insertions)
    settings = author.settings.model_copy(update={"seed": author.seed})
    return ChatRequest(messages, settings, user=live.owner, trace=trace)
