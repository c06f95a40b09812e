"""Generates /v1/openapi.json from the routes, the pydantic models of requests, and those of responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from chatui import __version__
from chatui.api import efforts, schemas
from chatui.api.accepted_fields import (
    FIELD_ALIASES,
    IGNORED_FIELDS,
    IGNORED_MESSAGE_FIELDS,
    IGNORED_PART_FIELDS,
    NEUTRAL_VALUES,
    PENALTY_RANGE_FIELDS,
    SCHEMA_CHANGES,
    TEXT_PART_TYPES,
)
from chatui.api.requests import ChatBody, LoadBody, ModelBody
from chatui.api.responses import Fields
from chatui.api.tokenize_requests import DetokenizeBody, TokenizeMessages, TokenizeText
from chatui.generation_settings import GenerationSettings

SCHEMA_REF = "#/components/schemas/{model}"
RESPONSE_MODELS: tuple[type[BaseModel], ...] = (
    schemas.ModelList,
    schemas.ModelEvent,
    schemas.Accepted,
    schemas.ChatCompletion,
    schemas.ChatCompletionChunk,
    schemas.TokenizeResponse,
    schemas.DetokenizeResponse,
    schemas.ErrorResponse,
)
SECURITY_SCHEME = "key"
DESCRIPTION = (
    "Chat completions and models in OpenAI's dialect. A field that is null is as if left out; a field that asks for "
    "something this server does not do is refused by name, and one that asks for nothing is accepted."
)
ERROR_DESCRIPTIONS = {
    "400": "The request cannot be done as it is; `param` is the field to blame. Besides what the schema says: the last "
    "message must be a user's that says something, or with `continue_final_message` an assistant's; two spellings of "
    "one setting must agree; the messages must fit into the model's context.",
    "401": "The server has a key, and it was not sent.",
    "403": "The server has no key and serves this computer only, or the request comes from another site's page.",
    "404": "No model is served under this name.",
    "408": "The body came too slowly.",
    "413": "The body has too many bytes or values.",
    "415": "The body is not JSON, or compressed in a way that cannot be read.",
    "429": "Too many requests wait, or too many wrong keys were sent; Retry-After says for how many seconds.",
    "500": "The model failed, or the server did.",
    "503": "The model is loading or could not be loaded, or too many large bodies come in at once.",
}
EFFORT_DESCRIPTION = "How much the model thinks; what else is taken depends on the model."
PENALTY_RANGE_DESCRIPTION = "How far back the repetition penalty looks; any whole number where that penalty is 1."
RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


@dataclass(frozen=True)
class _Operation:
    """The description of a route. `answer` has the schema of a successful response by media type."""

    summary: str
    answer: Mapping[str, Fields]
    refusals: frozenset[str]
    body: str = ""


def _ref(model: type[BaseModel]) -> Fields:
    return {"$ref": SCHEMA_REF.format(model=model.__name__)}


EVENT_SCHEMA: Fields = {
    "type": "object",
    "properties": {
        "data": {
            "anyOf": [
                {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": {"anyOf": [_ref(schemas.ChatCompletionChunk), _ref(schemas.ErrorResponse)]},
                },
                {"const": "[DONE]"},
            ],
            "description": "A ChatCompletionChunk, or an ErrorResponse that ends the stream; at last `[DONE]`.",
        }
    },
}
MODEL_EVENT_SCHEMA: Fields = {
    "type": "object",
    "properties": {
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": _ref(schemas.ModelEvent),
        }
    },
}
ALL_ERRORS = frozenset(ERROR_DESCRIPTIONS)
ERRORS_BUT_404 = ALL_ERRORS - {"404"}
OPERATIONS = {
    "/openapi.json": _Operation("This description.", {"application/json": {"type": "object"}}, ERRORS_BUT_404),
    "/models": _Operation("The models that are served.", {"application/json": _ref(schemas.ModelList)}, ERRORS_BUT_404),
    "/models/load": _Operation(
        "Begin to load a model, or to load it otherwise.",
        {"application/json": _ref(schemas.Accepted)},
        ALL_ERRORS,
        body="LoadBody",
    ),
    "/models/unload": _Operation(
        "Unload a model once its replies have ended.",
        {"application/json": _ref(schemas.Accepted)},
        ALL_ERRORS,
        body="ModelBody",
    ),
    "/models/sse": _Operation(
        "The state of each model, and every change of it, as events without an end.",
        {"text/event-stream": MODEL_EVENT_SCHEMA},
        ERRORS_BUT_404,
    ),
    "/models/{name}": _Operation("One of them.", {"application/json": _ref(schemas.Model)}, ALL_ERRORS),
    "/metrics": _Operation(
        "Metrics for Prometheus, in the format that the Accept header asks for. Served as /metrics beside /v1, too.",
        {"text/plain": {"type": "string"}, "application/openmetrics-text": {"type": "string"}},
        ERRORS_BUT_404,
    ),
    "/tokenize": _Operation(
        "The tokens of a text or of a prompt. Served as /tokenize beside /v1, too.",
        {"application/json": _ref(schemas.TokenizeResponse)},
        ALL_ERRORS,
        body="TokenizeBody",
    ),
    "/detokenize": _Operation(
        "The text of tokens. Served as /detokenize beside /v1, too.",
        {"application/json": _ref(schemas.DetokenizeResponse)},
        ALL_ERRORS,
        body="DetokenizeBody",
    ),
    "/chat/completions": _Operation(
        "The reply to a conversation: whole, or with `stream` as events while it is being written.",
        {"application/json": _ref(schemas.ChatCompletion), "text/event-stream": EVENT_SCHEMA},
        ALL_ERRORS,
        body="ChatBody",
    ),
}


def document(routes: Sequence[Route], root: str, has_key: bool) -> Fields:
    """The OpenAPI document of these routes below the path `root`."""
    paths: Fields = {}
    for route in routes:
        path = route.path_format
        operation = OPERATIONS[path.rstrip("/")]
        methods = {method.lower(): _operation_schema(operation, path, method) for method in sorted(route.methods or ())}
        paths[path] = methods
    components: Fields = {"schemas": _schemas(), "responses": {code: _refusal(code) for code in ERROR_DESCRIPTIONS}}
    description: Fields = {
        "openapi": "3.1.0",
        "info": {"title": "chatui", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": root}],
        "paths": paths,
        "components": components,
    }
    if has_key:
        components["securitySchemes"] = {SECURITY_SCHEME: {"type": "http", "scheme": "bearer"}}
        description["security"] = [{SECURITY_SCHEME: []}]
    return description


def _operation_schema(operation: _Operation, path: str, method: str) -> Fields:
    success: Fields = {"description": operation.summary}
    if method != "HEAD":
        success["content"] = {kind: {"schema": schema} for kind, schema in operation.answer.items()}
    refusals = {code: {"$ref": f"#/components/responses/{code}"} for code in sorted(operation.refusals)}
    if method == "HEAD":
        refusals = {code: {"description": ERROR_DESCRIPTIONS[code]} for code in sorted(operation.refusals)}
    described: Fields = {"summary": operation.summary, "responses": {"200": success, **refusals}}
    if "{name}" in path:
        described["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    if operation.body:
        schema = {"$ref": SCHEMA_REF.format(model=operation.body)}
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _refusal(code: str) -> Fields:
    response: Fields = {
        "description": ERROR_DESCRIPTIONS[code],
        "content": {"application/json": {"schema": _ref(schemas.ErrorResponse)}},
    }
    return {**response, "headers": RETRY_AFTER} if code in ("429", "503") else response


def _schemas() -> Fields:
    """The schemas of responses, by pydantic, and of the body, with all that its validators accept besides."""
    _, answers = models_json_schema([(model, "serialization") for model in RESPONSE_MODELS], ref_template=SCHEMA_REF)
    body = ChatBody.model_json_schema(ref_template=SCHEMA_REF)
    models: Fields = {**answers["$defs"], **body.pop("$defs")}
    models["ModelBody"] = ModelBody.model_json_schema(ref_template=SCHEMA_REF)
    models["LoadBody"] = LoadBody.model_json_schema(ref_template=SCHEMA_REF)
    models["ChatMessage"] = _message(models["ChatMessage"])
    for kind in (TokenizeText, TokenizeMessages, DetokenizeBody):
        models[kind.__name__] = _nulls_left_out(kind.model_json_schema(ref_template=SCHEMA_REF))
    models["TokenizeBody"] = {"anyOf": [_ref(TokenizeText), _ref(TokenizeMessages)]}
    settings = GenerationSettings.model_json_schema()["properties"]
    sampling = {
        name: _nullable(_without_default({**schema, **SCHEMA_CHANGES.get(name, {})}))
        for name, schema in settings.items()
    }
    properties = {
        name: _nullable(_without_default(schema)) for name, schema in body["properties"].items() if name != "messages"
    }
    body["properties"] = {
        "messages": body["properties"]["messages"],
        **properties,
        **sampling,
        **{alias: {**sampling[name], "description": f"The same as {name}."} for alias, name in FIELD_ALIASES.items()},
        **{name: _neutral(values) for name, values in NEUTRAL_VALUES.items()},
        **{
            name: {**_neutral(NEUTRAL_VALUES[name]), "description": EFFORT_DESCRIPTION}
            for name in sorted(efforts.FIELDS & NEUTRAL_VALUES.keys())
        },
        **{
            name: {**_neutral(NEUTRAL_VALUES[name]), "description": PENALTY_RANGE_DESCRIPTION}
            for name in sorted(PENALTY_RANGE_FIELDS)
        },
        **{name: {"description": "Accepted; it changes no reply."} for name in sorted(IGNORED_FIELDS)},
    }
    body["allOf"] = _conditions()
    models["ChatBody"] = body
    return models


def _nulls_left_out(schema: Fields) -> Fields:
    """The schema of a body whose fields may be null instead of left out."""
    required = schema["required"]
    properties = {
        name: part if name in required else _nullable(_without_default(part))
        for name, part in schema["properties"].items()
    }
    return {name: part for name, part in schema.items() if name != "$defs"} | {"properties": properties}


def _conditions() -> list[Fields]:
    """What a body must fulfil that concerns several fields."""
    continued = {"continue_final_message": {"const": True}, "add_generation_prompt": {"enum": [False, None]}}
    new = {"continue_final_message": {"enum": [False, None]}, "add_generation_prompt": {"enum": [True, None]}}
    with_logprobs = {"properties": {"logprobs": {"const": True}}, "required": ["logprobs"]}
    return [
        {"anyOf": [{"properties": continued, "required": ["continue_final_message"]}, {"properties": new}]},
        {"anyOf": [with_logprobs, {"properties": {"top_logprobs": {"enum": [0, None]}}}]},
    ]


def _message(schema: Fields) -> Fields:
    """The schema of what ChatMessage's validators accept: contents of parts, and ignored fields."""
    part = {
        "type": "object",
        "properties": {
            "type": {"enum": sorted(TEXT_PART_TYPES)},
            "text": {"type": "string"},
            **{name: {} for name in sorted(IGNORED_PART_FIELDS)},
        },
        "required": ["type", "text"],
        "additionalProperties": False,
    }
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": part}]}
    thought = {"anyOf": [{"type": "string"}, {"enum": [None, [], {}, False]}]}
    return {
        "type": "object",
        "description": schema["description"],
        "properties": {
            "role": schema["properties"]["role"],
            "content": _nullable(content),
            "reasoning_content": thought,
            "reasoning": {**thought, "description": "The same as reasoning_content."},
            **{name: {} for name in sorted(IGNORED_MESSAGE_FIELDS)},
        },
        "required": ["role"],
        "anyOf": [
            {"properties": {"content": content}, "required": ["content"]},
            {"properties": {"role": {"const": "assistant"}, "content": {"type": "null"}}},
        ],
        "additionalProperties": {"enum": [None, [], {}, "", False]},
    }


def _without_default(schema: Fields) -> Fields:
    """The schema without the default, which depends on the model, and the title and step, which are for the page."""
    removed = ("default", "title", "step")
    return {name: value for name, value in schema.items() if name not in removed and value is not None}


def _nullable(schema: Fields) -> Fields:
    if any(option.get("type") == "null" for option in schema.get("anyOf", ())):
        return schema
    annotations = {name: schema[name] for name in ("description",) if name in schema}
    types = {name: value for name, value in schema.items() if name not in annotations}
    return {**annotations, "anyOf": [types, {"type": "null"}]}


def _neutral(values: Sequence[Any]) -> Fields:
    return {"enum": [*values, None], "description": "Not done here: only what asks for nothing is accepted."}
