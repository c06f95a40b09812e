"""Runs replies independently of the pages that show them, and saves them while they are generated.

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

from chatui import logs, tracing
from chatui.backend import Backend
from chatui.character_prompt import Insertion
from chatui.chat import ChatRequest, Message, ModelStatus
from chatui.chat_changes import ChatChanges
from chatui.errors import ChatError, unexpected
from chatui.inspection import Inspection
from chatui.other_servers import OtherServers
from chatui.reply_writer import ReplyWriter
from chatui.running_reply import RunningReply
from chatui.store.notifications import Notification
from chatui.store.owner_store import OwnerStore
from chatui.store.records import NewTurn, Path, StoredMessage
from chatui.store.store import Store
from chatui.token_limits import TokenUsage

log = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
LEASE_TIMEOUT = timedelta(seconds=2.5)
"""Age of the last heartbeat at which a running reply counts as abandoned, if the next sweep finds the same heartbeat.

The second sweep gives servers a chance that could not write: the database was away, or the clock jumped. With both, the
replies of a dead server are marked within five seconds.
"""

IMPORT_TIMEOUT = timedelta(seconds=60)
"""An import that has added nothing for so long counts as abandoned."""

TRASH_RETENTION = timedelta(days=1)
PURGE_SECONDS = 3600.0
TEMPORARY_RETENTION = timedelta(hours=24)
"""How long a temporary chat is kept if its tab never reports that it was closed."""

MAX_CHARACTERS_PER_TOKEN = 32
"""Upper bound that limits how many characters of a conversation are read from the store."""


class Runner:
    """Runs the replies of all owners. Temporary chats have a store of their own, in memory.

    With `inspect`, the inspection of each reply is saved as well.
    """

    def __init__(
        self,
        backend: Backend,
        persistent_store: Store,
        temporary_store: Store,
        inspect: bool = True,
        usage: TokenUsage | None = None,
    ) -> None:
        """`usage` counts the tokens of owners, where these have limits."""
        self.backend, self.usage = backend, usage
        self.keeps_inspections = inspect
        self.persistent_store, self.temporary_store = persistent_store, temporary_store
        self._writers = {temporary: ReplyWriter(self.store(temporary), self._inspection) for temporary in (False, True)}
        self._housekeeping: asyncio.Task[None] | None = None
        self._stale: dict[tuple[str, str], datetime] = {}
        self._closing = False
        self.other_servers = OtherServers(persistent_store.notifications)
        self.chat_changes = ChatChanges(persistent_store.notifications)
        self.chat_changes.note_models(backend.models())
        persistent_store.notifications.subscribe(self._on_notification)

    def store(self, temporary: bool) -> Store:
        """The store for temporary chats, or the one for all others."""
        return self.temporary_store if temporary else self.persistent_store

    def owner_store(self, owner: str, temporary: bool = False) -> OwnerStore:
        """The part of a store that belongs to this owner."""
        return self.store(temporary).for_owner(owner)

    @property
    def running_count(self) -> int:
        """The number of replies that run in this process."""
        return len(self._all_replies())

    @property
    def max_read_characters(self) -> int | None:
        """The most characters of a conversation that fit a model's context; None where that is not known of all."""
        lengths = [model.info.context_length for model in self.backend.models() if model.info]
        return max(lengths) * MAX_CHARACTERS_PER_TOKEN if lengths and all(lengths) else None

    def model(self, name: str) -> ModelStatus:
        """The model of this name, else the default one."""
        models = self.backend.models()
        return next((model for model in models if model.name == name), models[0])

    def running_reply(self, owner: str, message: str) -> RunningReply | None:
        """The reply with this message id if it runs in this process and belongs to the owner."""
        found = (writer.replies.get((owner, message)) for writer in self._writers.values())
        return next(filter(None, found), None)

    def running_replies(self, owner: str, conversation: str) -> list[RunningReply]:
        """The replies of this conversation that run in this process."""
        return [
            reply for reply in self._all_replies() if reply.conversation.id == conversation and reply.owner == owner
        ]

    async def wait_until_saved(self, owner: str, message: str) -> None:
        """Wait until the end of this reply is in the store, or refused by it. Returns at once if it still runs.

        A reply that has ended is on the page a moment before it is in the store.
        """
        reply = self.running_reply(owner, message)
        if reply is not None and reply.state != "running":
            async for _change in reply.changes():
                pass

    async def start_reply(self, owner: str, turn: NewTurn, temporary: bool = False) -> RunningReply:
        """Save the question and start the reply. It runs to its end whether or not a page shows it.

        Raises OverloadError, LimitError, NotFoundError or StoreError. Nothing is saved in that case.
        """
        self.start()
        lease = secrets.token_urlsafe(16)
        ticket = self.backend.admit(owner, turn.author.model)
        try:
            with tracing.span("store.start_turn"):
                started = await asyncio.to_thread(
                    self.owner_store(owner, temporary).start_turn, turn, lease, self.max_read_characters
                )
        except BaseException:
            self.backend.release_ticket(ticket)
            raise
        writer = self._writers[temporary]
        started = replace(started, path=self._with_running(owner, started.path))
        reply = RunningReply(writer.store, owner, started, turn.author, lease)
        writer.replies[owner, reply.message.id] = reply
        chat = started.conversation.id if temporary else ""
        request = replace(_chat_request(reply, self.keeps_inspections), ticket=ticket, temporary_conversation=chat)
        reply.ticket = ticket
        reply.task = asyncio.create_task(self._generate(reply, request))
        reply.task.add_done_callback(lambda _: self._on_task_done(reply, writer, ticket))
        return reply

    async def read_path(self, owner: str, conversation: str, leaf: str | None = None, temporary: bool = False) -> Path:
        """The messages up to `leaf` that start_reply() would read, by default the conversation's own leaf.

        Raises NotFoundError.
        """
        path = await asyncio.to_thread(
            self.owner_store(owner, temporary).context_path, conversation, self.max_read_characters, leaf
        )
        return replace(path, messages=self._with_running(owner, path.messages))

    async def stop(self, owner: str, conversation: str, temporary: bool = False) -> None:
        """Stop the running replies of this conversation, those of other servers too.

        Returns once their ends are saved, or the store refuses them.
        """
        stopping = self.running_replies(owner, conversation)
        for reply in stopping:
            if reply.task is not None:
                reply.task.cancel()
        for reply in stopping:
            async for _ in reply.changes():
                pass
        if conversation and not temporary and not any(reply.save_error for reply in stopping):
            await self.other_servers.stop(self.owner_store(owner), conversation)

    def answer_now(self, owner: str, message: str) -> None:
        """End the thought of the reply with this message id, if it runs in this process, so that its answer begins."""
        reply = self.running_reply(owner, message)
        if reply is not None:
            self.backend.answer_now(reply.ticket)

    async def discard(self, owner: str, conversation: str) -> None:
        """Stop the replies of a temporary chat and delete it."""
        await self.stop(owner, conversation, temporary=True)
        self.backend.forget(conversation)
        await asyncio.to_thread(self.temporary_store.discard, owner, conversation)

    def start(self) -> None:
        """Start saving, housekeeping and listening on the running event loop, unless they already run there."""
        self.persistent_store.notifications.start()
        for writer in self._writers.values():
            writer.start()
        loop, task = asyncio.get_running_loop(), self._housekeeping
        if task is None or task.get_loop() is not loop or task.done():
            self._housekeeping = loop.create_task(self._run_housekeeping())

    async def close(self, graceful_timeout: float = 0.0) -> None:
        """Wait so many seconds for running replies; then stop them, mark them as interrupted, and save them.

        Those of temporary chats are not waited for, because nobody can read them any more.
        """
        end = time.monotonic() + graceful_timeout
        while (running := self._unfinished_tasks()) and (seconds := end - time.monotonic()) > 0:
            await asyncio.wait(running, timeout=seconds)
        self._closing = True
        tasks = [reply.task for reply in self._all_replies() if reply.task is not None]
        if self._housekeeping is not None:
            tasks.append(self._housekeeping)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(writer.close() for writer in self._writers.values()))
        await asyncio.to_thread(self.persistent_store.notifications.close)

    def _with_running(self, owner: str, path: Sequence[StoredMessage]) -> tuple[StoredMessage, ...]:
        """The messages of a path. For those that run here, this process has newer content than the store."""
        known = (self.running_reply(owner, message.id) for message in path)
        return tuple(reply.as_message() if reply else message for reply, message in zip(known, path, strict=True))

    def _all_replies(self) -> list[RunningReply]:
        return [reply for writer in self._writers.values() for reply in writer.replies.values()]

    def _unfinished_tasks(self) -> list[asyncio.Task[None]]:
        """Those of all replies but temporary ones."""
        tasks = (reply.task for reply in self._writers[False].replies.values())
        return [task for task in tasks if task is not None and not task.done()]

    async def _generate(self, reply: RunningReply, request: ChatRequest) -> None:
        try:
            with tracing.reply(reply.author.model) as span:
                reply.trace = tracing.current()
                async with contextlib.aclosing(self.backend.stream(request)) as stream:
                    async for delta in stream:
                        span.add(delta)
                        reply.progress.add(delta)
                        reply.notify()
            reply.state = "finished"
        except ChatError as error:
            reply.state, reply.error = "failed", error
        except Exception as error:
            log.exception("a reply failed")
            reply.state, reply.error = "failed", unexpected(error)

    def _on_task_done(self, reply: RunningReply, writer: ReplyWriter[RunningReply], ticket: str) -> None:
        """Settle the state of a reply whose task has ended, perhaps before it ran."""
        self.backend.release_ticket(ticket)
        if reply.state == "running":
            reply.state = "interrupted" if self._closing else "stopped"
        log.info("a reply ended", extra=logs.fields(**reply.summary()))
        writer.wake()

    async def _run_housekeeping(self) -> None:
        """Every second notice new models, and interrupt replies abandoned by other servers; purge every hour."""
        purged_at, logged = float("-inf"), ""
        while not self._closing:
            try:
                self.chat_changes.note_models(self.backend.models())
                await asyncio.to_thread(self._sweep)
                if time.monotonic() - purged_at > PURGE_SECONDS:
                    await asyncio.to_thread(self._purge)
                    purged_at = time.monotonic()
                logged = ""
            except Exception as error:
                self._stale = {}
                if str(error) != logged:
                    log.warning("the store cannot be looked after, and is tried again: %s", error)
                logged = str(error)
            await asyncio.sleep(SWEEP_SECONDS)

    def _sweep(self) -> None:
        """Interrupt replies that two sweeps in a row found with the same old heartbeat, except this process's own."""
        heartbeats = self.persistent_store.stale_replies(LEASE_TIMEOUT)
        stale = {key: heartbeat for key, heartbeat in heartbeats.items() if key not in self._writers[False].replies}
        abandoned = {key: heartbeat for key, heartbeat in stale.items() if self._stale.get(key) == heartbeat}
        if abandoned:
            self.persistent_store.interrupt_stale(LEASE_TIMEOUT, abandoned)
        self._stale = stale
        self.persistent_store.remove_unfinished_imports(IMPORT_TIMEOUT)

    def _purge(self) -> None:
        self.persistent_store.purge(TRASH_RETENTION)
        for conversation in self.temporary_store.purge_temporary(TEMPORARY_RETENTION):
            self.backend.forget(conversation)

    def _on_notification(self, notification: Notification) -> None:
        """Ask the store at once where another server may have requested that a reply of this one stops.

        The notification has no owner, and the reply that it means may be another owner's with the same id.
        """
        writer = self._writers[False]
        if notification.kind == "stop" and any(id in notification.ids for _, id in writer.replies):
            writer.wake()

    def _inspection(self, reply: RunningReply) -> bytes | None:
        return self._packed_inspection(reply) if self.keeps_inspections else None

    def _packed_inspection(self, reply: RunningReply) -> bytes | None:
        """The packed inspection of a finished reply; None without a prompt or model, or if it fails."""
        progress, model = reply.progress, self.model(reply.author.model).info
        if progress.prompt is None or model is None:
            return None
        try:
            snapshot = progress.snapshot()
            # A stopped reply may have sampled one token more than was streamed.
            traces = snapshot.traces[: progress.tokens]
            cancelled = snapshot.finish and replace(snapshot.finish, completion_tokens=progress.tokens)
            texts = self.backend.decode_tokens(traces.all_ids, reply.author.model)
            return Inspection(model, progress.prompt, traces, texts, progress.finish or cancelled).packed()
        except Exception:
            log.exception("how a reply came about could not be told")
            return None


def build_messages(
    system_prompt: str,
    path: Sequence[StoredMessage | Message],
    prefix: Message | None = None,
    insertions: Sequence[Insertion] = (),
) -> tuple[Message, ...]:
    """The messages for a backend: system prompt, the messages with content, and the prefix of the reply.

    Insertions are placed `depth` messages before the end, at the earliest before the first message.
    """
    turns = [Message(message.role, message.content) for message in path if message.content]
    end = len(turns)
    for insertion in reversed(insertions):  # the least deep first, so that the indexes of the others stay valid
        turns.insert(max(end - insertion.depth, 0), Message("system", insertion.content))
    return (Message("system", system_prompt), *turns, *([prefix] if prefix else []))


def _chat_request(reply: RunningReply, trace: bool) -> ChatRequest:
    """The request for the backend: the messages of the path and the prefix of the reply."""
    author = reply.author
    has_prefix = author.prefix or author.prefix_reasoning
    prefix = Message("assistant", author.prefix, author.prefix_reasoning) if has_prefix else None
    messages = build_messages(author.system_prompt, reply.path[:-1], prefix, author.insertions)
    settings = author.settings.model_copy(update={"seed": author.seed})
    return ChatRequest(messages, settings, author.model, reply.owner, trace=trace)
