"""Parses request bodies of OpenAI's chat completions into ChatRequest. GenerationSettings checks sampling fields."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from chatui import shallow_json
from chatui.api import efforts
from chatui.api.accepted_fields import (
    FIELD_ALIASES,
    IGNORED_FIELDS,
    NEUTRAL_VALUES,
    PENALTY_RANGE_FIELDS,
    normalize,
)
from chatui.api.messages import STRICT, ChatMessage, conversation
from chatui.api.responses import ApiError, Fields
from chatui.chat import ChatRequest, LoadOptions, ModelStatus
from chatui.errors import SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.setting_values import shorten

MAX_MESSAGES = 10_000
"""Messages."""
MAX_TOP_LOGPROBS = 20
"""Tokens, as at OpenAI."""


def _whole(value: Any) -> Any:
    """A whole number that is written with a point, such as 5.0, as an integer: JSON knows one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class StreamOptions(BaseModel):
    """How a stream is written; `include_obfuscation` asks for padding, without which the reply is the same."""

    model_config = STRICT

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: Literal[False] | None = None


class ChatBody(BaseModel):
    """The body of POST /v1/chat/completions but for the sampling fields, which GenerationSettings checks.

    With `continue_final_message` the reply goes on where the last message, an assistant's, ends. As in vLLM,
    `add_generation_prompt` may then not be true. `top_logprobs` needs `logprobs`.
    """

    model_config = STRICT

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    model: str = Field("", max_length=1000)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str = Field("", max_length=500)
    ignore_eos: bool = False
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, BeforeValidator(_whole)] = Field(0, ge=0, le=MAX_TOP_LOGPROBS)


class ModelBody(BaseModel):
    """The body of POST /v1/models/unload."""

    model_config = STRICT

    model: str = Field(min_length=1, max_length=1000)


class LoadBody(ModelBody):
    """The body of POST /v1/models/load. What is left out is as the server's settings say."""

    precision: str = Field("", max_length=20, description="float32, bfloat16, int8, int4, 8bit, 4bit, or as stored.")
    device: str = Field("", max_length=20, description="auto, cpu, cuda, cuda:1 ...")
    context: int | None = Field(None, description="Tokens of a conversation.")
    load_anyway: bool = Field(False, description="Load it even if it is predicted to need swap space.")

    def options(self) -> LoadOptions | None:
        """The options; None if there are none."""
        options = LoadOptions(self.precision, self.device, self.context, self.load_anyway)
        return None if options == LoadOptions() else options


@dataclass(frozen=True)
class ParsedRequest:
    """A parsed body: the request for the backend, and the format of the response.

    `top_logprobs` is how many of the likeliest tokens are told with each token, None if no log probabilities are.
    """

    request: ChatRequest
    stream: bool
    include_usage: bool
    top_logprobs: int | None


KNOWN_FIELDS = {
    *ChatBody.model_fields,
    *GenerationSettings.model_fields,
    *FIELD_ALIASES,
    *NEUTRAL_VALUES,
    *IGNORED_FIELDS,
}


def read_chat(body: bytes, models: Sequence[ModelStatus], caller: str, trusts_user: bool) -> ParsedRequest:
    """Parse a body. A field that is null counts as left out; settings left out are the model's defaults.

    `caller` identifies the client in the fair queue; with `trusts_user`, the field `user` is added to it. Raises
    ApiError.
    """
    try:
        fields = _read_fields(body)
        effort_fields, fields = _split(fields, efforts.FIELDS)
        penalty_range, fields = _split(fields, PENALTY_RANGE_FIELDS)
        sampling = {name: value for name, value in fields.items() if _setting(name) in GenerationSettings.model_fields}
        chat = ChatBody.model_validate({name: value for name, value in fields.items() if name not in sampling})
        model = find_model(models, chat.model)
        defaults = model.info.defaults if model.info else GenerationSettings()
        settings = _read_settings(sampling, defaults, efforts.read(effort_fields, model.info))
        _check_penalty_range(penalty_range, settings)
    except ValidationError as error:
        raise validation_error(error) from None
    _check_generation_prompt(chat)
    if chat.top_logprobs and not chat.logprobs:
        raise ApiError(400, "top_logprobs: logprobs must be true for it.", "top_logprobs", "invalid_value")
    user = f"{caller}\n{chat.user}" if trusts_user and chat.user else caller
    request = ChatRequest(
        conversation(chat.messages, "assistant" if chat.continue_final_message else "user"),
        settings,
        model.name,
        user,
        no_truncation=True,
        ignore_eos=chat.ignore_eos,
        trace=chat.logprobs,
        alternatives=max(1, chat.top_logprobs),
    )
    top_logprobs = chat.top_logprobs if chat.logprobs else None
    return ParsedRequest(request, chat.stream, bool(chat.stream_options.include_usage), top_logprobs)


AnyBody = TypeVar("AnyBody", bound=BaseModel)
AnyModelBody = TypeVar("AnyModelBody", bound=ModelBody)


