"""Describes, in sentences, the content of a character card that the persona form does not show."""

from chatui import character_prompt, i18n
from chatui.i18n import _, ngettext
from chatui.personas import Persona


def card_summary(persona: Persona) -> str:
    """The content that is used, and the content that is only stored for export; "" if there is none."""
    sentences = []
    book = character_prompt.lorebook_of(persona)
    if book is not None and book.entries:
        sentences.append(
            ngettext(
                "Its lorebook has {count} entry, told where it fits what was said.",
                "Its lorebook has {count} entries, told where they fit what was said.",
                len(book.entries),
            )
        )
    if character_prompt.has_instructions(persona):
        sentences.append(_("It gives the model instructions within the conversation as well."))
    if parts := [_part(*part) for part in character_prompt.unsupported(persona)]:
        sentences.append(_("Kept for the export, but not used here: {parts}.", parts=", ".join(parts)))
    return " ".join(sentences)


def _part(kind: str, names: str) -> str:
    return f"{i18n.translated(kind)} ({names})" if names else i18n.translated(kind)
