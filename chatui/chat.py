"""The nouns of a chat and the one protocol between those who ask (page, API) and those who answer (backends)."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from chatui.errors import ChatError
from chatui.settings import GenerationSettings

Role = Literal["system", "user", "assistant"]
State = Literal["loading", "ready", "failed"]
FinishReason = Literal["stop_token", "stop_string", "length", "cancelled"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation; `reasoning` is what the model thought before `content`, never sent back to it."""

    role: Role
    content: str
    reasoning: str = ""


@dataclass(frozen=True)
class ChatRequest:
    """What to answer: the whole conversation, the system message first, and how to write the reply."""

    messages: tuple[Message, ...]
    settings: GenerationSettings
    model: str = ""


@dataclass(frozen=True)
class Prompt:
    """What the model was given: `token_ids` of shape [prompt tokens], `dropped` messages left out to make it fit."""

    text: str
    token_ids: tuple[int, ...]
    dropped: int = 0


@dataclass(frozen=True)
class Finish:
    """Why the reply ended, what it used (tokens) and how long the parts took (seconds)."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seed: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed: the first token belongs to the prefill."""
        return (self.completion_tokens - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class ReplyDelta:
    """A piece of a reply of `tokens` tokens. The first delta carries `prompt`, the last one `finish`."""

    text: str = ""
    reasoning: str = ""
    tokens: int = 0
    prompt: Prompt | None = None
    finish: Finish | None = None


@dataclass(frozen=True)
class ModelInfo:
    """A loaded model. `notes` say what the page should tell: a folded persona, for example."""

    name: str
    precision: str
    parameters: int
    weight_bytes: int
    context_length: int
    device: str
    defaults: GenerationSettings
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelStatus:
    """A model that the backend serves: `phase` says what is going on while it loads, `error` why it failed."""

    name: str
    state: State
    phase: str = ""
    info: ModelInfo | None = None
    error: ChatError | None = None


class Backend(Protocol):
    """Whoever answers. Errors are raised as ChatError; closing the iterator is the one way to cancel."""

    def models(self) -> list[ModelStatus]:
        """The models served, the default first; never empty, never slow."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """The reply, piece by piece. Waits while the model is loading."""

    async def close(self) -> None:
        """End all replies and free the model."""
