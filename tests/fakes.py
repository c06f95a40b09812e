"""Scripted backends for tests of the page."""

import asyncio
from collections.abc import AsyncGenerator

from chatui.chat import ChatRequest, Finish, ModelInfo, ModelStatus, Prompt, ReplyDelta
from chatui.errors import ChatError
from chatui.settings import GenerationSettings

INFO = ModelInfo("fake/echo", "float32", 1_234_567, 4_938_268, 4096, "cpu", GenerationSettings(temperature=0.5))


class FakeBackend:
    """Answers from a script: a list of pieces per reply, at `rate` pieces a second, the last reply again and again."""

    def __init__(self, *replies: list[str | ReplyDelta | ChatError], rate: float = 200.0) -> None:
        self.replies = list(replies) or [["Hello", " from", " the", " fake."]]
        self.rate = rate
        self.requests: list[ChatRequest] = []
        self.running = 0
        self.cancelled = 0
        self.status = ModelStatus(INFO.name, "ready", info=INFO)
        self.delay_first = 0.0

    def models(self) -> list[ModelStatus]:
        return [self.status]

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        self.requests.append(request)
        script = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        self.running += 1
        finished = False
        loop = asyncio.get_running_loop()
        try:
            yield ReplyDelta(prompt=Prompt("prompt", (1, 2, 3)))
            await asyncio.sleep(self.delay_first)
            start = loop.time()
            for number, piece in enumerate(script, 1):
                await asyncio.sleep(max(0.0, start + number / self.rate - loop.time()))
                if isinstance(piece, ChatError):
                    raise piece
                yield piece if isinstance(piece, ReplyDelta) else ReplyDelta(text=piece, tokens=1)
            seconds = max(loop.time() - start, 1e-9)
            yield ReplyDelta(finish=Finish("stop_token", 3, len(script), 0, 0.0, self.delay_first, seconds))
            finished = True
        finally:
            self.running -= 1
            self.cancelled += not finished

    async def close(self) -> None:
        pass
