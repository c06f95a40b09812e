"""Texts and messages -> token ids, and back, as a loaded model's tokenizer has them. Knows no forward pass."""

import sys
from collections.abc import Sequence

from chatui.chat import TokenizeRequest, Tokens
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.text import prompt as prompts
from chatui.errors import SettingsError


def tokenize(loaded: LoadedModel, request: TokenizeRequest) -> Tokens:
    """The tokens of a text or of a prompt, however many. Raises PromptError."""
    tokenizer, template = loaded.tokenizer, loaded.template.with_settings(request.settings)
    ids: Sequence[int]
    if not request.messages:
        ids = tokenizer.encode(request.text, add_special_tokens=request.add_special_tokens)
    elif request.add_generation_prompt:
        ids = prompts.build(tokenizer, template, request.messages, sys.maxsize).token_ids
    else:
        ids = prompts.encode_messages(tokenizer, template, request.messages)
    return Tokens(tuple(ids), tuple(tokenizer.convert_ids_to_tokens([*ids])))


def detokenize(loaded: LoadedModel, ids: Sequence[int]) -> str:
    """The text of these tokens, special ones too. Raises SettingsError for ids that the vocabulary does not have."""
    size = len(loaded.tokenizer)
    if unknown := next((id for id in ids if not 0 <= id < size), None):
        raise SettingsError("tokens", f"{unknown} is no token of this model, which has {size:,}.")
    return str(loaded.tokenizer.decode([*ids], skip_special_tokens=False, clean_up_tokenization_spaces=False))
