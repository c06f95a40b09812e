"""The persona section of the right sidebar: choose, edit, import, delete. Knows the page only by `connect`."""

import asyncio
import html
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.components import Component

from chatui import cards, personas
from chatui.errors import ChatError, NotFoundError, unexpected
from chatui.i18n import N_
from chatui.macros import expand
from chatui.personas import PRESETS, Persona
from chatui.store.owner_store import OwnerStore
from chatui.store.records import OwnPersona
from chatui.ui.gradio_compat.unchecked_inputs import UncheckedDropdown
from chatui.ui.gradio_compat.upload_button import UploadButton, read_upload
from chatui.ui.persona import card_summary, macro_values, setting_controls
from chatui.ui.persona.persona_editor import PersonaEditor, avatar_html, link_button
from chatui.ui.shared import error_messages, header
from chatui.ui.shared.updates import ComponentUpdates

log = logging.getLogger(__name__)

DELETED = "left:"
"""Key prefix of a persona that a conversation has but the user has deleted; the name follows."""
EDIT, COPY = "edit=", "copy="
"""Prefix of the editor's source: the key of the persona that is edited or copied follows."""

MODEL_MACRO = re.compile(r"\{\{\s*model\s*\}\}", re.IGNORECASE)
_chosen_model: ContextVar[str | None] = ContextVar("chosen_model", default=None)
"""The name of the model that is chosen on the page of the running event."""
PanelAction = Callable[..., Awaitable[ComponentUpdates]]


