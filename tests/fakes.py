"""Scripted backends for tests of the page."""

import asyncio
import threading
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from chatui.backend import PreviewMemo
from chatui.chat import (
    ChatRequest,
    Finish,
    LoadOptions,
    ModelAnatomy,
    ModelInfo,
    ModelStatus,
    Prompt,
    ReplyDelta,
    Source,
    Span,
    TemplateFacts,
    TokenizeRequest,
    Tokens,
    TraceSnapshot,
)
from chatui.errors import SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.server_facts import ServerActivity, ServerFacts
from chatui.thinking_controls import ThinkingControls
from chatui.traces import TokenTrace, Traces

INFO = ModelInfo(
    "fake/echo",
    "float32",
    1_234_567,
    4_938_268,
    4096,
    "cpu",
    GenerationSettings(temperature=0.5),
    read_bytes=4_000_000,
    slots=4,
    kv_bytes=4 * 4096 * 1024,
    source="fake/echo",
    dtype="float32",
    stop_ids=(2,),
    template=TemplateFacts(
        "{{ messages }}",
        "native",
        alternates=False,
        thinks=True,
        tools=False,
        controls=ThinkingControls(closes=True),
    ),
    anatomy=ModelAnatomy(
        layers=2,
        parameters=1_234_567,
        active=1_234_567,
        weights={"float32": 4_938_268, "bfloat16": 2_469_134},
        read={"float32": 4_000_000, "bfloat16": 2_000_000},
        kv_per_token=1024,
        activations=1_000_000,
        bandwidth=10e9,
    ),
)
TOLD = replace(
    INFO,
    name="lc/smol",
    precision="Q4_1",
    device="lc",
    template=TemplateFacts("{{ messages }}<think>", "native", alternates=False, thinks=False, tools=False),
    anatomy=None,
    server=ServerFacts("llama.cpp b1", {"top_k": "llama.cpp does not take it."}, True, True, True),
)
"""A model of a server that tells all that one can tell."""
UNTOLD = replace(
    TOLD,
    parameters=0,
    weight_bytes=0,
    read_bytes=0,
    context_length=0,
    kv_bytes=0,
    name="far",
    precision="",
    stop_ids=(),
    template=TemplateFacts("", "native", alternates=False, thinks=False, tools=False),
    server=ServerFacts("OpenAI API", {"top_k": "OpenAI API does not take it."}, continues=False),
)
"""A model of a server that tells nothing."""
OTHER = 500_000
"""The id of the token that a traced word could have been instead."""
POLL_SECONDS = 0.005


@dataclass
class Hold:
    """A piece of a script: the reply stays here until `release`, so that a test can act in mid-reply."""

    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let the reply go on."""
        self.released.set()

    async def wait(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Return when it is released, or `ended`."""
        while not self.released.is_set() and not ended():
            await asyncio.sleep(POLL_SECONDS)


def _snapshot_of(traced: Sequence[TokenTrace]) -> TraceSnapshot:
    return TraceSnapshot(Traces.of(traced), Finish("cancelled", 3, len(traced), 0, 0.0, 0.1, 0.5, cached_tokens=1))


def prompt_of(request: ChatRequest) -> Prompt:
    """One token for each character, and a line end behind each message."""
    last = max((at for at, message in enumerate(request.messages) if message.role == "user"), default=0)
    names: dict[str, Source] = {"system": "persona", "user": "user", "assistant": "reply"}
    text, spans = "", list[Span]()
    for at, message in enumerate(request.messages):
        if message.content:
            text += message.content + "\n"
            spans += [Span("message" if at == last else names[message.role], len(message.content)), Span("template", 1)]
    ends = tuple(range(1, len(text) + 1))
    return Prompt(text, tuple(map(ord, text)), 0, tuple(spans), ends, request.messages, 0.001, 0.002)


Piece = str | ReplyDelta | Exception | Hold
Script = Sequence[Piece]
Reply = Script | Callable[[ChatRequest], Script]


@dataclass
class _Thought:
    """What a finish tells of the thought that began at `start`."""

    start: float
    tokens: int = 0
    seconds: float = 0.0

    def add(self, delta: ReplyDelta, at: float) -> None:
        if delta.reasoning:
            self.tokens += delta.tokens
            self.seconds = at - self.start

    def told_in(self, finish: Finish) -> Finish:
        return replace(finish, reasoning_tokens=self.tokens, reasoning_seconds=self.seconds)


