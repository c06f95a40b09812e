"""The types of a chat: messages, requests, replies, and what is known about a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chatui.errors import ChatError
from chatui.generation_settings import GenerationSettings
from chatui.kv_size import WindowedLayers
from chatui.server_facts import ServerFacts
from chatui.thinking_controls import NO_CONTROLS, TemplateArguments, ThinkingControls
from chatui.traces import ALTERNATIVES, Traces

Role = Literal["system", "user", "assistant"]
State = Literal["loading", "ready", "failed", "unloaded"]
FinishReason = Literal["stop_token", "stop_string", "length", "cancelled"]
PromptCount = Literal["prompt_tokens", "cached_tokens"]
Source = Literal["template", "persona", "user", "reply", "message", "start"]
"""The origin of a part of a prompt.

"template" is the chat template, "persona" the system prompt, "user" and "reply" are earlier messages, "message" is the
one to answer, "start" is the generation prompt with the prefix of the reply.
"""
SystemRole = Literal["native", "folded"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    `reasoning` is what the model thought before `content`. It is part of a prompt only if the message is continued.
    """

    role: Role
    content: str
    reasoning: str = ""


@dataclass(frozen=True)
class ChatRequest:
    """A conversation to reply to, and the settings of the reply.

    Either role may begin it, and system messages may be anywhere. Roles that the chat template does not support are
    folded into other messages.

    A last message of role "assistant" is a prefix that the reply continues exactly: its `content` or, if that is
    empty, its `reasoning` for models with <think> tags. An incomplete character (U+FFFD) at its end should be removed.

    `user` is the key of the fair queue. A conversation too long for the model loses its oldest turns; with
    `no_truncation` it is refused. `ignore_eos` generates past the model's stop token, for benchmarks. `trace` asks for
    the candidates of each token: the `alternatives` likeliest ones, at least 1, and the chosen one. `ticket` is from
    Backend.admit(), or "". `temporary_conversation` is the id of a temporary chat, whose end Backend.forget()
    announces.
    """

    messages: tuple[Message, ...]
    settings: GenerationSettings
    model: str = ""
    user: str = ""
    no_truncation: bool = False
    ignore_eos: bool = False
    trace: bool = False
    alternatives: int = ALTERNATIVES
    ticket: str = ""
    temporary_conversation: str = ""


@dataclass(frozen=True)
class TokenizeRequest:
    """A text, or messages that the chat template makes a prompt of, to be split into tokens.

    With `add_special_tokens`, the tokenizer puts its own at the ends of the `text`. With `add_generation_prompt`, the
    prompt is that of a ChatRequest with these `messages` and `settings`; without, it ends with the last message.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    model: str = ""
    add_special_tokens: bool = True
    add_generation_prompt: bool = True


@dataclass(frozen=True)
class Tokens:
    """The ids of tokens, and their `names` in the vocabulary, such as "Ġthe". Both have the shape [tokens]."""

    ids: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Span:
    """A number of consecutive tokens of a prompt that have one source. The next span begins after them."""

    source: Source
    tokens: int


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt: `token_ids` of shape [prompt tokens]. `dropped` messages were left out to make it fit.

    `spans` cover the tokens in order. `ends` has for each token the index in `text` at which its characters end; if
    several tokens make one character, the first has it. `messages` are those passed to the template, and `arguments`
    what it was given besides. `notes` are sentences about how the messages differ from those of the request. `sent` are
    the fields of the request to another server, but for the messages.
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
    arguments: TemplateArguments = field(default_factory=dict)
    sent: Mapping[str, Any] = field(default_factory=dict)

    @property
    def token_texts(self) -> tuple[str, ...]:
        """The text of each token; together they are `text`."""
        return tuple(self.text[start:end] for start, end in zip((0, *self.ends), self.ends, strict=False))

    def source_tokens(self, *sources: Source) -> int:
        """The number of tokens that came from these sources."""
        return sum(span.tokens for span in self.spans if span.source in sources)


@dataclass(frozen=True)
class Finish:
    """Why the reply ended, its token counts, and its times in seconds.

    `cached_tokens` of the prompt were found in the KV cache. `stopped_by` is the token or string that ended it, or the
    limit that it reached; `stop_id` is the token's id. `text_seconds` of the decoding went into detokenization. `rows`
    is the average batch size. `reasoning_tokens` of the completion were the thought, with its tags, and took
    `reasoning_seconds`. `forced_positions` are those of the tokens that ended a thought in the model's place,
    `accepted_positions` those of the tokens that needed no decode step of their own, since drafts were right.
    `timed_by_server`: the times of prefill and decoding are another server's; else they were measured here. Counts that
    such a server did not tell are named in `untold`, and are 0.
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
    reasoning_tokens: int = 0
    reasoning_seconds: float = 0.0
    forced_positions: tuple[int, ...] = ()
    accepted_positions: tuple[int, ...] = ()
    timed_by_server: bool = False
    untold: tuple[PromptCount, ...] = ()

    @property
    def told_prompt_tokens(self) -> int | None:
        """The tokens of the prompt; None if they were not told."""
        return None if "prompt_tokens" in self.untold else self.prompt_tokens

    @property
    def told_cached_tokens(self) -> int | None:
        """The tokens of the prompt that were cached; None if they were not told."""
        return None if "cached_tokens" in self.untold else self.cached_tokens

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed. The first token is not counted, because the prefill produces it."""
        return (self.completion_tokens - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a decode step has written of this reply on average. The first is not counted, as above."""
        tokens = self.completion_tokens - 1
        return tokens / max(1, tokens - len(self.accepted_positions)) if tokens > 0 else 1.0


