"""A reply while it is generated: its progress, its saved state and its listeners. Knows no page and no HTTP."""

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
    """The progress of a reply. Times are in seconds of time.perf_counter().

    `earlier_messages` of the conversation were not read from the store. They count as dropped.
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
    reasoning_tokens: int = 0

    def add(self, delta: ReplyDelta) -> None:
        """Apply the next delta of the stream."""
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
            self.reasoning_tokens = self.tokens
        self.tokens += delta.tokens
        self.finish = delta.finish or self.finish


class RunningReply:
    """A reply while it is generated. `path` are the messages up to and including it.

    `saved` is set once its end is in the store. `save_error` is set while the store refuses to save it. The store
    accepts updates only from the holder of the `lease`. `ticket` is that of its request, `trace` is the
    context of its span.
    """

    def __init__(
        self, store: Store, owner: str, started: StartedTurn, author: Author, lease: str | None = None
    ) -> None:
        self.store, self.owner, self.lease = store, owner, lease
        self.conversation: ConversationInfo = started.conversation
        self.path, self.earlier_messages = started.path, started.earlier
        self.message: StoredMessage = started.reply
        self.author = author
        self.progress = ReplyProgress(author.prefix, author.prefix_reasoning, earlier_messages=started.earlier)
        self.state: MessageState = "running"
        self.error: ChatError | None = None
        self.saved = False
        self.save_error: ChatError | None = None
        self.task: asyncio.Task[None] | None = None
        self.ticket = ""
        self.trace: object = None
        self._listeners: set[asyncio.Event] = set()

    async def changes(self, until_saved: bool = False) -> AsyncIterator[None]:
        """Yields at once, then on every change and at least every HEARTBEAT_SECONDS, until the reply's end is saved.

        It also ends if the store refuses to save the end, unless `until_saved` is set.
        """
        changed = asyncio.Event()
        self._listeners.add(changed)
        try:
            while not self.saved and (until_saved or not (self.save_error and self.state != "running")):
                yield
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await changed.wait()
                changed.clear()
        finally:
            self._listeners.discard(changed)

    def notify(self) -> None:
        """Wake the listeners."""
        for changed in self._listeners:
            changed.set()

    def summary(self) -> dict[str, str | float | None]:
        """What logs tell of the reply, without its text: its model, how it ended, tokens, and seconds."""
        progress, finish = self.progress, self.progress.finish
        first = progress.first_text_at
        prompt_tokens = finish.told_prompt_tokens if finish else None
        if not prompt_tokens and progress.prompt:
            prompt_tokens = len(progress.prompt.token_ids)
        return {
            "model": self.author.model,
            "state": self.state,
            "finish_reason": finish.reason if finish else None,
            "error": type(self.error).__name__ if self.error else None,
            "prompt_tokens": prompt_tokens or None,
            "completion_tokens": progress.tokens,
            "first_token_seconds": round(first - progress.started_at, 3) if first else None,
            "seconds": round(time.perf_counter() - progress.started_at, 3),
        }

    def as_message(self) -> StoredMessage:
        """The reply as a stored message, with its current content and state."""
        return replace(
            self.message,
            content=self.progress.text,
            reasoning=self.progress.reasoning,
            state=self.state,
            finish=self.progress.finish,
            error=error_text(self.error),
            dropped=self.progress.dropped,
        )

    def to_update(self) -> ReplyUpdate:
        """The update that saves its current content and state."""
        progress = self.progress
        return ReplyUpdate(
            self.owner,
            self.message.id,
            progress.text,
            progress.reasoning,
            self.state,
            progress.finish,
            error_text(self.error),
            lease=self.lease,
            dropped=progress.dropped,
        )

    def on_lease_lost(self, stored: StoredMessage | None) -> None:
        """Stop after the lease was lost, with the content that the store has; None if the message was deleted."""
        if self.task is not None:
            self.task.cancel()
        self.error = StoreError(*(LEASE_LOST if stored else CONVERSATION_REMOVED))
        self.state, self.progress.finish = "stopped", None
        if stored is not None:
            self.progress.text, self.progress.reasoning, self.state = stored.content, stored.reasoning, stored.state


def error_text(error: ChatError | None) -> str:
    """An error as the store saves it: its message and, on the next line, its remedy; "" for None."""
    return f"{error.message}\n{error.remedy}" if error is not None else ""
