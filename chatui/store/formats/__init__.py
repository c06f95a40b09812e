"""Conversations of other programs, by the shape of their files: one module for each, all of them in one table.

A module has `matches`, whether a JSON value is a conversation of that program, and `conversation`, which makes a tree
of it. What cannot be read of it is counted in `skipped`; TransferError is raised where nothing can be.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from chatui.store.formats import (
    chat_ui,
    chatgpt,
    claude,
    deepseek,
    gemini,
    grok,
    librechat,
    llama_cpp,
    lm_studio,
    messages,
    open_webui,
    sharegpt,
    sillytavern,
    text_generation_webui,
)
from chatui.store.formats.common import Skipped
from chatui.store.records import Tree


@dataclass(frozen=True)
class Format:
    """A program's way to write down one conversation."""

    name: str
    matches: Callable[[Any], bool]
    conversation: Callable[[Any, datetime, Skipped], Tree]


FORMATS = (
    Format("DeepSeek", deepseek.matches, deepseek.conversation),
    Format("ChatGPT", chatgpt.matches, chatgpt.conversation),
    Format("Claude", claude.matches, claude.conversation),
    Format("Grok", grok.matches, grok.conversation),
    Format("LibreChat", librechat.matches, librechat.conversation),
    Format("Open WebUI", open_webui.matches, open_webui.conversation),
    Format("LM Studio", lm_studio.matches, lm_studio.conversation),
    Format("llama.cpp", llama_cpp.matches, llama_cpp.conversation),
    Format("HuggingChat", chat_ui.matches, chat_ui.conversation),
    Format("ShareGPT", sharegpt.matches, sharegpt.conversation),
    Format("SillyTavern", sillytavern.matches, sillytavern.conversation),
    Format("text-generation-webui", text_generation_webui.matches, text_generation_webui.conversation),
    Format("Gemini (Google Takeout)", gemini.matches, gemini.conversation),
    Format("messages of OpenAI's API", messages.matches, messages.conversation),
)
"""The first that matches a value reads it."""


def find(value: Any) -> Format | None:
    """The format that a value is a conversation of."""
    return next((format for format in FORMATS if format.matches(value)), None)
