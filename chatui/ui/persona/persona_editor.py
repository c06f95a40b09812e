"""The form that edits a persona, and the small elements that the panel uses too. Does not access the store."""

import asyncio
import html
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component

from chatui import cards, character_prompt, personas
from chatui.i18n import N_, language
from chatui.personas import Persona
from chatui.ui.gradio_compat.upload_button import UploadButton, read_upload
from chatui.ui.markdown.markdown_escape import plain
from chatui.ui.persona import card_summary, setting_controls
from chatui.ui.shared.updates import ComponentUpdates


class PersonaEditor:
    """The components of the editor, rendered in the current Gradio context; hidden until updated by `show`.

    `inputs` are sent with a click on `save`: the source that was given to `show`, then the inputs of `read`.
    """

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="persona-editor") as self.column:
            self._build()
        self.inputs: list[Component] = [self._source, *self._fields]
        displayed: list[Any] = [self._preview, self.picture, self.no_picture, self._notes, self._extras]
        self.outputs: list[Any] = [self.column, *self.inputs, *displayed]

    def _build(self) -> None:
        self._source = gr.Textbox(visible=False)
        with gr.Row(elem_classes="persona-row"):
            self._preview = gr.Markdown(avatar_html(Persona("")))
            self.picture = UploadButton(N_("Choose picture"), size="sm", min_width=0, scale=0, file_types=["image"])
            self.no_picture = link_button(N_("Remove"), visible=False)
        avatar = gr.Textbox(visible=False)
        with gr.Row(elem_classes="persona-name"):
            name = gr.Textbox(label=N_("Name"), max_lines=1, autofocus=True, min_width=0, scale=4)
            emoji = gr.Textbox(label=N_("Emoji"), max_lines=1, min_width=0, scale=1)
        prompt = gr.Textbox(
            label=N_("System prompt"),
            info=N_("{{user}}, {{model}}, {{date}} and {{char}}, the persona's name, are filled in."),
            lines=5,
            max_lines=14,
            elem_id="persona-prompt",
        )
        greeting = gr.Textbox(label=N_("Greeting"), lines=2, max_lines=6)
        examples = gr.Textbox(label=N_("Example prompts"), info=N_("One on each line."), lines=3, max_lines=8)
        with_settings = gr.Checkbox(label=N_("Keep the current generation settings with it"), container=False)
        self._notes = gr.Textbox(
            label=N_("Notes of the card's creator"), lines=2, max_lines=6, interactive=False, visible=False
        )
        self._extras = gr.Markdown(visible=False, elem_id="persona-besides")
        self._fields: list[Component] = [avatar, name, emoji, prompt, greeting, examples, with_settings]
        with gr.Row(elem_classes="persona-end"):
            self.save = gr.Button(N_("Save"), size="sm", variant="primary", min_width=0)
            self.cancel = gr.Button(N_("Cancel"), size="sm", min_width=0)

    def show(self, source: str, persona: Persona) -> ComponentUpdates:
        """Updates that show the editor with a persona in it."""
        values = [
            persona.avatar,
            persona.name,
            persona.emoji,
            persona.system_prompt,
            persona.greeting,
            "\n".join(persona.examples),
            persona.settings is not None,
        ]
        notes, extras = character_prompt.notes(persona, language()), card_summary.card_summary(persona)
        return {
            self.column: gr.update(visible=True),
            self._source: source,
            **dict(zip(self._fields, values, strict=True)),
            **self._picture_updates(persona),
            self._notes: gr.update(value=notes, visible=bool(notes)),
            self._extras: gr.update(value=f"<p>{plain(extras)}</p>", visible=bool(extras)),
        }

    async def read(
        self,
        base: Persona,
        avatar: str,
        name: str,
        emoji: str,
        prompt: str,
        greeting: str,
        examples: str,
        with_settings: bool,
        *settings: Any,
    ) -> Persona:
        """`base` with the values of the form. Raises ChatError."""
        return personas.validate(
            replace(
                base,
                name=name or "",
                emoji=emoji or "",
                system_prompt=prompt or "",
                greeting=greeting or "",
                examples=tuple((examples or "").split("\n")),
                settings=setting_controls.read(settings) if with_settings else None,
                avatar=await asyncio.to_thread(cards.validate_avatar, avatar or ""),
            )
        )

    async def pick(self, path: str | None) -> ComponentUpdates:
        """Show an uploaded picture. Raises TransferError."""
        data = await asyncio.to_thread(read_upload, path, cards.MAX_FILE_BYTES)
        return self._picture_updates(Persona("", avatar=await asyncio.to_thread(cards.avatar, data)))

    async def unpick(self) -> ComponentUpdates:
        """Remove the picture."""
        return self._picture_updates(Persona(""))

    def _picture_updates(self, persona: Persona) -> ComponentUpdates:
        return {
            self._fields[0]: persona.avatar,
            self._preview: avatar_html(persona),
            self.picture: None,
            self.no_picture: gr.update(visible=bool(persona.avatar)),
        }


def link_button(label: str, visible: bool = True) -> gr.Button:
    """A small button in the style of a link."""
    return gr.Button(label, size="sm", min_width=0, scale=0, visible=visible)


def avatar_html(persona: Persona) -> str:
    """The persona's picture, or its emoji, or the first letter of its name, in an HTML block without Markdown."""
    content = html.escape(persona.emoji or persona.name[:1])
    if persona.avatar:
        content = f'<img src="{html.escape(persona.avatar)}" alt="">'
    return f'<div class="persona-face">{content}</div>'
