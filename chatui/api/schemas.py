"""Response models of /v1, with the names of OpenAI's API description."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

EXACT = ConfigDict(extra="forbid")


class LoadingProgress(BaseModel):
    """What is being done to load a model."""

    model_config = EXACT

    stage: str


class ModelState(BaseModel):
    """Whether a model is in memory. An unloaded one is loaded by the first request for it."""

    model_config = EXACT

    value: Literal["unloaded", "loading", "loaded"]
    failed: bool = False
    error: str = ""
    progress: LoadingProgress | None = None


class ModelEventData(BaseModel):
    """The fields of ModelState, with `status` for `value`."""

    model_config = EXACT

    status: Literal["unloaded", "loading", "loaded"]
    failed: bool = False
    error: str = ""
    progress: LoadingProgress | None = None


class ModelEvent(BaseModel):
    """The data of an event of /models/sse: the state of a model at first, and then each change of it."""

    model_config = EXACT

    model: str
    event: Literal["model_status", "status_change"]
    data: ModelEventData


class Accepted(BaseModel):
    """A model is about to be loaded or unloaded."""

    model_config = EXACT

    success: Literal[True]


class Model(BaseModel):
    """A served model. It has the last three fields once it was loaded."""

    model_config = EXACT

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["chatui"]
    status: ModelState
    max_model_len: int = 0
    weight_bytes: int = 0
    revision: str | None = None


class ModelList(BaseModel):
    """The served models."""

    model_config = EXACT

    object: Literal["list"]
    data: list[Model]


class PromptTokensDetails(BaseModel):
    """Tokens of the prompt that were cached by an earlier request."""

    model_config = EXACT

    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    """Tokens of the completion that the model thought before it answered."""

    model_config = EXACT

    reasoning_tokens: int


class Usage(BaseModel):
    """Numbers of tokens in a request and its reply. What a server behind this one does not tell is null."""

    model_config = EXACT

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None
    completion_tokens_details: CompletionTokensDetails


class Timings(BaseModel):
    """Durations of the phases of a reply, and the seed that reproduces it."""

    model_config = EXACT

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    seed: int


class TopLogprob(BaseModel):
    """A token. Of a part of a character, `token` spells the `bytes`, such as \\xe2."""

    model_config = EXACT

    token: str
    logprob: float
    bytes: list[int]


class ChatCompletionTokenLogprob(TopLogprob):
    """A token of a reply, and the likeliest tokens at its position."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    """The log probabilities of all tokens of a reply or chunk, by the model's own distribution."""

    model_config = EXACT

    content: list[ChatCompletionTokenLogprob]
    refusal: None


class AssistantMessage(BaseModel):
    """The text of a reply. `reasoning_content` is the reasoning of models that reason first."""

    model_config = EXACT

    role: Literal["assistant"]
    content: str
    refusal: None
    reasoning_content: str = ""


class Choice(BaseModel):
    """The only choice of a completion, with the reply."""

    model_config = EXACT

    index: Literal[0]
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A complete reply. `notes` say what the model's chat template does not support in the request.

    `usage` is null if a server behind this one has not told the tokens of the prompt.
    """

    model_config = EXACT

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None
    timings: Timings
    notes: list[str] = []


class Delta(BaseModel):
    """The text generated since the last chunk."""

    model_config = EXACT

    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning_content: str = ""


class ChunkChoice(BaseModel):
    """The only choice of a chunk, with the next piece of the reply."""

    model_config = EXACT

    index: Literal[0]
    delta: Delta
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletionChunk(BaseModel):
    """The data of a streamed event. An ErrorResponse may come instead. The data of the last event is `[DONE]`."""

    model_config = EXACT

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    timings: Timings | None = None
    notes: list[str] = []


class TokenizeResponse(BaseModel):
    """The tokens of a text or a prompt. `token_strs` are their names in the vocabulary, if asked for."""

    model_config = EXACT

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeResponse(BaseModel):
    """The text of tokens."""

    model_config = EXACT

    prompt: str


class Error(BaseModel):
    """The cause of an error and its remedy. `param` is the invalid field of the request."""

    model_config = EXACT

    message: str
    type: Literal[
        "invalid_request_error", "authentication_error", "permission_error", "rate_limit_error", "server_error"
    ]
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every response with an error status."""

    model_config = EXACT

    error: Error
    detail: str = ""
