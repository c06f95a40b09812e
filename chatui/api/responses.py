"""Serializes replies, models and errors in OpenAI's format. Knows no connection and no backend."""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chatui.chat import Finish, ModelStatus, ReplyDelta, State
from chatui.errors import ChatError, OverloadError, PromptError, SettingsError, TooLongError

ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

STATE_VALUES: Mapping[State, str] = {"ready": "loaded", "failed": "unloaded"}

RECLASSIFIED = (
    "What came as content before was the model's thinking, which it did not announce: only what follows is the reply."
)

ENCODER = json.JSONEncoder(separators=(",", ":"))

Fields = dict[str, Any]
ReadLogprobs = Callable[[Sequence[ReplyDelta]], Fields | None]


class ApiError(ChatError):
    """A refused request. `param` is the field that caused it, `code` one of OpenAI's error codes."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers or {}


class ChatCompletionWriter:
    """Serializes one reply in OpenAI's format, as one body or as server-sent events."""

    def __init__(self, model: str, include_usage: bool = False, read_logprobs: ReadLogprobs | None = None) -> None:
        """`read_logprobs` is LogprobsReader.read, if the client asked for log probabilities."""
        self._include_usage = include_usage
        self._read_logprobs = read_logprobs
        self._content: list[str] = []
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        # Nearly all chunks differ in their delta only.
        self._around_delta = self._full_chunk({}).rpartition(b"{}")[::2]

    @property
    def has_logprobs(self) -> bool:
        """Whether the client asked for log probabilities."""
        return self._read_logprobs is not None

    def completion(self, deltas: Sequence[ReplyDelta]) -> Fields:
        """The body of a complete reply. Raises ValueError if the last delta has no finish."""
        finish = deltas[-1].finish
        if finish is None:
            raise ValueError("the reply has no finish")
        message = {"role": "assistant", "content": "", "refusal": None, **_message_fields(*_applied(deltas))}
        logprobs = self._logprobs(deltas)
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": _reason(finish)}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(finish),
            "timings": _timings(finish),
            **_notes(deltas),
        }

    def first_event(self) -> bytes:
        """The first event of a stream, with the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def delta_event(self, deltas: Sequence[ReplyDelta]) -> bytes:
        """The event for these deltas; an SSE comment, which clients skip, if they only have the prefill's progress.

        Content that turns out to be reasoning cannot be taken back, so it is sent again as `reasoning_content`.
        """
        reclassified, notes = any(delta.reasoning_remainder is not None for delta in deltas), _notes(deltas)
        written = "".join(self._content) if reclassified else ""
        content, reasoning = _applied(deltas, written)
        if written:
            notes = {"notes": [*notes.get("notes", []), RECLASSIFIED]}
        if reclassified:
            self._content.clear()
        self._content.append(content)
        logprobs = self._logprobs(deltas)
        if (message_fields := _message_fields(content, reasoning)) or notes or logprobs:
            more = notes if logprobs is None else {"logprobs": logprobs, **notes}
            return self._chunk(message_fields, **more)
        last = deltas[-1] if deltas else ReplyDelta()
        if last.queue_position is not None:
            return b": place %d\n\n" % last.queue_position
        return b": read %d\n\n" % last.prefilled_tokens if last.prefilled_tokens is not None else b""

    def last_events(self, finish: Finish) -> bytes:
        """The last events of a stream: finish reason, usage if the client asked for it, and [DONE]."""
        end = self._full_chunk({}, _reason(finish), timings=_timings(finish))
        if self._include_usage and (usage := _usage(finish)):
            end += _event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        return end + b"data: [DONE]\n\n"

    def error_event(self, error: ChatError) -> bytes:
        """The event for an error after the response has started."""
        return _event(describe_error(error)[1])

    def _logprobs(self, deltas: Sequence[ReplyDelta]) -> Fields | None:
        return self._read_logprobs(deltas) if self._read_logprobs else None

    def _chunk(self, delta: Fields, **more: Any) -> bytes:
        """The event of a chunk. `more` are fields of `_full_chunk`, which are not like those of most chunks."""
        if more:
            return self._full_chunk(delta, **more)
        before, after = self._around_delta
        return b"%b%b%b" % (before, to_json(delta), after)

    def _full_chunk(
        self, delta: Fields, reason: str | None = None, logprobs: Fields | None = None, **more: Any
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}
        if self._include_usage:
            chunk["usage"] = None
        return _event(chunk)


def describe_model(model: ModelStatus, created: int) -> Fields:
    """A model as /v1/models lists it. `max_model_len` is vLLM's name for the context length.

    `weight_bytes` is ModelInfo.read_bytes, the bytes read for one token. What a server does not tell is left out.
    """
    described = {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": "chatui",
        "status": describe_state(model),
    }
    if model.info is None:
        return described
    facts = {
        "max_model_len": model.info.context_length,
        "weight_bytes": model.info.read_bytes,
        "revision": model.info.revision,
    }
    return {**described, **{name: value for name, value in facts.items() if value or model.info.server is None}}


def describe_state(model: ModelStatus) -> Fields:
    """The state of a model in the words of llama.cpp's router: a failed one is "unloaded", with `failed`.

    https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    """
    state: Fields = {"value": STATE_VALUES.get(model.state, model.state)}
    if model.error is not None:
        return {**state, "failed": True, "error": str(model.error)}
    return {**state, "progress": {"stage": model.phase}} if model.phase else state


def model_event(name: str, state: Fields, changed: bool) -> bytes:
    """The server-sent event for the state of a model."""
    data = {("status" if field == "value" else field): value for field, value in state.items()}
    return _event({"model": name, "event": "status_change" if changed else "model_status", "data": data})


def describe_error(error: ChatError) -> tuple[int, Fields, dict[str, str]]:
    """(HTTP status, body, headers) of an error."""
    status = 400 if isinstance(error, SettingsError) else error.status
    param, code, headers = None, None, {}
    if isinstance(error, ApiError):
        param, code, headers = error.param, error.code, dict(error.headers)
    elif isinstance(error, SettingsError):
        param = error.field
    elif isinstance(error, PromptError):
        param = "messages"
        code = "context_length_exceeded" if isinstance(error, TooLongError) else None
    elif isinstance(error, OverloadError):
        code, headers = "rate_limit_exceeded", {"Retry-After": str(error.retry_after)}
    kind = ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": str(error), "type": kind, "param": param, "code": code}}, headers


def to_json(value: Fields) -> bytes:
    """JSON in ASCII, so that neither unpaired surrogates nor U+2028 (a line end to some clients) break the stream."""
    return ENCODER.encode(value).encode("ascii")


def _event(value: Fields) -> bytes:
    return b"data: %b\n\n" % to_json(value)


def _applied(deltas: Sequence[ReplyDelta], text: str = "") -> tuple[str, str]:
    """(text, reasoning) after the deltas are applied to `text`."""
    reasoning = ""
    for delta in deltas:
        text, reasoning = delta.apply_to(text, reasoning)
    return text, reasoning


def _message_fields(content: str, reasoning: str) -> dict[str, str]:
    return {name: text for name, text in (("reasoning_content", reasoning), ("content", content)) if text}


def _notes(deltas: Sequence[ReplyDelta]) -> Fields:
    """The field with the prompts' notes, about messages that the chat template could not take as they were sent."""
    notes = [note for delta in deltas if delta.prompt is not None for note in delta.prompt.notes]
    return {"notes": [*dict.fromkeys(notes)]} if notes else {}


def _reason(finish: Finish) -> str:
    return "length" if finish.reason == "length" else "stop"


def _usage(finish: Finish) -> Fields | None:
    """None where the tokens of the prompt are not known: clients need whole numbers, and 0 would not be true."""
    if finish.told_prompt_tokens is None:
        return None
    cached = finish.told_cached_tokens
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": None if cached is None else {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": finish.reasoning_tokens},
    }


def _timings(finish: Finish) -> Fields:
    return {name: getattr(finish, name) for name in ("queue_seconds", "prefill_seconds", "decode_seconds", "seed")}