@dataclass(frozen=True)
class TraceSnapshot:
    """The generation trace up to some moment: its tokens' candidates, and the Finish if it were cancelled then."""

    traces: Traces = field(default_factory=Traces)
    finish: Finish | None = None


@dataclass(frozen=True)
class ReplyDelta:
    """An increment of a reply, of `tokens` tokens. A delta before the text carries `prompt`, the last one `finish`.

    `queue_position` counts from 1 while the request waits. `prefilled_tokens` is the progress of the prefill, of which
    the last `restored_tokens` came from disk.
    `snapshot` returns the trace up to the time of the call; it takes some work, and the latest one covers the most.
    `reasoning_remainder` means that all text so far was reasoning, of which this is the rest.
    """

    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    prompt: Prompt | None = None
    finish: Finish | None = None
    queue_position: int | None = None
    prefilled_tokens: int | None = None
    restored_tokens: int = 0
    snapshot: Callable[[], TraceSnapshot] | None = None
    reasoning_remainder: str | None = None

    def apply_to(self, text: str, reasoning: str) -> tuple[str, str]:
        """(text, reasoning) of a reply after this delta."""
        if self.reasoning_remainder is not None:
            text, reasoning = "", (reasoning + text + self.reasoning_remainder).strip("\r\n")
        return text + self.text, reasoning + self.reasoning


@dataclass(frozen=True)
class TemplateFacts:
    """Properties of a chat template.

    `system` says how the system role is rendered. `alternates`: user and assistant must alternate. `thinks`: it knows
    <think> tags, and `controls` are those of the thinking. `tools`: it takes functions to call. `replaced`: it is the
    operator's, not the model's own. `parts`: it takes contents as lists of parts.
    """

    text: str
    system: SystemRole
    alternates: bool
    thinks: bool
    tools: bool
    replaced: bool = False
    parts: bool = False
    controls: ThinkingControls = NO_CONTROLS


@dataclass(frozen=True)
class ModelAnatomy:
    """Sizes from which a model's memory and speed are estimated, in bytes.

    `active` parameters take part in one token. `weights` is the size of all by precision ("float32", "bfloat16",
    "int8", "int4"), `read` the part that is read for one token. `kv_per_token` is one token's KV cache,
    `int8_kv_per_token` the same with --kv-dtype int8, 0 where that is not possible or not known. No layer sees more
    than a `window` of tokens, None where some see all; `windowed` are the others then. A conversation has
    `state_bytes` beside K/V. A chunk's prefill needs `activations` more, and `activations_per_token` for each token
    before it. `bandwidth` is the device's in bytes per second, 0 if not known.
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
    int8_kv_per_token: int = 0
    window: int | None = None
    windowed: WindowedLayers | None = None
    state_bytes: int = 0


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model. `notes` are sentences that the page shows, about a folded system prompt for example.

    `read_bytes` of the weights are read for one token: all but an embedding table that is not the output layer too.
    `slots` is the maximum batch size, `kv_bytes` the size of the whole KV cache, states included, for `kv_tokens`
    tokens of all conversations; 0 where it grows with each. Layers with a window have room for `windowed_tokens` of
    those, where others see all. `kv_divergence` is what int8 does to it: the mean KL divergence in nats (kv_error.py),
    None where it is not in int8. `revision` is the commit on the Hub, "sha256:" and the first 12 digits of a GGUF
    file's hash, or "" for a local folder. `source` is what transformers loads it by, `dtype` the type of its
    activations. `stop_ids` end a reply. `measured_bytes` is the growth of the process by loading the weights.
    `memory_bytes` is the device's memory, 0 if unknown. `adapter` is what peft loads a LoRA adapter by; `source` and
    `revision` are then those of its base model. `server` is None for a local model; what it does not tell is 0 or "".
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
    kv_tokens: int = 0
    windowed_tokens: int = 0
    kv_divergence: float | None = None
    read_bytes: int = 0
    revision: str = ""
    source: str = ""
    dtype: str = ""
    stop_ids: tuple[int, ...] = ()
    measured_bytes: int = 0
    memory_bytes: int = 0
    template: TemplateFacts | None = None
    anatomy: ModelAnatomy | None = None
    adapter: str = ""
    server: ServerFacts | None = None

    @property
    def max_cached_tokens(self) -> int:
        """The tokens of all conversations together that fit in the KV cache."""
        return self.kv_tokens or self.slots * self.context_length

    def reserved_tokens(self, settings: GenerationSettings) -> int:
        """The tokens of the context that are reserved for the reply."""
        return min(settings.max_new_tokens or self.context_length, self.context_length // 4 or settings.max_new_tokens)


@dataclass(frozen=True)
class ModelStatus:
    """The state of a model that the backend serves. `phase` describes its loading, `error` why it failed.

    An "unloaded" model is loaded by the first request for it. `info` is then, and while it loads again, that of its
    latest loading. `source` is its name on the Hub or its path. `added` models were added while the server was running.
    A `remote` one runs on another server, which last answered within `latency()` seconds, None if that is not known.
    """

    name: str
    state: State
    phase: str = ""
    info: ModelInfo | None = None
    error: ChatError | None = None
    source: str = ""
    added: bool = False
    remote: bool = False
    latency: Callable[[], float | None] = field(default=lambda: None, compare=False, repr=False)


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model this time. Empty fields are as the settings say.

    `precision` is "float32", "bfloat16", "int8", "int4", "8bit", "4bit", or the type of a GGUF file such as "Q4_1".
    `device` is a value of --device-map. `context` is the number of tokens of a conversation. With `load_anyway`, a
    model that is predicted to need more than the free memory may take swap space as well.
    """

    precision: str = ""
    device: str = ""
    context: int | None = None
    load_anyway: bool = False
