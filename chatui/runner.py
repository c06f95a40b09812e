"""Replies belong to the server: they are written here, kept in the store as they grow, and pages only listen.

Knows no page and no HTTP.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta

from chatui import priority
from chatui.chat import Backend, ChatRequest, Finish, Message, Prompt, ReplyDelta, Told
from chatui.errors import ChatError, unexpected
from chatui.inspection import Inspection
from chatui.store.records import Author, Begun, Conversation, MessageState, Progress, StoredMessage, Turn
from chatui.store.shelf import Shelf
from chatui.store.store import Store

log = logging.getLogger(__name__)

KEEP_SECONDS = 0.5
"""What has been written meanwhile is kept this often; a crash loses no more."""

SWEEP_SECONDS = 2.0
SILENT_FOR = timedelta(seconds=5)
"""A reply of which nothing has been heard for so long has lost its server, this one or another."""

DELETED_FOR = timedelta(days=1)
PURGE_SECONDS = 3600.0
HEARTBEAT_SECONDS = 0.25


@dataclass
class Growing:
    """What is known of a reply, its times in seconds of time.perf_counter()."""

    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    dropped: int = 0
    place: int | None = None
    prompt: Prompt | None = None
    so_far: Callable[[], Told] = Told
    read: int | None = None
    finish: Finish | None = None
    started: float = field(default_factory=time.perf_counter)
    first_text_at: float | None = None
    thought_at: float | None = None

    def add(self, delta: ReplyDelta) -> None:
        """Take in a delta that has come."""
        self.place = self.place if delta.place is None else delta.place
        self.read = self.read if delta.read is None else delta.read
        if delta.prompt is not None:
            self.prompt, self.dropped = delta.prompt, delta.prompt.dropped
        self.so_far = delta.so_far or self.so_far
        if (delta.text or delta.reasoning) and self.first_text_at is None:
            self.first_text_at = time.perf_counter()
        if delta.text and self.reasoning and self.thought_at is None:
            self.thought_at = time.perf_counter()
        self.text += delta.text
        self.reasoning += delta.reasoning
        self.tokens += delta.tokens
        self.finish = delta.finish or self.finish


class Live:
    """A reply that is being written. `path` leads to it; `state` and `growing` tell how far it has come.

    `kept` once its end is in the store, `unkept` while the store refuses to take it.
    """

    def __init__(self, store: Store, owner: str, begun: Begun, author: Author) -> None:
        self.store, self.owner = store, owner
        self.conversation: Conversation = begun.conversation
        self.path = begun.path
        self.message: StoredMessage = begun.reply
        self.author = author
        self.growing = Growing(author.prefix, author.prefix_reasoning)
        self.state: MessageState = "running"
        self.error: ChatError | None = None
        self.kept = False
        self.unkept: ChatError | None = None
        self.task: asyncio.Task[None] | None = None
        self._listeners: set[asyncio.Event] = set()

    async def changes(self) -> AsyncIterator[None]:
        """Comes at once, then whenever there may be news, several times a second; ends once the reply's end is kept.

        It also ends where the store refuses the end.
        """
        news = asyncio.Event()
        self._listeners.add(news)
        try:
            while not self.kept and not (self.unkept and self.state != "running"):
                yield
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await news.wait()
                news.clear()
        finally:
            self._listeners.discard(news)

    def tell(self) -> None:
        """Wake the listeners."""
        for news in self._listeners:
            news.set()

    def as_message(self) -> StoredMessage:
        """The reply as the store would give it now."""
        return replace(
            self.message,
            content=self.growing.text,
            reasoning=self.growing.reasoning,
            state=self.state,
            finish=self.growing.finish,
            error=described(self.error),
        )

    def progress(self) -> Progress:
        """What to keep of it now."""
        grown = self.growing
        return Progress(
            self.owner,
            self.message.id,
            grown.text,
            grown.reasoning,
            self.state,
            grown.finish,
            described(self.error),
        )


class Runner:
    """Writes replies for all owners: `kept` is the store on disk, `passing` the one in memory for temporary chats.

    With `inspect`, how each reply came about is kept as well.
    """

    def __init__(self, backend: Backend, kept: Store, passing: Store, inspect: bool = True) -> None:
        self.backend = backend
        self.inspects = inspect
        self.kept, self.passing = kept, passing
        self._lives: dict[str, Live] = {}
        self._keeping: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None
        self._closing = False
        # Otherwise it would take a core from a step of the model's, and the other cores would wait for that one.
        self._aside = ThreadPoolExecutor(1, "chatui-keeping", priority.stand_back, (priority.ASIDE,))

    def store(self, temporary: bool) -> Store:
        """The store of one kind or the other."""
        return self.passing if temporary else self.kept

    def shelf(self, owner: str, temporary: bool = False) -> Shelf:
        """What this owner has there."""
        return self.store(temporary).of(owner)

    @property
    def replies(self) -> int:
        """How many are being written here now."""
        return len(self._lives)

    def live(self, owner: str, message: str) -> Live | None:
        """The reply with this id while it is written here, for its owner only."""
        found = self._lives.get(message)
        return found if found is not None and found.owner == owner else None

    def writing(self, owner: str, conversation: str) -> list[Live]:
        """The replies of this conversation that are written here now."""
        lives = self._lives.values()
        return [live for live in lives if live.conversation.id == conversation and live.owner == owner]

    async def ask(self, owner: str, turn: Turn, temporary: bool = False) -> Live:
        """Begin a reply. It is written to its end, heard or not. Raises NotFoundError or StoreError."""
        self.start()
        begun = await asyncio.to_thread(self.shelf(owner, temporary).begin, turn)
        live = Live(self.store(temporary), owner, begun, turn.author)
        self._lives[live.message.id] = live
        live.task = asyncio.create_task(self._write(live, _request(live, self.inspects)))
        live.task.add_done_callback(lambda _: self._over(live))
        return live

    async def stop(self, owner: str, conversation: str) -> None:
        """End what is being written in this conversation, wherever it was asked; returns once that is kept."""
        stopping = self.writing(owner, conversation)
        for live in stopping:
            if live.task is not None:
                live.task.cancel()
        for live in stopping:
            async for _ in live.changes():
                pass

    def start(self) -> None:
        """Keep what is written from now on, on the running event loop; again does nothing."""
        loop = asyncio.get_running_loop()
        if self._keeping is None or self._keeping.get_loop() is not loop or self._keeping.done():
            self._wake = asyncio.Event()
            self._keeping = loop.create_task(self._keep())

    async def close(self) -> None:
        """End all replies, which are then marked as interrupted, and keep them."""
        self._closing = True
        tasks = [live.task for live in self._lives.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._flush()
        self._aside.shutdown(wait=False)

    async def _write(self, live: Live, request: ChatRequest) -> None:
        try:
            async with contextlib.aclosing(self.backend.stream(request)) as stream:
                async for delta in stream:
                    live.growing.add(delta)
                    live.tell()
            live.state = "finished"
        except ChatError as error:
            live.state, live.error = "failed", error
        except Exception as error:
            log.exception("a reply failed")
            live.state, live.error = "failed", unexpected(error)

    def _over(self, live: Live) -> None:
        """Its task has ended, perhaps before it began."""
        if live.state == "running":
            live.state = "interrupted" if self._closing else "stopped"
        if self._wake is not None:
            self._wake.set()

    async def _keep(self) -> None:
        """Keep what is written, now and then; mark what other servers have left, and remove what was deleted."""
        swept = purged = float("-inf")
        while self._wake is not None and not self._closing:
            try:
                await self._flush()
                if time.monotonic() - swept > SWEEP_SECONDS:
                    await asyncio.to_thread(self.kept.interrupt, SILENT_FOR)
                    swept = time.monotonic()
                if time.monotonic() - purged > PURGE_SECONDS:
                    await asyncio.to_thread(self._purge)
                    purged = time.monotonic()
            except ChatError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("replies could not be kept; trying again")
            # Not wait_for(), which in Python 3.11 forgets to be cancelled when both happen at once.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEEP_SECONDS):
                    await self._wake.wait()
            self._wake.clear()

    def _purge(self) -> None:
        self.kept.purge(DELETED_FOR)
        self.passing.purge(timedelta(0))
        self.passing.forget(timedelta(hours=24))

    async def _flush(self) -> None:
        """One transaction for all that has grown, which is also their sign of life. What has ended is let go of."""
        for store in (self.kept, self.passing):
            lives = {live: live.progress() for live in self._lives.values() if live.store is store}
            if not lives:
                continue
            ended = [live for live, progress in lives.items() if progress.state != "running"]
            try:
                await asyncio.get_running_loop().run_in_executor(self._aside, self._write_down, store, lives)
            except Exception as error:
                for live in lives:
                    live.unkept = error if isinstance(error, ChatError) else unexpected(error)
                    live.tell()
                raise
            for live in lives:
                live.unkept = None
            for live in ended:
                del self._lives[live.message.id]
                live.kept = True
                live.tell()

    def _write_down(self, store: Store, lives: dict[Live, Progress]) -> None:
        """How far they have come and, of those that are over, how they came about."""
        if self.inspects:
            for live, progress in lives.items():
                if progress.state != "running":
                    lives[live] = replace(progress, inspection=self._inspection(live))
        store.write(list(lives.values()))

    def _inspection(self, live: Live) -> bytes | None:
        """How a reply that is over came about, packed, as far as that is known."""
        grown, model = live.growing, self.backend.models()[0].info
        if grown.prompt is None or model is None:
            return None
        try:
            told = grown.so_far()
            # Of a reply that was stopped, a token more may have been chosen than has come.
            traces = told.traces[: grown.tokens]
            cancelled = told.finish and replace(told.finish, completion_tokens=grown.tokens)
            texts = self.backend.spelled(traces.told)
            return Inspection(model, grown.prompt, traces, texts, grown.finish or cancelled).packed()
        except Exception:
            log.exception("how a reply came about could not be told")
            return None


def described(error: ChatError | None) -> str:
    """An error as the store keeps it: its cause and, on the next line, its remedy."""
    return f"{error.message}\n{error.remedy}" if error is not None else ""


def said(system_prompt: str, path: Sequence[StoredMessage], begun: Message | None = None) -> tuple[Message, ...]:
    """What a backend is sent of a conversation: its messages without replies that say nothing, and a reply's start."""
    turns = (Message(message.role, message.content) for message in path if message.content)
    return (Message("system", system_prompt), *turns, *([begun] if begun else []))


def _request(live: Live, trace: bool) -> ChatRequest:
    """What the backend is asked: the path, and the beginning of the new reply."""
    author = live.author
    begins = author.prefix or author.prefix_reasoning
    begun = Message("assistant", author.prefix, author.prefix_reasoning) if begins else None
    messages = said(author.system_prompt, live.path[:-1], begun)
    settings = author.settings.model_copy(update={"seed": author.seed})
    return ChatRequest(messages, settings, user=live.owner, trace=trace)
