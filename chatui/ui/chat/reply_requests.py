"""Builds requests to the model from an event's inputs: persona, start of the reply, settings and conversation.

The inputs are those of the tab (see `current_tab`), then those of the persona panel, the model's name, the start of the
reply, and the generation settings.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import gradio as gr

from chatui import character_prompt
from chatui.character_prompt import CharacterPrompt
from chatui.chat import ChatRequest, Message, ModelInfo, ModelStatus
from chatui.errors import NotFoundError, PromptError
from chatui.generation_settings import GenerationSettings
from chatui.i18n import N_, _
from chatui.macros import MacroValues
from chatui.personas import Persona
from chatui.runner import Runner, build_messages
from chatui.running_reply import RunningReply
from chatui.store.records import Author, NewTurn, Path, StoredMessage
from chatui.store.rows import new_id
from chatui.store.turns import RepeatedTurnError
from chatui.ui.persona import setting_controls
from chatui.ui.persona.macro_values import current_macro_values, expanded_greetings, greeting_number
from chatui.ui.persona.persona_panel import DELETED, PersonaPanel
from chatui.ui.shared import continuing
from chatui.ui.shared.model_access import ModelAccess
from chatui.ui.shared.tab import Tab

DEFAULT_CONTEXT_LENGTH = 4096
"""Tokens for which lore is chosen where the model's context is not known."""

NO_CHANGES: Mapping[str, Any] = MappingProxyType({})

REPLACEMENT_CHARACTER = "\ufffd"
"""Decoded in place of an incomplete character at the end of a reply that was cut."""


