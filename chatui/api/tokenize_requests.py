"""Parses request bodies of /tokenize and /detokenize, which are those of vLLM.

https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/serve/tokenize/protocol.py
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from chatui.api import efforts
from chatui.api.messages import STRICT, ChatMessage, LastRole, conversation
from chatui.api.requests import MAX_MESSAGES, find_model, parse, read_json
from chatui.api.responses import ApiError, Fields
from chatui.chat import ModelStatus, TokenizeRequest, Tokens
from chatui.generation_settings import GenerationSettings

MAX_ID = 2**31 - 1
"""The highest number that a tokenizer takes as an id."""


class TokenizeText(BaseModel):
    """The body of POST /tokenize for a text. With `add_special_tokens` it gets those of the tokenizer, such as BOS."""

    model_config = STRICT

    model: str = Field("", max_length=1000)
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeMessages(BaseModel):
    """The body of POST /tokenize for messages, whose tokens are those that /v1/chat/completions would read.

    With `add_generation_prompt`, the last message is a user's, or with `continue_final_message` an assistant's. Without
    both, it may be any.
    """

    model_config = STRICT

    model: str = Field("", max_length=1000)
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    add_special_tokens: Annotated[bool, Field(json_schema_extra={"const": False})] = False
    return_token_strs: bool = False
    chat_template_kwargs: dict[str, Any] = Field(
        default={}, description="Arguments of the chat template about thinking, as for /v1/chat/completions."
    )


class DetokenizeBody(BaseModel):
    """The body of POST /detokenize."""

    model_config = STRICT

    model: str = Field("", max_length=1000)
    tokens: list[Annotated[int, Field(ge=0, le=MAX_ID)]]


def read_tokenize(body: bytes, models: Sequence[ModelStatus]) -> tuple[TokenizeRequest, bool]:
    """(the request, whether the names of the tokens are asked for). A field that is null counts as left out.

    Raises ApiError.
    """
    fields = {name: value for name, value in read_json(body).items() if value is not None}
    if ("prompt" in fields) == ("messages" in fields):
        raise ApiError(400, "Send either prompt or messages.", "prompt", "invalid_value")
    if "messages" in fields:
        chat = parse(TokenizeMessages, fields)
        return _chat_request(chat, find_model(models, chat.model)), chat.return_token_strs
    text = parse(TokenizeText, fields)
    model = find_model(models, text.model).name
    request = TokenizeRequest(_unicode(text.prompt), model=model, add_special_tokens=text.add_special_tokens)
    return request, text.return_token_strs


def read_detokenize(body: bytes, models: Sequence[ModelStatus]) -> tuple[list[int], str]:
    """(the ids, the model's name). Raises ApiError."""
    read = parse(DetokenizeBody, {name: value for name, value in read_json(body).items() if value is not None})
    return read.tokens, find_model(models, read.model).name


def describe_tokens(tokens: Tokens, context_length: int, names: bool) -> Fields:
    """The answer of /tokenize. `max_model_len` is vLLM's name for the context length."""
    return {
        "count": len(tokens.ids),
        "max_model_len": context_length,
        "tokens": list(tokens.ids),
        "token_strs": list(tokens.names) if names else None,
    }


def _chat_request(chat: TokenizeMessages, model: ModelStatus) -> TokenizeRequest:
    if chat.add_special_tokens:
        raise ApiError(
            400, "add_special_tokens: the chat template has them.", "add_special_tokens", "unsupported_parameter"
        )
    if chat.continue_final_message and chat.add_generation_prompt:
        message = "add_generation_prompt: cannot be true where continue_final_message is."
        raise ApiError(400, message, "add_generation_prompt", "invalid_value")
    replies = chat.add_generation_prompt is not False or chat.continue_final_message
    last_role: LastRole = "assistant" if chat.continue_final_message else "user"
    defaults = model.info.defaults if model.info else GenerationSettings()
    thinking = efforts.read({"chat_template_kwargs": chat.chat_template_kwargs}, model.info)
    return TokenizeRequest(
        messages=conversation(chat.messages, last_role if replies else None),
        settings=defaults.model_copy(update=thinking),
        model=model.name,
        add_generation_prompt=replies,
    )


def _unicode(text: str) -> str:
    """The text. Raises ApiError for half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ApiError(400, "prompt: half a surrogate pair is no text.", "prompt", "invalid_value") from None
    return text
