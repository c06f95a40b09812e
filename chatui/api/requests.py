"""Requests in OpenAI's dialect -> ChatRequest. The ranges of sampling fields are those of GenerationSettings."""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from chatui.api import efforts
from chatui.api.accepted_fields import (
    MESSAGE_WITHOUT_EFFECT,
    NEUTRAL,
    PART_WITHOUT_EFFECT,
    PENALIZED,
    SPELLINGS,
    TEXT_PARTS,
    WITHOUT_EFFECT,
    accepted,
)
from chatui.api.responses import ApiError, Fields
from chatui.chat import ChatRequest, Message, ModelStatus
from chatui.errors import SettingsError
from chatui.setting_values import shorten
from chatui.settings import GenerationSettings

MAX_MESSAGES = 10_000
"""Messages."""

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class ChatMessage(BaseModel):
    """A message as clients send it. What replies carry here or elsewhere may be sent back to us."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    reasoning_content: str = ""

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        given = {name: part for name, part in value.items() if part is not None and name not in MESSAGE_WITHOUT_EFFECT}
        given = {name: part for name, part in given.items() if not _says_nothing(part) or name == "content"}
        thought = given.pop("reasoning", None)
        if isinstance(thought, str):
            given.setdefault("reasoning_content", thought)
        elif thought is not None:
            given["reasoning_content"] = thought  # which it refuses
        if given.get("role") == "assistant" and not given.keys() - {"role", "reasoning_content"}:
            given["content"] = ""
        return given

    @field_validator("content", mode="before")
    @classmethod
    def _parts_joined(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        for number, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else part
            if not isinstance(kind, str) or kind not in TEXT_PARTS:
                raise ValueError(f'part {number} is {shorten(kind)}, and only "text" parts can be read')
            told = {name for name, given in part.items() if given is not None} - PART_WITHOUT_EFFECT
            if told != {"type", "text"} or not isinstance(part["text"], str):
                raise ValueError(f"part {number} must have a type, a text and nothing else")
        return "\n".join(part["text"] for part in value)

    @field_validator("content", "reasoning_content")
    @classmethod
    def _is_unicode(cls, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("half a surrogate pair is no text") from None
        return value


class StreamOptions(BaseModel):
    """How a stream is written; `include_obfuscation` asks for padding, without which the reply is the same."""

    model_config = STRICT

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: Literal[False] | None = None


class ChatBody(BaseModel):
    """The body of POST /v1/chat/completions but for the sampling fields, which GenerationSettings checks.

    With `continue_final_message` the reply goes on where the last message, an assistant's, ends. As in vLLM,
    `add_generation_prompt` may then not be true.
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


@dataclass(frozen=True)
class ParsedRequest:
    """What a body asks for: the request for the backend, and how the client wants the reply."""

    request: ChatRequest
    stream: bool
    include_usage: bool


KNOWN = {*ChatBody.model_fields, *GenerationSettings.model_fields, *SPELLINGS, *NEUTRAL, *WITHOUT_EFFECT}


def read_chat(body: bytes, models: Sequence[ModelStatus], caller: str, trusts_user: bool) -> ParsedRequest:
    """The request in a body; null is the same as left out, and what is left out is the model's default.

    `caller` is who asks; with `trusts_user` the request's `user` tells its own users apart. Raises ApiError.
    """
    try:
        fields = _read_fields(body)
        wishes, fields = _apart(fields, efforts.FIELDS)
        reach, fields = _apart(fields, PENALIZED)
        sampling = {name: value for name, value in fields.items() if _setting(name) in GenerationSettings.model_fields}
        chat = ChatBody.model_validate({name: value for name, value in fields.items() if name not in sampling})
        model = find_model(models, chat.model)
        efforts.check(wishes, model.info)
        defaults = model.info.defaults if model.info else GenerationSettings()
        settings = _read_settings(sampling, defaults)
        _check_reach(reach, settings)
    except ValidationError as error:
        raise _refusal(error) from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.") from None
    _check_beginning(chat)
    user = f"{caller}:{chat.user}" if trusts_user and chat.user else caller
    request = ChatRequest(
        _conversation(chat.messages, "assistant" if chat.continue_final_message else "user"),
        settings,
        model.name,
        user,
        no_truncation=True,
        ignore_eos=chat.ignore_eos,
    )
    return ParsedRequest(request, chat.stream, bool(chat.stream_options.include_usage))


def find_model(models: Sequence[ModelStatus], name: str) -> ModelStatus:
    """The model served under this name or its last part; the default where there is no name. Raises ApiError."""
    for model in models:
        if name in ("", model.name, model.name.rstrip("/").rpartition("/")[2]):
            return model
    served = ", ".join(model.name for model in models)
    raise ApiError(
        404, f"The model {shorten(name)} is not served here. There is: {served}.", "model", "model_not_found"
    )


