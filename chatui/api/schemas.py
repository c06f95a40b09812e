"""The shapes of what /v1 answers, under the names that OpenAI's own description gives them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

EXACT = ConfigDict(extra="forbid")


class Model(BaseModel):
    """A model that is served; the last three fields are there once it is loaded."""

    model_config = EXACT

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["chatui"]
    max_model_len: int = 0
    weight_bytes: int = 0
    revision: str | None = None


class ModelList(BaseModel):
    """All models that are served."""

    model_config = EXACT

    object: Literal["list"]
    data: list[Model]


class PromptTokensDetails(BaseModel):
    """Tokens of the prompt that had been read before, for an earlier request."""

    model_config = EXACT

    cached_tokens: int


class Usage(BaseModel):
    """The tokens of a request and of its reply."""

    model_config = EXACT

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Timings(BaseModel):
    """Where the time of a reply went, and the seed that gives it again."""

    model_config = EXACT

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    seed: int


class AssistantMessage(BaseModel):
    """A reply; a model that thinks first has its thoughts beside it."""

    model_config = EXACT

    role: Literal["assistant"]
    content: str
    refusal: None
    reasoning_content: str = ""


class Choice(BaseModel):
    """The one reply."""

    model_config = EXACT

    index: Literal[0]
    message: AssistantMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A whole reply. `notes` say what the model's template could not take as it was sent."""

    model_config = EXACT

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    timings: Timings
    notes: list[str] = []


class Delta(BaseModel):
    """What has come since the last chunk."""

    model_config = EXACT

    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning_content: str = ""


class ChunkChoice(BaseModel):
    """The next piece of the one reply."""

    model_config = EXACT

    index: Literal[0]
    delta: Delta
    logprobs: None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletionChunk(BaseModel):
    """The data of an event of a stream; the last event's data is `[DONE]`. An ErrorResponse may come in its place."""

    model_config = EXACT

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = None
    notes: list[str] = []


class Error(BaseModel):
    """What went wrong and what to do; `param` is the field to blame."""

    model_config = EXACT

    message: str
    type: Literal[
        "invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"
    ]
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every answer that is no success."""

    model_config = EXACT

    error: Error
    detail: str = ""
