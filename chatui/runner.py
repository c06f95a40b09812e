"""Replies belong to the server: they are written here, kept in the store as they grow, and pages only listen.

Knows no page and no HTTP.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from chatui.character_prompt import Insertion
from chatui.chat import Backend, ChatRequest, Finish, Message, Prompt, ReplyDelta, TraceSnapshot
from chatui.errors import ChatError, StoreError, unexpected
from chatui.i18n import N_
from chatui.inspection import Inspection
from chatui.reply_writer import ReplyWriter
from chatui.store.owner_store import OwnerStore
from chatui.store.records import (
    Author,
    ConversationInfo,
    MessageState,
    NewTurn,
    Path,
    ReplyUpdate,
    StartedTurn,
    StoredMessage,
)
from chatui.store.store import Store

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
LEASE_TIMEOUT = timedelta(seconds=5)
"""A reply of which nothing has been heard for so long has lost its server, where nothing is heard at the next look.

The second look is for servers that could not write before: after a database that was away, or a clock that jumped.
"""

LEASE_LOST = (
    N_("Interrupted: this server could not reach the database for so long that the reply was given up."),
    N_("What was saved until then is here; Continue writes on."),
)
CONVERSATION_REMOVED = (N_("The conversation was removed while this reply was being written."),)

STOP_TIMEOUT_SECONDS = 12.0
STOP_POLL_SECONDS = 0.1
"""How often, and how long, to look whether another server has stopped its reply; one that is gone is swept by then."""

IMPORT_TIMEOUT = timedelta(seconds=60)
"""An import that has added nothing for so long has lost its server; while it runs, it adds something all the time."""

TRASH_RETENTION = timedelta(days=1)
PURGE_SECONDS = 3600.0
TEMPORARY_FOR = timedelta(hours=24)
"""How long a temporary chat stays whose tab never said that it left."""
HEARTBEAT_SECONDS = 0.25

MAX_CHARACTERS_PER_TOKEN = 32
"""Characters: of a conversation no more is read than fits the model's context where each token has so many."""


@dataclass
class ReplyProgress:
    """What is known of a reply, its times in seconds of time.perf_counter().

    The model was not even given the `earlier` messages of the conversation, which count as dropped.
    """

    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    dropped: int = 0
    queue_position: int | None = None
    prompt: Prompt | None = None
    snapshot: Callable[[], TraceSnapshot] = TraceSnapshot
    prefilled_tokens: int | None = None
    earlier_messages: int = 0
    finish: Finish | None = None
    started_at: float = field(default_factory=time.perf_counter)
    first_text_at: float | None = None
    reasoning_ended_at: float | None = None

    def add(self, delta: ReplyDelta) -> None:
        """Take in a delta that has come."""
        self.queue_position = self.queue_position if delta.queue_position is None else delta.queue_position
        self.prefilled_tokens = self.prefilled_tokens if delta.prefilled_tokens is None else delta.prefilled_tokens
        if delta.prompt is not None:
            self.dropped = delta.prompt.dropped + self.earlier_messages
            self.prompt = replace(delta.prompt, dropped=self.dropped)
        self.snapshot = delta.snapshot or self.snapshot
        if (delta.text or delta.reasoning) and self.first_text_at is None:
            self.first_text_at = time.perf_counter()
        self.text, self.reasoning = delta.apply_to(self.text, self.reasoning)
        if delta.text and self.reasoning and self.reasoning_ended_at is None:
            self.reasoning_ended_at = time.perf_counter()
        self.tokens += delta.tokens
        self.finish = delta.finish or self.finish


class RunningReply:
    """A reply that is being written. `path` leads to it; `state` and `growing` tell how far it has come.

    `kept` once its end is in the store, `unkept` while the store refuses to take it. Only with the `lease` may it be
    written.
    """

    def __init__(self, store: Store, owner: str, begun: StartedTurn, author: Author, lease: str | None = None) -> None:
        self.store, self.owner, self.lease = store, owner, lease
        self.conversation: ConversationInfo = begun.conversation
        self.path, self.earlier_messages = begun.path, begun.earlier
        self.message: StoredMessage = begun.reply
        self.author = author
        self.progress = ReplyProgress(author.prefix, author.prefix_reasoning, earlier_messages=begun.earlier)
        self.state: MessageState = "running"
        self.error: ChatError | None = None
        self.saved = False
        self.save_error: ChatError | None = None
        self.task: asyncio.Task[None] | None = None
        self._listeners: set[asyncio.Event] = set()

    async def changes(self, until_saved: bool = False) -> AsyncIterator[None]:
        """Comes at once, then whenever there may be news, several times a second; ends once the reply's end is kept.

        It also ends where the store refuses the end, unless it is to go on `until_saved`.
        """
        news = asyncio.Event()
        self._listeners.add(news)
        try:
            while not self.saved and (until_saved or not (self.save_error and self.state != "running")):
                yield
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await news.wait()
                news.clear()
        finally:
            self._listeners.discard(news)

    def notify(self) -> None:
        """Wake the listeners."""
        for news in self._listeners:
            news.set()

    def as_message(self) -> StoredMessage:
        """The reply as the store would give it now."""
        return replace(
            self.message,
            content=self.progress.text,
            reasoning=self.progress.reasoning,
            state=self.state,
            finish=self.progress.finish,
            error=error_text(self.error),
        )

    def to_update(self) -> ReplyUpdate:
        """What to keep of it now."""
        grown = self.progress
        return ReplyUpdate(
            self.owner,
            self.message.id,
            grown.text,
            grown.reasoning,
            self.state,
            grown.finish,
            error_text(self.error),
            lease=self.lease,
        )

    def give_up(self, left: StoredMessage | None) -> None:
        """It was given up by another server, or removed, and ends as the store has it."""
        if self.task is not None:
            self.task.cancel()
        self.error = StoreError(*(LEASE_LOST if left else CONVERSATION_REMOVED))
        self.state, self.progress.finish = "stopped", None
        if left is not None:
            self.progress.text, self.progress.reasoning, self.state = left.content, left.reasoning, left.state


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


def error_text(error: ChatError | None) -> str:
    """An error as the store keeps it: its cause and, on the next line, its remedy."""
    return f"{error.message}\n{error.remedy}" if error is not None else ""


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
