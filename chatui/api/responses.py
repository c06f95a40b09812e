"""Replies, models and errors in OpenAI's dialect. Knows no connection and no backend."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from chatui.chat import Finish, ModelStatus, ReplyDelta
from chatui.errors import ChatError, OverloadError, PromptError, SettingsError, TooLongError

ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

FOLDED = (
    "What came as content before was the model's thinking, which it did not announce: only what follows is the reply."
)

Fields = dict[str, Any]


class ApiError(ChatError):
    """A request that is refused: `param` is the field to blame, `code` is one of OpenAI's."""

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
    """Writes one reply as OpenAI would: in one body, or as server-sent events."""

    def __init__(self, model: str, include_usage: bool = False) -> None:
        self._include_usage = include_usage
        self._content = ""
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, deltas: Sequence[ReplyDelta]) -> Fields:
        """The body for a reply whose last delta carries its finish."""
        finish = deltas[-1].finish
        if finish is None:
            raise ValueError("the reply has no finish")
        message = {"role": "assistant", "content": "", "refusal": None, **_said(*_grown(deltas))}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(finish)}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(finish),
            "timings": _timings(finish),
            **_notes(deltas),
        }

    def opening(self) -> bytes:
        """The first event, which says who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, deltas: Sequence[ReplyDelta]) -> bytes:
        """Deltas as one event; as a comment, which clients skip, where they only tell how far the prompt is.

        Content that turns out to have been a thought cannot be taken back: it comes again as `reasoning_content`.
        """
        folds, notes = any(delta.reasoning_remainder is not None for delta in deltas), _notes(deltas)
        content, reasoning = _grown(deltas, self._content if folds else "")
        if folds and self._content:
            notes = {"notes": [*notes.get("notes", []), FOLDED]}
        self._content = content if folds else self._content + content
        if (said := _said(content, reasoning)) or notes:
            return self._chunk(said, **notes)
        last = deltas[-1] if deltas else ReplyDelta()
        if last.queue_position is not None:
            return b": place %d\n\n" % last.queue_position
        return b": read %d\n\n" % last.prefilled_tokens if last.prefilled_tokens is not None else b""

    def ending(self, finish: Finish) -> bytes:
        """The last events: why the reply ended, what it used where the client asked, and that it is over."""
        end = self._chunk({}, _reason(finish), timings=_timings(finish))
        if self._include_usage:
            end += _event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(finish)})
        return end + b"data: [DONE]\n\n"

    def failure(self, error: ChatError) -> bytes:
        """An error after the headers are gone."""
        return _event(describe_error(error)[1])

    def _chunk(self, delta: Fields, reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}
        if self._include_usage:
            chunk["usage"] = None
        return _event(chunk)


def describe_model(model: ModelStatus, created: int) -> Fields:
    """A model as /v1/models lists it; `max_model_len` is vLLM's name for its context.

    `weight_bytes` are those read for one token, which its speed can be measured against; `revision` is ModelInfo's.
    """
    described = {"id": model.name, "object": "model", "created": created, "owned_by": "chatui"}
    if model.info is None:
        return described
    return {
        **described,
        "max_model_len": model.info.context_length,
        "weight_bytes": model.info.read_bytes,
        "revision": model.info.revision,
    }


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
    """ASCII JSON: half a surrogate pair cannot break it, nor U+2028 a client that splits lines at it."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _event(value: Fields) -> bytes:
    return b"data: %b\n\n" % to_json(value)


def _grown(deltas: Sequence[ReplyDelta], text: str = "") -> tuple[str, str]:
    """The text and the reasoning that the deltas make of what came before."""
    reasoning = ""
    for delta in deltas:
        text, reasoning = delta.apply_to(text, reasoning)
    return text, reasoning


def _said(content: str, reasoning: str) -> dict[str, str]:
    return {name: text for name, text in (("reasoning_content", reasoning), ("content", content)) if text}


def _notes(deltas: Sequence[ReplyDelta]) -> Fields:
    """What the model's template could not take as it was sent, and what was done instead."""
    notes = [note for delta in deltas if delta.prompt is not None for note in delta.prompt.notes]
    return {"notes": notes} if notes else {}


def _reason(finish: Finish) -> str:
    return "length" if finish.reason == "length" else "stop"


def _usage(finish: Finish) -> Fields:
    return {
        "prompt_tokens": finish.prompt_tokens,
        "completion_tokens": finish.completion_tokens,
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": finish.cached_tokens},
    }


def _timings(finish: Finish) -> Fields:
    return {name: getattr(finish, name) for name in ("queue_seconds", "prefill_seconds", "decode_seconds", "seed")}
