"""Errors of servers, in all their forms, as errors of ours."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from chatui import shallow_json
from chatui.errors import ChatError, GenerationError, ModelError, OverloadError, PromptError, TooLongError

MAX_MESSAGE = 500
"""Characters of a server's own words that are shown."""
MAX_RETRY_SECONDS = 3600
TOO_LONG = re.compile(
    r"context.{0,20}(?:length|size|window)|maximum.{0,20}(?:context|tokens|length)|too (?:long|many tokens)"
    r"|exceeds?.{0,30}(?:context|limit)|must have less than|input.{0,20}too long",
    re.IGNORECASE,
)
REPLY_TOO_LONG = re.compile(r"max_(?:completion_|new_)?tokens\b.{0,40}(?:too large|at most|exceed)", re.IGNORECASE)
ROLES = re.compile(
    r"system role|roles? must alternate|conversation roles|only user|system message|raise_exception", re.I
)
PLACE = re.compile(r"\bbody\.(\w+)")
"""How pydantic names a field whose value is not taken."""
NO_THINKING = re.compile(r"does not support (?:thinking|reasoning)", re.IGNORECASE)
UNKNOWN_FIELD = re.compile(
    r"unexpected|unknown|unsupported|not supported|unrecognized|extra|not permitted|not allowed|no such|invalid param"
    r"|does not (?:support|take|accept)|cannot be",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ServerError:
    """An error as a server told it.

    `status` is that of HTTP, 200 within a stream. `kind` are its type and code. `param` is the field that it names.
    `retry_after` is in seconds. `limit` is the context in tokens, `tokens` those of the prompt, where it tells them.
    """

    status: int
    message: str
    kind: str = ""
    param: str = ""
    retry_after: int | None = None
    limit: int | None = None
    tokens: int | None = None

    @property
    def is_too_long(self) -> bool:
        """Whether the conversation does not fit the context."""
        told = "context_length" in self.kind or "exceed_context" in self.kind
        return self.status in (200, 400, 413, 422, 500) and (told or bool(TOO_LONG.search(self.message)))

    @property
    def is_reply_too_long(self) -> bool:
        """Whether it is the limit of the reply's tokens that does not fit."""
        return bool(REPLY_TOO_LONG.search(self.message)) or (self.is_too_long and self.param.startswith("max_"))

    @property
    def is_about_roles(self) -> bool:
        """Whether the chat template does not take the roles of the messages."""
        return self.status in (400, 422, 500) and bool(ROLES.search(self.message))

    @property
    def is_busy(self) -> bool:
        """Whether the server would answer later: it is overloaded, or its model is loading."""
        if "insufficient_quota" in self.kind:
            return False
        return self.status == 429 or (
            self.status == 503 and (self.retry_after is not None or "load" in self.message.lower())
        )

    @property
    def is_outage(self) -> bool:
        """Whether another server might answer at once."""
        return self.status in (500, 502, 503, 504) and not self.is_too_long and not self.is_about_roles

    @property
    def is_about_a_name(self) -> bool:
        """Whether it is a field that is not taken, not the value in it."""
        return bool(UNKNOWN_FIELD.search(self.message))

    def refused_field(self, sent: Mapping[str, Any]) -> str:
        """The field of those `sent` that the server does not take, or not with this value; "" if it names none."""
        if self.status not in (400, 422):
            return ""
        if self.param in sent and self.param not in ("messages", "model", "stream"):
            return self.param
        if (
            (place := PLACE.search(self.message))
            and place[1] in sent
            and place[1] not in ("messages", "model", "stream")
        ):
            return place[1]
        if NO_THINKING.search(self.message):
            return next((name for name in ("reasoning_effort", "chat_template_kwargs") if name in sent), "")
        if not self.is_about_a_name:
            return ""
        optional = (name for name in sent if name not in ("messages", "model", "stream"))
        return next((name for name in optional if re.search(rf"\b{re.escape(name)}\b", self.message)), "")

    def as_chat_error(self, backend: str) -> ChatError:
        """The error that users see."""
        said = f"{backend} says: {self.message}" if self.message else f"{backend} answered with status {self.status}."
        if self.is_too_long:
            return TooLongError(said, "Begin a new chat, or choose a model with a longer context.")
        if self.status in (401, 403):
            return ModelError(f"{backend} does not accept this server's key.", "Its operator must set another one.")
        if self.status == 404:
            return ModelError(said, "Choose another model; the operator may have to start it.")
        if self.is_busy:
            return OverloadError(said, "Try again in a while.", retry_after=self.retry_after or 10)
        if self.status in (200, 400, 413, 415, 422):
            return PromptError(said) if self.status != 200 else GenerationError(said, "Try again.")
        return ModelError(said, "Try again in a while.")


def read_error(status: int, body: bytes | str, headers: Mapping[str, str] | None = None) -> ServerError:
    """The error in a response: nested, flat, a string, `detail`, or a page of a proxy."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    try:
        value = shallow_json.loads(text)
    except ValueError:
        plain = " ".join(re.sub(r"<(style|script|title)\b.*?</\1>|<[^>]*>", " ", text, flags=re.I | re.S).split())
        value = plain
    return error_of(value, status, _retry_after(headers or {}))


def error_of(value: Any, status: int = 200, retry_after: int | None = None) -> ServerError:
    """The error in the JSON of a body or an event."""
    error = (value.get("error") or value) if isinstance(value, dict) else value
    if not isinstance(error, dict):
        kind = str(value.get("error_type", "")) if isinstance(value, dict) else ""
        return ServerError(status, _short(error), kind, retry_after=retry_after)
    message, param = error.get("message"), error.get("param")
    if message is None and "detail" in error:
        message, param = _detail(error["detail"])
    kind = " ".join(str(error[name]) for name in ("type", "code", "error_type") if error.get(name) is not None)
    code = error.get("code")
    if status == 200 and isinstance(code, int) and 400 <= code < 600:
        status = code
    limit, tokens = (error.get(name) for name in ("n_ctx", "n_prompt_tokens"))
    return ServerError(
        status,
        _short(message if message is not None else error),
        kind,
        param if isinstance(param, str) else "",
        retry_after,
        limit if isinstance(limit, int) else None,
        tokens if isinstance(tokens, int) else None,
    )


def _detail(detail: Any) -> tuple[Any, str]:
    """(message, field) of FastAPI's `detail`, which is a text or a list of pydantic's errors."""
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        place = [str(part) for part in detail[0].get("loc", ()) if part != "body"]
        return f"{'.'.join(place)}: {detail[0].get('msg', '')}", place[0] if place else ""
    return detail, ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(whole_characters(text)[0].split())
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def whole_characters(text: str, unfinished: bool = False) -> tuple[str, str]:
    """(the text without halves of surrogate pairs, the half at its end if the text is `unfinished`).

    JSON can escape the two halves of a character in two pieces of a reply.
    """
    if text.isascii():
        return text, ""
    held = text[-1:] if unfinished and "\ud800" <= text[-1:] <= "\udbff" else ""
    text = text[: len(text) - len(held)]
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), held


def _retry_after(headers: Mapping[str, str]) -> int | None:
    """Seconds that a Retry-After header asks to wait: it has a number or a date."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return int(min(max(seconds, 0), MAX_RETRY_SECONDS)) if seconds == seconds else None