def _setting(name: str) -> str:
    return SPELLINGS.get(name, name)


def _read_json(body: bytes) -> Fields:
    """A JSON object; Python would take NaN and Infinity too."""
    constants: list[str] = []

    def note(word: str) -> float:
        constants.append(word)
        return float(word)

    try:
        fields = json.loads(body, parse_constant=note)
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
    """The fields of a body that are given and do something."""
    fields = _read_json(body)
    if unknown := [name[:60] for name in fields if name not in KNOWN]:
        raise ApiError(400, f"Unknown: {', '.join(unknown[:10])}.", unknown[0], "unknown_parameter")
    given = {name: value for name, value in fields.items() if value is not None and name not in WITHOUT_EFFECT}
    given = {name: value for name, value in given.items() if not _is_neutral(name, value)}
    if odd := next((name for name in given if name in NEUTRAL and name not in efforts.FIELDS | PENALIZED), None):
        raise ApiError(400, f"{odd}: not supported, leave it out.", odd, "unsupported_parameter")
    return given


def _apart(fields: Fields, names: Collection[str]) -> tuple[Fields, Fields]:
    """The fields of these names, and the others."""
    found = {name: value for name, value in fields.items() if name in names}
    return found, {name: value for name, value in fields.items() if name not in names}


def _is_neutral(name: str, value: object) -> bool:
    return any(_same(value, neutral) for neutral in NEUTRAL.get(name, ()))


def _says_nothing(value: object) -> bool:
    return value is False or value in ([], {}, "")


def _check_reach(reach: Fields, settings: GenerationSettings) -> None:
    """Refuse that the repetition penalty looks back only so far. Raises ApiError."""
    for name, value in reach.items():
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
    """Whether they are the same in JSON, where true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _read_settings(sampling: Fields, defaults: GenerationSettings) -> GenerationSettings:
    values: Fields = {}
    spelled: dict[str, str] = {}
    for name, value in sampling.items():
        setting, meant = _setting(name), accepted(_setting(name), value)
        if setting in values and not _same(values[setting], meant):
            if setting != "max_new_tokens" or not (type(meant) is int is type(values[setting])):
                raise ApiError(400, f"{name}: differs from {spelled[setting]}, which means the same.", name)
            if meant > values[setting]:
                continue  # of two caps the lower one holds
        values[setting], spelled[setting] = meant, name
    try:
        return GenerationSettings.checked({**defaults.model_dump(), **values})
    except SettingsError as error:
        name = spelled.get(error.field, error.field)
        raise ApiError(400, f"{name}: {error.args[1]}", name, "invalid_value") from None


def _check_beginning(chat: ChatBody) -> None:
    """Refuse what `add_generation_prompt` may not say: a reply begins anew, or goes on. Raises ApiError."""
    name = "add_generation_prompt"
    if chat.continue_final_message and chat.add_generation_prompt:
        raise ApiError(400, f"{name}: cannot be true where continue_final_message is.", name, "invalid_value")
    if not chat.continue_final_message and chat.add_generation_prompt is False:
        raise ApiError(
            400, f"{name}: false is only for continue_final_message, leave it out.", name, "unsupported_parameter"
        )


def _conversation(messages: Sequence[ChatMessage], last_role: Literal["user", "assistant"]) -> tuple[Message, ...]:
    """The leading system messages as one, then the turns; who the last one must be from is said. Raises ApiError."""
    turns = [_message(message) for message in messages]
    leading = next((place for place, turn in enumerate(turns) if turn.role != "system"), len(turns))
    asked = [turn for turn in turns if turn.role == "user"]
    last = turns[-1]
    if last.role != last_role == "assistant":
        raise ApiError(400, "messages: the last one must be an assistant's to be continued.", "messages")
    if last_role == "user" and (last.role == "assistant" or not last.content.strip()):
        raise ApiError(400, "messages: the last one must be a user's, and say something.", "messages")
    if not asked or not asked[-1].content.strip():
        raise ApiError(400, "messages: one must be a user's, and the last of those must say something.", "messages")
    persona = "\n\n".join(turn.content for turn in turns[:leading])
    return (Message("system", persona), *turns[leading:]) if leading else tuple(turns)


def _message(message: ChatMessage) -> Message:
    if message.role == "assistant":
        return Message("assistant", message.content, message.reasoning_content)
    return Message("user" if message.role == "user" else "system", message.content)


def _refusal(error: ValidationError) -> ApiError:
    """The first problem of a pydantic error."""
    problem = error.errors(include_url=False)[0]
    param = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:60]}" for step in problem["loc"])[1:]
    return ApiError(400, f"{param}: {str(problem['msg']).removeprefix('Value error, ')}", param, "invalid_value")
