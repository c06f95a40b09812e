"""The nouns of a chat and the one protocol between those who ask (page, API) and those who answer (backends)."""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from chatui.errors import ChatError
from chatui.settings import GenerationSettings
from chatui.traces import Traces

Role = Literal["system", "user", "assistant"]
State = Literal["loading", "ready", "failed"]
FinishReason = Literal["stop_token", "stop_string", "length", "cancelled"]
Source = Literal["template", "persona", "user", "reply", "message", "start"]
"""Where a part of a prompt came from: the chat template, the persona, what the user said before, what was replied, the
message that is to be answered, and what makes the model begin its reply, with the start of the reply where it has one.
"""
SystemRole = Literal["native", "folded"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    `reasoning` is what the model thought before `content`; it is sent back only where the message is to be continued.
    """

    role: Role
    content: str
    reasoning: str = ""


@dataclass(frozen=True)
class ChatRequest:
    """What to answer: the whole conversation and how to write the reply.

    Either side may begin it, and system messages may stand anywhere; what the model's template cannot take is folded.

    A last message of role "assistant" is the start of the reply, which goes on where that ends, to the letter: in its
    `content`, or where that is empty in its `reasoning` if the model thinks in <think> tags, else from the beginning.
    Half a character at its end (U+FFFD) is best taken off first.
    `user` is whose turn it is in a fair queue. A conversation too long for the model loses its oldest turns, or is
    refused where `whole` is set. `ignore_eos` writes on behind the model's own end, for benchmarks. `trace` asks for
    what was chosen from, token by token. `ticket` is what Backend.admit() gave, "" for one that has not asked. `chat`
    names a chat that is temporary: Backend.forget() will tell its end.
    """

    messages: tuple[Message, ...]
    settings: GenerationSettings
    model: str = ""
    user: str = ""
    no_truncation: bool = False
    ignore_eos: bool = False
    trace: bool = False
    ticket: str = ""
    temporary_conversation: str = ""


@dataclass(frozen=True)
class Span:
    """So many tokens of a prompt in a row that came from one source; the next span begins behind them."""

    source: Source
    tokens: int


@dataclass(frozen=True)
class Prompt:
    """What the model was given: `token_ids` of shape [prompt tokens], `dropped` messages left out to make it fit.

    `spans` cover the tokens in order, and `ends` says for each token where in `text` its characters end: of several
    tokens that make one character the first has it. `messages` are those that the template was given, and `notes` say
    in whole sentences where they are not as they were sent. The template took `template_seconds`, and the tokenizer
    `tokenize_seconds`.
    """

    text: str
    token_ids: tuple[int, ...]
    dropped: int = 0
    spans: tuple[Span, ...] = ()
    ends: tuple[int, ...] = ()
    messages: tuple[Message, ...] = ()
    template_seconds: float = 0.0
    tokenize_seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def token_texts(self) -> tuple[str, ...]:
        """The text of each token; together they are `text`."""
        return tuple(self.text[start:end] for start, end in zip((0, *self.ends), self.ends, strict=False))

    def source_tokens(self, *sources: Source) -> int:
        """The number of tokens that came from these sources."""
        return sum(span.tokens for span in self.spans if span.source in sources)


@dataclass(frozen=True)
class Finish:
    """Why the reply ended, what it used (tokens) and how long the parts took (seconds).

    `cached_tokens` of the prompt were not read again, because an earlier conversation began with them. `stopped_by` is
    the token or the string that ended it, or the limit that it reached; `stop_id` the token's id. Turning tokens into
    text took `text_seconds` of the decoding. `rows` replies were written at once, on average.
    """

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seed: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    cached_tokens: int = 0
    stopped_by: str = ""
    stop_id: int | None = None
    text_seconds: float = 0.0
    rows: float = 1.0

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed: the first token belongs to the prefill."""
        return (self.completion_tokens - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class TraceSnapshot:
    """How a reply came about up to some moment: how its tokens were chosen, and its end if it were cancelled then."""

    traces: Traces = field(default_factory=Traces)
    finish: Finish | None = None


@dataclass(frozen=True)
class ReplyDelta:
    """A piece of a reply of `tokens` tokens. One delta before the text carries `prompt`, the last one `finish`.

    While it waits, `place` is its place in the queue, 1 the next; while the prompt is read, `read` is how many of its
    tokens are. Where it is traced, `so_far` tells how it came about up to the time it is called, which takes some work;
    of several that come the last one tells of most. With `folds`, all text so far was a thought, and that is its rest.
    """

    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    prompt: Prompt | None = None
    finish: Finish | None = None
    queue_position: int | None = None
    prefilled_tokens: int | None = None
    snapshot: Callable[[], TraceSnapshot] | None = None
    reasoning_remainder: str | None = None

    def apply_to(self, text: str, reasoning: str) -> tuple[str, str]:
        """A reply's text and reasoning with what this adds to them."""
        if self.reasoning_remainder is not None:
            text, reasoning = "", (reasoning + text + self.reasoning_remainder).strip("\r\n")
        return text + self.text, reasoning + self.reasoning


@dataclass(frozen=True)
class TemplateFacts:
    """What is known of a chat template: its text, what became of the system role, and what it can do.

    `alternates` where turns must; `thinks` where it knows <think> tags, `tools` where it takes functions to call.
    `replaced` where it is the operator's, not the model's own; `parts` where it wants contents as lists of parts.
    """

    text: str
    system: SystemRole
    alternates: bool
    thinks: bool
    tools: bool
    replaced: bool = False
    parts: bool = False


@dataclass(frozen=True)
class ModelAnatomy:
    """What the arithmetic of a model's memory and speed is made of; sizes in bytes.

    `active` parameters take part in one token. `weights` is what all of them take in memory by precision ("float32",
    "bfloat16", "int8", "int4"), and `read` what one token reads of them. One token's keys and values take
    `kv_per_token`; `activations` is what reading a piece of a prompt takes besides, and `activations_per_token` what it
    takes more for each token before it. `bandwidth` is what this device reads in a second, 0 where that was
    not measured.
    """

    layers: int
    parameters: int
    active: int
    weights: Mapping[str, int]
    read: Mapping[str, int]
    kv_per_token: int
    activations: int = 0
    activations_per_token: int = 0
    bandwidth: float = 0.0


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model. `notes` say what the page should tell: a folded persona, for example.

    `read_bytes` of the weights are read for one token: all but a table of embeddings that is no output layer as well.
    `slots` replies are written at once; `kv_bytes` is what the keys and values of their conversations take in all.
    `revision` is the commit on the Hub, "sha256:" and the first 12 digits of a GGUF file's, or "" for a local folder.
    `source` is what transformers can load it by, `dtype` the type of its activations. `stop_ids` end a reply.
    `measured_bytes` is what the process grew by when the weights were loaded. `memory_bytes` is all the memory that the
    device has, 0 where that was not known.
    """

    name: str
    precision: str
    parameters: int
    weight_bytes: int
    context_length: int
    device: str
    defaults: GenerationSettings
    notes: tuple[str, ...] = ()
    slots: int = 1
    kv_bytes: int = 0
    read_bytes: int = 0
    revision: str = ""
    source: str = ""
    dtype: str = ""
    stop_ids: tuple[int, ...] = ()
    measured_bytes: int = 0
    memory_bytes: int = 0
    template: TemplateFacts | None = None
    anatomy: ModelAnatomy | None = None

    def reserved_tokens(self, settings: GenerationSettings) -> int:
        """Tokens of the context that are kept free for the reply."""
        return min(settings.max_new_tokens, self.context_length // 4)


@dataclass(frozen=True)
class ModelStatus:
    """A model that the backend serves: `phase` says what is going on while it loads, `error` why it failed."""

    name: str
    state: State
    phase: str = ""
    info: ModelInfo | None = None
    error: ChatError | None = None


PreviewMemo = dict[str, Any]
"""What a backend remembers between previews for whoever holds this, and only as long."""


class Backend(Protocol):
    """Whoever answers. Errors are raised as ChatError; closing the iterator is the one way to cancel."""

    def models(self) -> list[ModelStatus]:
        """The models served, the default first; never empty, never slow."""

    def admit(self, user: str) -> str:
        """A ticket for a request of this user that is about to come, which keeps its place. Raises OverloadError."""

    def release_ticket(self, ticket: str) -> None:
        """The request will not come; nothing where it has come."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """The reply, piece by piece; of one that is continued only what is new. Waits while the model is loading."""

    async def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt | None:
        """The prompt that this would become, or None while the model is loading. Raises ChatError.

        With the same memo again, only what is new since costs time.
        """

    def decode_tokens(self, ids: set[int]) -> dict[int, str]:
        """The text of each token by itself, for a part of a character its bytes as <0xE2>; called in any thread."""

    def forget(self, chat: str) -> None:
        """This chat is over: let go, soon, of what is remembered to answer it faster. Never slow, from any thread."""

    async def close(self) -> None:
        """End all replies and free the model."""
