"""What the model's thread asks of a runner: begin a reply, advance all, end one. Knows no torch."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Protocol

from chatui.backend import PreviewMemo
from chatui.chat import ChatRequest, ModelInfo, Prompt, ReplyDelta, TokenizeRequest, Tokens
from chatui.errors import ChatError
from chatui.model_spec import ModelSpec

ReportPhase = Callable[[str], None]
IsCancelled = Callable[[], bool]
StepResult = tuple[object, ReplyDelta | ChatError]
"""(handle of a reply, what has happened to it)."""

WriteReply = Callable[[ChatRequest, float], Generator[ReplyDelta]]
"""(request, seconds waited in the queue) -> the reply; closing the iterator ends it."""


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """Raised out of the model's work when nobody wants its result any more."""


class ModelRunner(Protocol):
    """What the thread drives: see BatchRunner and SerialRunner."""

    @property
    def info(self) -> ModelInfo:
        """What is known about the model."""

    def can_begin(self, prepared: object) -> bool:
        """Whether this reply, which `prepare` made, can begin now."""

    def prepare(self, request: ChatRequest) -> object:
        """What `begin` takes, made in another thread than the rest. Raises ChatError."""

    def begin(self, prepared: object, queue_seconds: float, is_cancelled: IsCancelled) -> object:
        """Begin a reply; the handle names it. `is_cancelled` may be asked while work takes long. Raises ChatError."""

    def step(self) -> list[StepResult]:
        """Advance; what happened to which reply. A delta with a finish, or an error, is the last of its reply."""

    def end(self, handle: object) -> None:
        """Nobody wants this reply any more."""

    def answer_now(self, handle: object) -> None:
        """End the thought of this reply, so that its answer begins; nothing if it is not thinking."""

    def forget(self, chat: str) -> None:
        """Let go of what is remembered of this chat, of which no reply is being written."""

    def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt:
        """The prompt that this would become; called in any thread. Raises ChatError."""

    def decode_tokens(self, ids: set[int]) -> dict[int, str]:
        """The text of each token by itself; called in any thread."""

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        """The tokens of a text or a prompt; called in any thread. Raises PromptError."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of these tokens; called in any thread. Raises SettingsError for an unknown id."""

    def kv_usage(self) -> float:
        """The share of the K/V cache that running replies fill, from 0 to 1; called in any thread."""

    def reset(self) -> None:
        """Forget all replies, as after a failure that nobody foresaw."""


Loader = Callable[[ModelSpec, Path, ReportPhase], ModelRunner]
