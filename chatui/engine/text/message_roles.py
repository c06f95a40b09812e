"""Fits the roles of messages to what a chat template takes: folds, joins, and begins for the user."""

from collections.abc import Sequence
from dataclasses import replace

from chatui.chat import Message
from chatui.engine.text.chat_template import Template

OPENING = "[The conversation begins.]"
"""What a user says before the assistant's first message, where the template wants the user to begin."""


def fit_roles(template: Template, messages: Sequence[Message]) -> list[Message]:
    """Fold what the template refuses into users' messages, and join neighbours of one role where it asks for that."""
    kept = _without_empty(messages)
    if _opened(template, kept):
        first = next(index for index, message in enumerate(kept) if message.role != "system")
        kept.insert(first, Message("user", OPENING))
    fitted: list[Message] = []
    loose = False
    for index, message in enumerate(kept):
        folded = message.role == "system" and not (template.takes_later_system if index else template.takes_system)
        if folded:
            message = replace(message, role="user")
        joins = bool(fitted) and fitted[-1].role == message.role
        if joins and (template.needs_alternation or loose or (folded and message.role == "user")):
            fitted[-1] = replace(fitted[-1], content=f"{fitted[-1].content}\n\n{message.content}")
            loose = False
        else:
            fitted.append(message)
            loose = folded
    return fitted


def role_notes(template: Template, messages: Sequence[Message]) -> tuple[str, ...]:
    """What of these messages the template does not take as they are, and what was done instead."""
    messages = _without_empty(messages)
    notes = []
    if not template.takes_later_system and any(message.role == "system" for message in messages[1:]):
        notes.append(
            "This model takes no system message inside a conversation: it was put into the user's messages, where it "
            "stood."
        )
    first = next((message for message in messages if message.role != "system"), None)
    if first and first.role == "assistant" and _opened(template, messages):
        notes.append(
            f"This model wants the user to speak first: “{OPENING}” was put before the assistant's first message."
        )
    return tuple(notes)


def _opened(template: Template, messages: Sequence[Message]) -> bool:
    """Whether an assistant's first message needs one of the user's before it; a folded system message is one."""
    first = next((index for index, message in enumerate(messages) if message.role != "system"), 0)
    begins = bool(messages) and messages[first].role == "assistant"
    folded = (first > 1 and not template.takes_later_system) or (first == 1 and not template.takes_system)
    return begins and not template.takes_reply_first and not folded


def _without_empty(messages: Sequence[Message]) -> list[Message]:
    """The messages without empty system messages."""
    return [message for message in messages if message.role != "system" or message.content.strip()]
