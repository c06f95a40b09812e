"""A model in memory, with what was found out about it once."""

from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatui.chat import ModelInfo
from chatui.engine.text.chat_template import Template


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer, with what was found out about it once; `spelling` of the tokens asked for so far.

    `shares` is the loaded model whose weights this one has too: a LoRA adapter's base, for example.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    info: ModelInfo
    stop_ids: frozenset[int]
    hidden_ids: frozenset[int]
    spelling: dict[int, str] = field(default_factory=dict)
    shares: "LoadedModel | None" = None

    def decode(self, ids: list[int]) -> str:
        """The text of reply tokens, without the control tokens among them."""
        shown = [token_id for token_id in ids if token_id not in self.hidden_ids]
        return str(self.tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False))
