"""The protocol between those who ask for replies (page, API) and those who give them (local engine, remote servers)."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from chatui.chat import ChatRequest, LoadOptions, ModelInfo, ModelStatus, Prompt, ReplyDelta, TokenizeRequest, Tokens
from chatui.i18n import N_
from chatui.server_facts import ServerActivity

NO_OWN_MODELS = (
    N_("This server runs no models of its own: it stands in front of others."),
    N_("Start it with --model as well, to have models in this process."),
)
"""(message, remedy) where there are only models of other servers."""

PreviewMemo = dict[str, Any]
"""A backend's cache between calls of preview(). The caller holds it."""


class Backend(Protocol):
    """Generates replies. Errors are raised as ChatError. Closing the iterator of stream() cancels a reply.

    A model is named as models() does; "" is the default one.
    """

    def models(self) -> list[ModelStatus]:
        """The served models, the default one first. Never empty, never blocks."""

    def load(self, model: str, options: LoadOptions | None = None) -> None:
        """Begin to load a model, unless it is loaded. Never blocks. Raises ModelError.

        A model that is loaded otherwise than by these `options` is loaded again. Raises SettingsError if they are
        invalid.
        """

    async def ensure_loaded(self, model: str) -> None:
        """Load a model, unless it is loaded, and wait for it. Raises ModelError."""

    def unload(self, model: str) -> None:
        """Unload a model once its replies have ended. Never blocks. Raises ModelError."""

    def add(self, source: str, revision: str | None = None) -> str:
        """Serve one more model, a name on the Hub or a path, and return its name. Raises ModelError."""

    def remove(self, model: str) -> None:
        """Serve a model no longer. Its replies end first. Raises ModelError."""

    def refresh(self) -> None:
        """Serve what is new in the folder of models, and what has gone no longer. Reads the disk."""

    def admit(self, user: str, model: str = "") -> str:
        """Reserve a place in the queue for a request of this user, and return its ticket. Raises OverloadError."""

    def release_ticket(self, ticket: str) -> None:
        """Give up a reserved place. Does nothing if its request has already arrived."""

    def answer_now(self, ticket: str) -> None:
        """End the thought of the running reply with this ticket, so that its answer begins. Never blocks. Thread-safe.

        Does nothing if the reply is not thinking, or its thought cannot be ended.
        """

    def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """Generate the reply. A continued one yields only the new part. Waits while the model is loading."""

    async def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt | None:
        """The prompt that this request would have; None while the model is loading. Raises ChatError.

        With the memo of an earlier call, only what has changed since is computed.
        """

    def decode_tokens(self, ids: set[int], model: str = "") -> dict[int, str]:
        """The text of each token by itself; incomplete characters as bytes, such as <0xE2>. Thread-safe.

        Empty while the model is not loaded.
        """

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        """The tokens of a text or a prompt, even if they are more than the context. Waits while the model is loading.

        Raises ChatError.
        """

    async def detokenize(self, ids: Sequence[int], model: str = "") -> str:
        """The text of these tokens, special ones too. Waits while the model is loading.

        Raises SettingsError for an id that the model does not have.
        """

    async def activity(self, model: str = "") -> ServerActivity | None:
        """What the servers of a model tell of themselves now, within a second; None if nothing, or if it has none.

        Raises ModelError if there is no such model.
        """

    def forget(self, chat: str) -> None:
        """Release the KV cache of a temporary chat that has ended. Never blocks. Thread-safe."""

    async def close(self) -> None:
        """Stop all replies and free the model."""


class StartableBackend(Backend, Protocol):
    """A backend that begins to work when it is started, and whose default model can be waited for."""

    def start(self) -> object:
        """Begin to load the default model, and to serve requests."""

    def wait(self) -> ModelInfo:
        """Wait until the default model is ready. Raises ModelError if it cannot be."""
