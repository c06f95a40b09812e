"""A reply that is being written: its progress, and the tabs that wait for changes of it. Knows no page and no HTTP."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

from chatui.chat import Finish, Prompt, ReplyDelta, TraceSnapshot
from chatui.errors import ChatError, StoreError
from chatui.i18n import N_
from chatui.store.records import Author, ConversationInfo, MessageState, ReplyUpdate, StartedTurn, StoredMessage
from chatui.store.store import Store

LEASE_LOST = (
    N_("Interrupted: this server could not reach the database for so long that the reply was given up."),
    N_("What was saved until then is here; Continue writes on."),
)
CONVERSATION_REMOVED = (N_("The conversation was removed while this reply was being written."),)

HEARTBEAT_SECONDS = 0.25


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


def error_text(error: ChatError | None) -> str:
    """An error as the store keeps it: its cause and, on the next line, its remedy."""
    return f"{error.message}\n{error.remedy}" if error is not None else ""
