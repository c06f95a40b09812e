"""Scripted backends for tests of the page."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from chatui.chat import ChatRequest, Finish, ModelInfo, ModelStatus, Prompt, ReplyDelta
from chatui.settings import GenerationSettings

INFO = ModelInfo("fake/echo", "float32", 1_234_567, 4_938_268, 4096, "cpu", GenerationSettings(temperature=0.5))
POLL_SECONDS = 0.005


@dataclass
class Hold:
    """A piece of a script: the reply stays here until `release`, so that a test can act in mid-reply."""

    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let the reply go on."""
        self.released.set()


Piece = str | ReplyDelta | Exception | Hold
Script = Sequence[Piece]
Reply = Script | Callable[[ChatRequest], Script]


class FakeBackend:
    """Answers from a script: a list of pieces per reply, at `rate` pieces a second, the last reply again and again.

    A piece is text (one token), a whole delta, an exception to raise or a Hold; a reply may also be a function of the
    request. Like a real backend it waits while `status` is loading, and raises its error.
    """

    def __init__(self, *replies: Reply, rate: float = 200.0) -> None:
        self.replies: list[Reply] = list(replies) or [["Hello", " from", " the", " fake."]]
        self.rate = rate
        self.requests: list[ChatRequest] = []
        self.running = 0
        self.cancelled = 0
        self.status = ModelStatus(INFO.name, "ready", info=INFO)
        self.delay_first = 0.0
        self.last_piece_at = 0.0

    def models(self) -> list[ModelStatus]:
        return [self.status]

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        self.requests.append(request)
        script = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        self.running += 1
        finished = False
        loop = asyncio.get_running_loop()
        try:
            while self.status.state == "loading":
                await asyncio.sleep(POLL_SECONDS)
            if self.status.error is not None:
                raise self.status.error
            pieces = script(request) if callable(script) else script
            yield ReplyDelta(prompt=Prompt("prompt", (1, 2, 3)))
            await asyncio.sleep(self.delay_first)
            start = loop.time()
            for number, piece in enumerate(pieces, 1):
                await asyncio.sleep(max(0.0, start + number / self.rate - loop.time()))
                if isinstance(piece, Hold):
                    held_at = loop.time()
                    while not piece.released.is_set():
                        await asyncio.sleep(POLL_SECONDS)
                    start += loop.time() - held_at
                    continue
                if isinstance(piece, Exception):
                    raise piece
                self.last_piece_at = time.time()
                yield piece if isinstance(piece, ReplyDelta) else ReplyDelta(text=piece, tokens=1)
            seconds = max(loop.time() - start, 1e-9)
            yield ReplyDelta(finish=Finish("stop_token", 3, len(pieces), 0, 0.0, self.delay_first, seconds))
            finished = True
        finally:
            self.running -= 1
            self.cancelled += not finished

    async def close(self) -> None:
        pass