class FakeBackend:
    """Answers from a script: a list of pieces per reply, at `rate` pieces a second, the last reply again and again.

    A piece is text (one token), a whole delta, an exception to raise or a Hold; a reply may also be a function of the
    request. A reply without a finish gets one. Like a real backend it waits while `status` is loading, and raises its
    error. `before` comes ahead of the prompt, or brings one of its own. While it is `full`, it admits nobody. Once a
    reply shall answer now, the rest of its thought is left out.
    """

    def __init__(self, *replies: Reply, rate: float = 200.0) -> None:
        self.replies: list[Reply] = list(replies) or [["Hello", " from", " the", " fake."]]
        self.rate = rate
        self.requests: list[ChatRequest] = []
        self.finishes: list[Finish] = []
        """Those that scripts did not bring."""
        self.forgotten: list[str] = []
        self.loads: list[str] = []
        self.load_options: list[LoadOptions | None] = []
        self.unloads: list[str] = []
        self.added: list[tuple[str, str | None]] = []
        self.removed: list[str] = []
        self.refreshes = 0
        self.on_step: Callable[[float], None] | None = None
        self.tokenized: list[TokenizeRequest] = []
        self.previews: list[int] = []
        """For each preview, how many were made with its memo until then."""
        self.told_activity: ServerActivity | None = None
        self.activities_asked: list[str] = []
        self.running = 0
        self.cancelled = 0
        self.status = ModelStatus(INFO.name, "ready", info=INFO)
        self.before: Sequence[ReplyDelta | Exception | Hold] = ()
        self.delay_first = 0.0
        self.piece_times: list[float] = []
        """When each piece but the held ones was written, by time.time()."""
        self._words: dict[int, str] = {}
        self.full: Exception | None = None
        self.admitted: list[str] = []
        self.released_tickets: list[str] = []
        self.answered_now: list[str] = []

    def reset(self, *replies: Reply, rate: float = 200.0) -> None:
        """Be as a new one, for the application that observes this one."""
        vars(self).update(vars(FakeBackend(*replies, rate=rate)), on_step=self.on_step)

    @property
    def last_piece_at(self) -> float:
        return self.piece_times[-1] if self.piece_times else 0.0

    def models(self) -> list[ModelStatus]:
        return [self.status]

    def load(self, model: str, options: LoadOptions | None = None) -> None:
        self.loads.append(model)
        self.load_options.append(options)

    async def ensure_loaded(self, model: str) -> None:
        self.loads.append(model)

    def unload(self, model: str) -> None:
        self.unloads.append(model)

    def add(self, source: str, revision: str | None = None) -> str:
        self.added.append((source, revision))
        return source

    def remove(self, model: str) -> None:
        self.removed.append(model)

    def refresh(self) -> None:
        self.refreshes += 1

    def admit(self, user: str, model: str = "") -> str:
        if self.full is not None:
            raise self.full
        self.admitted.append(user)
        return user

    def release_ticket(self, ticket: str) -> None:
        self.released_tickets.append(ticket)

    def answer_now(self, ticket: str) -> None:
        self.answered_now.append(ticket)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        script = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        self.answered_now = [ticket for ticket in self.answered_now if ticket != request.ticket]
        self.running += 1  # before the request can be seen from another thread
        self.requests.append(request)
        finished = False
        loop = asyncio.get_running_loop()
        try:
            while self.status.state == "loading":
                await asyncio.sleep(POLL_SECONDS)
            if self.status.error is not None:
                raise self.status.error
            pieces = script(request) if callable(script) else script
            async for delta in self._beginning(request):
                yield delta
            await asyncio.sleep(self.delay_first)
            start = loop.time()
            traced: list[TokenTrace] = []
            thought = _Thought(start)
            for number, piece in enumerate(pieces, 1):
                await asyncio.sleep(max(0.0, start + number / self.rate - loop.time()))
                if isinstance(piece, Hold):
                    held_at = loop.time()
                    await piece.wait(lambda: request.ticket in self.answered_now)
                    start += loop.time() - held_at
                    continue
                if isinstance(piece, Exception):
                    raise piece
                if isinstance(piece, ReplyDelta) and piece.reasoning and request.ticket in self.answered_now:
                    continue
                self.piece_times.append(time.time())
                if isinstance(piece, ReplyDelta):
                    thought.add(piece, loop.time())
                    yield piece
                else:
                    traced.append(self._traced(piece, loop.time() - start))
                    snapshot = partial(_snapshot_of, traced) if request.trace else None
                    yield ReplyDelta(text=piece, tokens=1, snapshot=snapshot)
            seconds = max(loop.time() - start, 1e-9)
            last = pieces[-1] if pieces else ""
            if not (isinstance(last, ReplyDelta) and last.finish):
                finish = Finish("stop_token", 3, len(pieces), 0, 0.0, self.delay_first, seconds)
                self.finishes.append(thought.told_in(finish))
                yield ReplyDelta(finish=self.finishes[-1])
            finished = True
        finally:
            self.cancelled += not finished  # before the end can be seen from another thread
            self.running -= 1

    async def _beginning(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        for piece in self.before:
            if isinstance(piece, Hold):
                await piece.wait()
            elif isinstance(piece, Exception):
                raise piece
            else:
                yield piece
        if not any(isinstance(piece, ReplyDelta) and piece.prompt for piece in self.before):
            yield ReplyDelta(prompt=prompt_of(request))

    async def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt | None:
        if self.status.info is None:
            return None
        if memo is not None:
            memo["previews"] = memo.get("previews", 0) + 1
            self.previews.append(memo["previews"])
        return prompt_of(request)

    async def activity(self, model: str = "") -> ServerActivity | None:
        self.activities_asked.append(model)
        return self.told_activity

    def forget(self, chat: str) -> None:
        self.forgotten.append(chat)

    def decode_tokens(self, ids: set[int], model: str = "") -> dict[int, str]:
        return {id: self._words.get(id, " other") for id in ids}

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """One token for each character, as in prompt_of()."""
        self.tokenized.append(request)
        text = prompt_of(ChatRequest(request.messages, request.settings)).text if request.messages else request.text
        return Tokens(tuple(map(ord, text)), tuple(text))

    async def detokenize(self, ids: Sequence[int], model: str = "") -> str:
        if wrong := next((id for id in ids if id > 0x10FFFF), None):
            raise SettingsError("tokens", f"{wrong} is no token of this model.")
        return "".join(map(chr, ids))

    def kv_usage(self) -> float:
        return 0.25

    def _traced(self, word: str, at: float) -> TokenTrace:
        """As if the word were one token, which could have been OTHER as well."""
        id = 1000 + zlib.crc32(word.encode()) % 10**9
        self._words[id] = word
        steps = ((0.75, 0.2), (1.0, 0.0))
        return TokenTrace(id, at, 0.75, 1, 0.9, (id, OTHER), ("model", "top_p"), steps)

    async def close(self) -> None:
        pass
