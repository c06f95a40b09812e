"""What a runner answers from the loaded model alone: its info, previews and tokens."""

from collections.abc import Sequence

from chatui.backend import PreviewMemo
from chatui.chat import ChatRequest, ModelInfo, Prompt, TokenizeRequest, Tokens
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners import reply_builder, tokenization


class LoadedRunner:
    """The part of ModelRunner that needs no reply; called in any thread."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    @property
    def info(self) -> ModelInfo:
        """What is known about the model."""
        return self.loaded.info

    def preview(self, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt:
        """The prompt that this would become. Raises PromptError."""
        return reply_builder.preview(self.loaded, request, memo)

    def decode_tokens(self, ids: set[int]) -> dict[int, str]:
        """The text of each token by itself."""
        return reply_builder.decode_tokens(self.loaded, ids)

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        """The tokens of a text or a prompt. Raises PromptError."""
        return tokenization.tokenize(self.loaded, request)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of these tokens. Raises SettingsError for an unknown id."""
        return tokenization.detokenize(self.loaded, ids)