def parse(kind: type[AnyBody], fields: Fields) -> AnyBody:
    """The fields as a body of this kind. Raises ApiError."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise validation_error(error) from None


def read_model(
    kind: type[AnyModelBody], body: bytes, models: Sequence[ModelStatus]
) -> tuple[ModelStatus, AnyModelBody]:
    """(the model that a body names, the body). Raises ApiError."""
    read = parse(kind, read_json(body))
    return find_model(models, read.model), read


def find_model(models: Sequence[ModelStatus], name: str) -> ModelStatus:
    """The model with this name, or with this last part of its name; the default for "". Raises ApiError."""
    for model in models:
        if name in ("", model.name, model.name.rstrip("/").rpartition("/")[2]):
            return model
    served = ", ".join(model.name for model in models)
    raise ApiError(
        404, f"The model {shorten(name)} is not served here. There is: {served}.", "model", "model_not_found"
    )


def _setting(name: str) -> str:
    return FIELD_ALIASES.get(name, name)


def read_json(body: bytes) -> Fields:
    """Parse a JSON object. Raises ApiError, also for NaN and Infinity, which Python's parser accepts."""
    constants: list[str] = []

    def note(word: str) -> float:
        constants.append(word)
        return float(word)

    try:
        fields = shallow_json.loads(body, parse_constant=note)
    except ValueError as error:
        raise ApiError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "The body must be a JSON object.")
    if constants:
        odd = (name for name, value in fields.items() if isinstance(value, float) and not math.isfinite(value))
        param = next(odd, "body")[:60]
        raise ApiError(400, f"{param}: {constants[0]} is no JSON.", param, "invalid_value")
    return fields


def _read_fields(body: bytes) -> Fields:
    """The fields of a body that have an effect. Raises ApiError for unknown and unsupported ones."""
    fields = read_json(body)
    if unknown := [name[:60] for name in fields if name not in KNOWN_FIELDS]:
        raise ApiError(400, f"Unknown: {', '.join(unknown[:10])}.", unknown[0], "unknown_parameter")
    present = {name: value for name, value in fields.items() if value is not None and name not in IGNORED_FIELDS}
    present = {name: value for name, value in present.items() if name in efforts.FIELDS or not _is_neutral(name, value)}
    if odd := next(
        (name for name in present if name in NEUTRAL_VALUES and name not in efforts.FIELDS | PENALTY_RANGE_FIELDS), None
    ):
        raise ApiError(400, f"{odd}: not supported, leave it out.", odd, "unsupported_parameter")
    return present


def _split(fields: Fields, names: Collection[str]) -> tuple[Fields, Fields]:
    """(the fields with these names, the other fields)."""
    selected = {name: value for name, value in fields.items() if name in names}
    return selected, {name: value for name, value in fields.items() if name not in names}


def _is_neutral(name: str, value: object) -> bool:
    return any(_same(value, neutral) for neutral in NEUTRAL_VALUES.get(name, ()))


def _check_penalty_range(penalty_range: Fields, settings: GenerationSettings) -> None:
    """Raises ApiError for a range of the repetition penalty, unless the penalty is off."""
    for name, value in penalty_range.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise ApiError(400, f"{name}: must be a whole number.", name, "invalid_value")
        if settings.repetition_penalty != 1:
            raise ApiError(
                400,
                f"{name}: the penalty looks back to the beginning here, leave it out.",
                name,
                "unsupported_parameter",
            )


def _same(value: object, other: object) -> bool:
    """Whether two values are equal in JSON, where true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _read_settings(sampling: Fields, defaults: GenerationSettings, thinking: Fields) -> GenerationSettings:
    """The settings of a reply. Without a cap of the request, model or operator it goes on until it is done."""
    values: Fields = {}
    field_of: dict[str, str] = {}
    for name, value in sampling.items():
        setting, normalized = _setting(name), normalize(_setting(name), value)
        if setting == "max_new_tokens" and _same(value, 0):
            raise ApiError(400, f"{name}: must be 1 or more; left out, or -1, is no limit.", name, "invalid_value")
        if setting in values and not _same(values[setting], normalized):
            if setting != "max_new_tokens" or not (type(normalized) is int is type(values[setting])):
                raise ApiError(400, f"{name}: differs from {field_of[setting]}, which means the same.", name)
            if (normalized or math.inf) > (values[setting] or math.inf):
                continue  # of two caps the lower one holds
        values[setting], field_of[setting] = normalized, name
    try:
        uncapped = {} if "max_new_tokens" in defaults.model_fields_set else {"max_new_tokens": 0}
        return GenerationSettings.from_values({**defaults.model_dump(), **uncapped, **values, **thinking})
    except SettingsError as error:
        name = field_of.get(error.field, error.field)
        raise ApiError(400, f"{name}: {error.args[1]}", name, "invalid_value") from None


def _check_generation_prompt(chat: ChatBody) -> None:
    """Raises ApiError if `add_generation_prompt` contradicts `continue_final_message`."""
    name = "add_generation_prompt"
    if chat.continue_final_message and chat.add_generation_prompt:
        raise ApiError(400, f"{name}: cannot be true where continue_final_message is.", name, "invalid_value")
    if not chat.continue_final_message and chat.add_generation_prompt is False:
        raise ApiError(
            400, f"{name}: false is only for continue_final_message, leave it out.", name, "unsupported_parameter"
        )


def validation_error(error: ValidationError) -> ApiError:
    """The first problem of a pydantic error as an ApiError that names the field."""
    problem = error.errors(include_url=False)[0]
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:60]}" for step in problem["loc"])[1:]
    return ApiError(400, f"{param}: {str(problem['msg']).removeprefix('Value error, ')}", param, "invalid_value")
