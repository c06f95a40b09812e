"""Messages as clients of OpenAI's API send them, and the conversation that they make."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from chatui.api.accepted_fields import IGNORED_MESSAGE_FIELDS, IGNORED_PART_FIELDS, TEXT_PART_TYPES
from chatui.api.responses import ApiError
from chatui.chat import Message
from chatui.setting_values import shorten

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class ChatMessage(BaseModel):
    """A message as clients send it. What replies carry here or elsewhere may be sent back to us."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    reasoning_content: str = ""

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored_fields(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        present = {
            name: part for name, part in value.items() if part is not None and name not in IGNORED_MESSAGE_FIELDS
        }
        present = {name: part for name, part in present.items() if not _is_empty(part) or name == "content"}
        reasoning = present.pop("reasoning", None)
        if isinstance(reasoning, str):
            present.setdefault("reasoning_content", reasoning)
        elif reasoning is not None:
            present["reasoning_content"] = reasoning  # which it refuses
        if present.get("role") == "assistant" and not present.keys() - {"role", "reasoning_content"}:
            present["content"] = ""
        return present

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        for number, part in enumerate(value):
            kind = part.get("type") if isinstance(part, dict) else part
            if not isinstance(kind, str) or kind not in TEXT_PART_TYPES:
                raise ValueError(f'part {number} is {shorten(kind)}, and only "text" parts can be read')
            present = {name for name, value in part.items() if value is not None} - IGNORED_PART_FIELDS
            if present != {"type", "text"} or not isinstance(part["text"], str):
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


LastRole = Literal["user", "assistant"]


def conversation(messages: Sequence[ChatMessage], last_role: LastRole | None) -> tuple[Message, ...]:
    """The leading system messages joined into one, then the turns.

    Raises ApiError if they do not ask for a reply, the last one being of `last_role`; None is for messages that need
    not ask for one.
    """
    turns = [_message(message) for message in messages]
    leading = next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
    if last_role is not None:
        _check_asks(turns, last_role)
    persona = "\n\n".join(turn.content for turn in turns[:leading])
    return (Message("system", persona), *turns[leading:]) if leading else tuple(turns)


def _check_asks(turns: Sequence[Message], last_role: LastRole) -> None:
    questions = [turn for turn in turns if turn.role == "user"]
    last = turns[-1]
    if last.role != last_role == "assistant":
        raise ApiError(400, "messages: the last one must be an assistant's to be continued.", "messages")
    if last_role == "user" and (last.role == "assistant" or not last.content.strip()):
        raise ApiError(400, "messages: the last one must be a user's, and say something.", "messages")
    if not questions or not questions[-1].content.strip():
        raise ApiError(400, "messages: one must be a user's, and the last of those must say something.", "messages")


def _message(message: ChatMessage) -> Message:
    if message.role == "assistant":
        return Message("assistant", message.content, message.reasoning_content)
    return Message("user" if message.role == "user" else "system", message.content)


def _is_empty(value: object) -> bool:
    return value is False or value in ([], {}, "")