class ReplyRequests:
    """Starts replies, and builds the requests for a repeated reply and for the context preview."""

    def __init__(self, runner: Runner, panel: PersonaPanel, access: ModelAccess) -> None:
        self.runner, self._panel, self._access = runner, panel, access

    async def start(
        self,
        tab: Tab,
        inputs: Sequence[Any],
        question: str | None,
        parent: str | None,
        continued: StoredMessage | None = None,
    ) -> RunningReply | None:
        """Start a reply to a new `question` below `parent`, or to the message `parent` itself if there is none.

        The reply goes on from the text of the message `continued`, if given. What runs in the tab is stopped first.
        If the tab sends what has begun already, it shows that; the reply is None unless it runs in this process.
        """
        try:
            return await self._start(tab, inputs, question, parent, continued)
        except RepeatedTurnError as error:
            tab.state = replace(tab.state, chat=error.conversation, turn=new_id())
            return self.runner.running_reply(tab.owner, error.reply)

    async def _start(
        self,
        tab: Tab,
        inputs: Sequence[Any],
        question: str | None,
        parent: str | None,
        continued: StoredMessage | None,
    ) -> RunningReply:
        persona, start_with, settings = await self.selection(tab, inputs)
        model = self.model(inputs)
        if continued is not None:
            _check_continuing(model, continued)
        seed = settings.seed if settings.seed is not None else random.SystemRandom().getrandbits(32)
        chat = tab.state.chat or new_id()
        macro_values = current_macro_values(persona, model.name, seed, chat)
        greetings = expanded_greetings(persona, model.name)
        greeting = self._greeting_index(inputs, greetings)
        place = (tab.state.chat or None, parent or None, question)
        if tab.state.turn:  # before anything is stopped
            await asyncio.to_thread(tab.chat_store.check_repeated, tab.state.turn, *place)
        await tab.stop()
        history: Sequence[str] = greetings[greeting : greeting + 1] if question is not None else ()
        if tab.state.chat:
            history = await self._lore_history(tab, persona, parent)
        texts = [*history, *([question] if question is not None else [])]
        prompt = await self._character_prompt(model, persona, texts, macro_values)
        author = _author(model.name, model.info, prompt, settings, seed, macro_values, start_with, continued)
        turn = NewTurn(*place, author, persona, greetings, chat, greeting, tab.state.turn or None)
        reply = await self.runner.start_reply(tab.owner, turn, tab.state.temporary)
        left = self.runner.usage.remaining(tab.owner) if self.runner.usage is not None else None
        if left is not None and left.is_low:
            gr.Info(
                _("Your tokens are running out (left: {count}, limit: {limit}).", limit=left.limit, count=left.tokens)
            )
        tab.state = replace(tab.state, chat=reply.conversation.id, turn=new_id())
        return reply

    async def repeat(self, tab: Tab, reply: StoredMessage, inputs: Sequence[Any]) -> ChatRequest:
        """The request for `reply` again, with its seed and with the current persona and settings."""
        persona, start_with, settings = await self.selection(tab, inputs)
        path = await self.runner.read_path(tab.owner, reply.conversation, reply.parent, tab.state.temporary)
        seed, moment = (reply.author.seed, reply.author.moment) if reply.author else (settings.seed, "")
        settings = settings.model_copy(update={"seed": seed})
        model = self.model(inputs)
        macro_values = current_macro_values(persona, model.name, seed, reply.conversation, moment)
        messages = await self._messages(model, persona, path.messages, macro_values, start_with)
        chat = tab.state.chat if tab.state.temporary else ""
        return ChatRequest(messages, settings, model.name, tab.owner, temporary_conversation=chat)

    async def separate(
        self,
        tab: Tab,
        inputs: Sequence[Any],
        question: str,
        model_name: str,
        persona_key: str = "",
        changes: Mapping[str, Any] = NO_CHANGES,
        with_history: bool = False,
    ) -> tuple[Persona, ChatRequest]:
        """The request for a reply beside the conversation, and its persona: the current one for "".

        Where a temporary chat has not begun, the request is a temporary chat of its own.
        `changes` are settings by their names. Raises SettingsError, or NotFoundError if there is no such persona, or no
        such model that the user may choose.
        """
        model = next((model for model in self._access.models() if model.name == model_name), None)
        if model is None:
            raise NotFoundError("model")
        persona, _start_with, settings = await self.selection(tab, inputs)
        persona = await self._panel.chosen(persona_key) if persona_key else persona
        settings = GenerationSettings.from_values({**settings.model_dump(), **changes})
        path = Path(())
        if with_history and tab.state.chat:
            path = await self.runner.read_path(tab.owner, tab.state.chat, None, tab.state.temporary)
        macro_values = current_macro_values(persona, model.name, settings.seed, tab.state.chat)
        messages = await self._messages(model, persona, [*path.messages, Message("user", question)], macro_values, "")
        chat = (tab.state.chat or new_id()) if tab.state.temporary else ""
        return persona, ChatRequest(messages, settings, model.name, tab.owner, temporary_conversation=chat)

    async def preview(self, tab: Tab, inputs: Sequence[Any], draft: str) -> tuple[ChatRequest, Path]:
        """The request that sending `draft` would make, and the conversation before it."""
        persona, start_with, settings = await self.selection(tab, inputs)
        model = self.model(inputs)
        path = Path(())
        if tab.state.chat:
            path = await self.runner.read_path(tab.owner, tab.state.chat, None, tab.state.temporary)
        greetings = () if tab.state.chat else expanded_greetings(persona, model.name)
        history: list[StoredMessage | Message] = [
            *(Message("assistant", text) for text in greetings[self._greeting_index(inputs, greetings) :][:1]),
            *path.messages,
            Message("user", draft),
        ]
        macro_values = current_macro_values(persona, model.name, settings.seed, tab.state.chat)
        messages = await self._messages(model, persona, history, macro_values, start_with)
        return ChatRequest(messages, settings, model.name), path

    def model(self, inputs: Sequence[Any]) -> ModelStatus:
        """The model that is chosen on the page, else the default one; also if the user may not choose it."""
        return self._access.find(inputs[2 + len(self._panel.inputs)])

    async def selection(self, tab: Tab, inputs: Sequence[Any]) -> tuple[Persona, str, GenerationSettings]:
        """The persona, the start of the reply, which is "" where the server cannot go on from it, and the settings."""
        count = 2 + len(self._panel.inputs)
        persona_inputs, (_model, start_with, *values) = inputs[2:count], inputs[count:]
        settings = setting_controls.read(values)
        persona = await self._panel.persona(*persona_inputs)
        if tab.state.chat and str(persona_inputs[0]).startswith(DELETED):
            original = await asyncio.to_thread(tab.chat_store.initial_persona, tab.state.chat)
            persona = replace(persona, card=original.card if original.name == persona.name else None)
        can_start = not continuing.problem(continuing.server_of(self.model(inputs).info))
        return persona, (start_with or "") if can_start else "", settings

    def _greeting_index(self, inputs: Sequence[Any], greetings: Sequence[str]) -> int:
        """Which greeting the empty page shows."""
        return greeting_number(inputs[1 + len(self._panel.inputs)], greetings)

    async def _lore_history(self, tab: Tab, persona: Persona, leaf: str | None) -> list[str]:
        """The texts of the conversation up to `leaf`, which activate lore; empty if the persona has no lorebook."""
        if not leaf or not character_prompt.has_lorebook(persona):
            return []
        path = await self.runner.read_path(tab.owner, tab.state.chat, leaf, tab.state.temporary)
        return [message.content for message in path.messages]

    async def _messages(
        self,
        model: ModelStatus,
        persona: Persona,
        history: Sequence[StoredMessage | Message],
        macro_values: MacroValues,
        start_with: str,
    ) -> tuple[Message, ...]:
        """The messages that the model gets: system prompt, history with insertions, and the start of the reply."""
        prompt = await self._character_prompt(model, persona, [message.content for message in history], macro_values)
        prefix = Message("assistant", start_with) if start_with else None
        return build_messages(prompt.system_prompt, history, prefix, prompt.insertions)

    async def _character_prompt(
        self, model: ModelStatus, persona: Persona, texts: Sequence[str], macro_values: MacroValues
    ) -> CharacterPrompt:
        """The persona's system prompt and its insertions into a conversation of these texts."""
        context = (model.info.context_length if model.info else 0) or DEFAULT_CONTEXT_LENGTH
        texts = list(filter(None, texts))
        return await asyncio.to_thread(character_prompt.build_prompt, persona, texts, macro_values, context)


def _check_continuing(model: ModelStatus, reply: StoredMessage) -> None:
    """Raise PromptError if the model's server cannot go on with this reply."""
    problem = continuing.problem(continuing.server_of(model.info), reply.content, reply.reasoning)
    if problem:
        raise PromptError(problem, N_("Use Retry, or choose another model."))


def _author(
    model: str,
    info: ModelInfo | None,
    prompt: CharacterPrompt,
    settings: GenerationSettings,
    seed: int,
    macro_values: MacroValues,
    start_with: str,
    continued: StoredMessage | None,
) -> Author:
    """What is stored with a reply about how it is generated."""
    return Author(
        model=model,
        revision=info.revision if info else "",
        system_prompt=prompt.system_prompt,
        settings=settings,
        seed=seed,
        prefix=continued.content.rstrip(REPLACEMENT_CHARACTER) if continued else start_with,
        prefix_reasoning=continued.reasoning if continued else "",
        insertions=prompt.insertions,
        moment=macro_values.local_time.isoformat(),
    )