class PersonaPanel:
    """The components, rendered where the panel is created.

    `owner_store` returns the store of the running event's user, or None if the browser takes no cookies. `inputs` are
    the inputs of `persona`, `outputs` the components that `persona_updates` may change.
    """

    def __init__(self, owner_store: Callable[[], OwnerStore | None]) -> None:
        self._owner_store = owner_store
        first = PRESETS[0]
        gr.Markdown(N_("### Persona"))
        with gr.Column(elem_id="persona-chooser") as self._chooser:
            self._build_choice(first)
            self._build_actions()
            system_prompt = gr.Textbox(
                first.system_prompt,
                label=N_("System prompt"),
                info=N_("What the model is told before the conversation. Yours to change."),
                lines=4,
                max_lines=10,
                elem_id="system-prompt",
            )
        self._editor = PersonaEditor()
        self.greeting = gr.Textbox(visible=False)
        self.inputs: list[Component] = [self._choice, self._prompt_key, system_prompt, self.greeting]
        self._system_prompt = system_prompt
        self.outputs: list[Any] = [*self.inputs, self._face, self._own, self._confirmation, *self._exports.values()]

    async def persona(self, choice: str, prompt_key: str, text: str, _greeting: str = "") -> Persona:
        """The chosen persona with `text` as its system prompt, unless it is another persona's. Raises ChatError.

        `prompt_key` is the key of the persona that the text belongs to. A choice fills the textbox by a round trip to
        the server; a message that is sent meanwhile still has the text of the persona before.
        """
        persona = await self._find(choice)
        if persona is not None and choice != prompt_key:
            return persona
        name = (choice or "").removeprefix(DELETED) or "Assistant"
        return personas.validate(replace(persona or Persona(name), system_prompt=text or ""))

    async def chosen(self, key: str) -> Persona:
        """The persona that has this key. Raises NotFoundError."""
        persona = await self._find(key)
        if persona is None:
            raise NotFoundError("persona")
        return persona

    async def choices(self) -> list[tuple[str, str]]:
        """The label and the key of the user's own personas and of the presets."""
        return _choices(await self._own_personas())

    async def choice_updates(self) -> ComponentUpdates:
        """Updates that list the user's own personas beside the presets."""
        return {self._choice: gr.update(choices=await self.choices())}

    async def persona_updates(self, persona: Persona) -> ComponentUpdates:
        """Updates that select the persona of a conversation, as it was stored with it."""
        own = await self._own_personas()
        same_name = [saved.id for saved in own if saved.persona.name == persona.name]
        loaded = [(id, own_persona) for id in same_name if (own_persona := await self._find(id)) is not None]
        listed = [*loaded, *((personas.key(preset), preset) for preset in PRESETS)]
        keys = [key for key, other in listed if other == persona] + [
            key for key, other in listed if other.name == persona.name
        ]
        key = keys[0] if keys else DELETED + persona.name
        deleted = [] if keys else [(persona.label, key)]
        return {self._choice: gr.update(choices=[*deleted, *_choices(own)], value=key), **self._selection(key, persona)}

    def greeting_updates(self, persona: Persona, number_text: str = "", model: str = "") -> ComponentUpdates:
        """Updates that show one of the persona's greetings on the empty page, by its number; the first by default.

        `model` is the name of the chosen model, by default that of the running event.
        """
        persona, model = personas.translated(persona), model or self._model(_chosen_model.get())
        greetings = macro_values.expanded_greetings(persona, model) or (
            expand(persona.greeting, macro_values.current_macro_values(persona, model)),
        )
        number = macro_values.greeting_number(number_text, greetings)
        greeted = replace(persona, greeting=greetings[number])
        placeholder = header.greeting(greeted, number, len(greetings))
        return {self.greeting: str(number), self._chatbot: gr.update(placeholder=placeholder)}

    def connect(
        self,
        chatbot: gr.Chatbot,
        settings: Sequence[Component],
        model: Callable[[str | None], str] = lambda _: "the model",
        picker: gr.Dropdown | None = None,
    ) -> None:
        """Register the events, in the page that is being built.

        `model` returns the name of the model that is chosen in `picker`, or that of the default one for None.
        """
        self._chatbot, self._settings, self._model = chatbot, list(settings), model
        editor = self._editor
        outputs = [*self.outputs, *editor.outputs, self._chooser, self._upload, chatbot, *settings]

        def on(trigger: Any, action: PanelAction, inputs: Sequence[Component] = (), **options: Any) -> None:
            event: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}
            handler = self._handle_errors(action) if picker is None else self._with_model(action)
            gr.on(trigger, handler, [*inputs, *([] if picker is None else [picker])], outputs, **event, **options)

        # Events that may run while a message is sent bypass the queue: their end could close the stream of the reply.
        # Not `input`: the dropdown triggers it whenever it is opened, and twice for a choice.
        on(self._choice.change, self._choose, self.inputs[:2], trigger_mode="always_last", queue=False)
        on(self._new.click, self._create)
        on(self._edit.click, self._start_edit, self.inputs)
        on(self._copy.click, self._duplicate, self.inputs)
        on(self._delete.click, self._confirm_delete, [self._choice])
        on(self._confirm.click, self._delete_persona, [self._choice])
        on(self._keep_button.click, self._cancel_delete)
        on(self._upload.upload, self._import_card, [self._upload])
        on(editor.picture.upload, editor.pick, [editor.picture])
        on(editor.no_picture.click, editor.unpick)
        on(editor.save.click, self._save, [*editor.inputs, *settings])
        on(editor.cancel.click, self._close)
        if picker is not None:
            on(picker.change, self._greet_again, self.inputs, trigger_mode="always_last", queue=False)

    def _build_choice(self, first: Persona) -> None:
        with gr.Row(elem_classes="persona-row"):
            self._face = gr.Markdown(avatar_html(first))
            self._choice = UncheckedDropdown(
                _choices([]), value=personas.key(first), label=N_("Persona"), show_label=False, elem_id="persona"
            )
        self._prompt_key = gr.Textbox(personas.key(first), visible=False)

    def _build_actions(self) -> None:
        with gr.Row(elem_classes="persona-actions"):
            self._new = link_button(N_("New"))
            self._copy = link_button(N_("Duplicate"))
            self._upload = UploadButton(N_("Import"), size="sm", min_width=0, scale=0, file_types=[".json", ".png"])
        with gr.Row(visible=False, elem_classes="persona-actions") as self._own:
            self._edit = link_button(N_("Edit"))
            self._delete = link_button(N_("Delete"))
            self._exports = {"json": link_button(N_("Export")), "png": link_button(N_("Export card"))}
        with gr.Row(visible=False, elem_classes="persona-asking") as self._confirmation:
            gr.Markdown(N_("Delete this persona? Its conversations stay."))
            self._confirm = gr.Button(N_("Delete it"), size="sm", variant="stop", min_width=0)
            self._keep_button = gr.Button(N_("Keep it"), size="sm", min_width=0)

    def _handle_errors(self, action: PanelAction) -> PanelAction:
        """The action as an event handler: an error is shown to the user as a warning and changes nothing."""

        async def handled(*inputs: Any) -> ComponentUpdates:
            try:
                return await action(*inputs)
            except Exception as error:
                if not isinstance(error, ChatError):
                    log.exception("an event of the personas failed")
                    error = unexpected(error)
                error_messages.warn(error)
                return {self._upload: None, self._editor.picture: None}

        return handled

    def _with_model(self, action: PanelAction) -> PanelAction:
        """The action as an event handler whose last input is the chosen model."""
        handled = self._handle_errors(action)

        async def with_model(*inputs: Any) -> ComponentUpdates:
            _chosen_model.set(inputs[-1])
            return await handled(*inputs[:-1])

        return with_model

    async def _greet_again(self, choice: str, prompt_key: str, text: str, number: str) -> ComponentUpdates:
        """The greeting with the name of the model that is chosen now, if it has that."""
        persona = await self.persona(choice, prompt_key, text)
        if not MODEL_MACRO.search(" ".join((persona.greeting, *cards.greetings(persona)))):
            return {self._choice: gr.skip()}
        return self.greeting_updates(persona, number)

    async def _own_personas(self) -> list[OwnPersona]:
        """The user's own personas, for the list."""
        owner_store = self._owner_store()
        return await asyncio.to_thread(owner_store.persona_summaries) if owner_store is not None else []

    def _writable_store(self) -> OwnerStore:
        owner_store = self._owner_store()
        if owner_store is None:
            raise ChatError(
                "No persona can be kept: this browser takes no cookies.", "Allow them and load the page again."
            )
        return owner_store

    async def _find(self, key: str) -> Persona | None:
        preset = personas.find(key)
        if preset is not None or not key or key.startswith(DELETED):
            return preset
        owner_store = self._owner_store()
        try:
            return await asyncio.to_thread(owner_store.persona, key) if owner_store is not None else None
        except NotFoundError:
            return None

    async def _choose(self, key: str, prompt_key: str) -> ComponentUpdates:
        if key == prompt_key:
            return {self._choice: gr.skip()}
        persona = await self.chosen(key)
        return {**self._selection(key, persona), **self._empty_page(persona)}

    async def _create(self) -> ComponentUpdates:
        self._writable_store()
        return self._open_editor("", Persona(""))

    async def _start_edit(self, choice: str, prompt_key: str, text: str, *_greeting: str) -> ComponentUpdates:
        self._writable_store()
        await self.chosen(choice)
        return self._open_editor(EDIT + choice, await self.persona(choice, prompt_key, text))

    async def _duplicate(self, choice: str, prompt_key: str, text: str, *_greeting: str) -> ComponentUpdates:
        self._writable_store()
        return self._open_editor(COPY + choice, await self.persona(choice, prompt_key, text))

    async def _confirm_delete(self, key: str) -> ComponentUpdates:
        await self.chosen(key)
        return {self._confirmation: gr.update(visible=True), self._own: gr.update(visible=False)}

    async def _cancel_delete(self) -> ComponentUpdates:
        return {self._confirmation: gr.update(visible=False), self._own: gr.update(visible=True)}

    async def _delete_persona(self, key: str) -> ComponentUpdates:
        await asyncio.to_thread(self._writable_store().delete_persona, key)
        return await self._chosen(personas.key(PRESETS[0]), PRESETS[0])

    async def _import_card(self, path: str | None) -> ComponentUpdates:
        data = await asyncio.to_thread(read_upload, path, cards.MAX_FILE_BYTES)
        owner_store = self._writable_store()
        persona = await asyncio.to_thread(cards.read, data)
        saved = await asyncio.to_thread(owner_store.save_persona, persona)
        if summary := await asyncio.to_thread(card_summary.card_summary, persona):
            gr.Info(html.escape(f"{persona.label}: {summary}"))
        return await self._chosen(saved.id, saved.persona)

    async def _save(self, source: str, *inputs: Any) -> ComponentUpdates:
        owner_store = self._writable_store()
        edited = source.removeprefix(EDIT) if source.startswith(EDIT) else None
        base = await self._find(edited or source.removeprefix(COPY))
        if edited is not None and base is None:
            raise NotFoundError("persona")
        persona = await self._editor.read(base or Persona(""), *inputs)
        saved = await asyncio.to_thread(owner_store.save_persona, persona, edited)
        return {**await self._chosen(saved.id, saved.persona), **await self._close()}

    async def _close(self) -> ComponentUpdates:
        return {self._chooser: gr.update(visible=True), self._editor.column: gr.update(visible=False)}

    def _open_editor(self, source: str, persona: Persona) -> ComponentUpdates:
        return {self._chooser: gr.update(visible=False), **self._editor.show(source, persona)}

    async def _chosen(self, key: str, persona: Persona) -> ComponentUpdates:
        """All updates of a selection that the user did not make in the list."""
        choice = gr.update(choices=_choices(await self._own_personas()), value=key)
        return {self._upload: None, self._choice: choice, **self._selection(key, persona), **self._empty_page(persona)}

    def _selection(self, key: str, persona: Persona) -> ComponentUpdates:
        is_own = not key.startswith(DELETED) and personas.find(key) is None
        return {
            self._prompt_key: key,
            self._system_prompt: persona.system_prompt,
            self._face: avatar_html(persona),
            self._own: gr.update(visible=is_own),
            self._confirmation: gr.update(visible=False),
            **{button: gr.update(link=_address(key, form)) for form, button in self._exports.items() if is_own},
        }

    def _empty_page(self, persona: Persona) -> ComponentUpdates:
        """Updates of the greeting and examples of the empty page, and of the settings where the persona has its own."""
        persona = personas.translated(persona)
        greeting, examples = self.greeting_updates(persona), [{"text": example} for example in persona.examples]
        values = setting_controls.values_of(persona.settings) if persona.settings else []
        return {
            **greeting,
            self._chatbot: {**greeting[self._chatbot], "examples": examples},
            **dict(zip(self._settings, values, strict=False)),
        }


def _choices(own: Sequence[OwnPersona]) -> list[tuple[str, str]]:
    presets = [(personas.translated(preset).label, personas.key(preset)) for preset in PRESETS]
    return [*((saved.persona.label, saved.id) for saved in own), *presets]


def _address(key: str, form: str) -> str:
    """The URL of an own persona's file: relative, so that it works behind a proxy's path."""
    return f"persona/export?id={quote(key, safe='')}&format={form}"
