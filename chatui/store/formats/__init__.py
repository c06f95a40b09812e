"""The import formats of other programs: one module for each, listed in FORMATS.

A module has matches(), whether a JSON value is a conversation of that program, and conversation(), which reads it as a
tree. The reasons for parts that cannot be read are added to `skipped`; TransferError is raised if nothing can be read.
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
    """The format of one conversation of a program."""

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
"""The first one that matches a value reads it."""


def find(value: Any) -> Format | None:
    """The format of a conversation, or None."""
    return next((format for format in FORMATS if format.matches(value)), None)
