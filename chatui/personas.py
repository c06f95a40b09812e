"""Personas: a name, a system prompt, a greeting and example prompts. Has the presets. Knows no file format."""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from chatui.errors import SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.i18n import gettext
from chatui.text_cleaning import clean_lines, one_line

MAX_NAME_LENGTH = 80
MAX_EMOJI_LENGTH = 16
"""One emoji, such as a flag or a family, can be a sequence of many characters."""
MAX_PROMPT_LENGTH = 100_000
MAX_GREETING_LENGTH = 10_000
MAX_EXAMPLES = 12
MAX_EXAMPLE_LENGTH = 1_000
MAX_AVATAR_LENGTH = 300_000
"""Maximum length of the data: URL. It is ASCII, so this is its size in bytes too."""

AVATAR_START = "data:image/png;base64,"
_AVATAR = re.compile(re.escape(AVATAR_START) + r"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class Persona:
    """A system prompt with a name. The page of a new chat shows `greeting` and `examples`.

    `settings` are the persona's own generation settings; None uses those of the page. `avatar` is a small picture as a
    data: URL, or "". `card` is the Tavern card that the persona was imported from, stored for its lorebook,
    instructions and export.
    """

    name: str
    emoji: str = ""
    system_prompt: str = ""
    greeting: str = ""
    examples: tuple[str, ...] = ()
    settings: GenerationSettings | None = None
    avatar: str = ""
    card: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """The name with the emoji, as lists on the page show it."""
        return f"{self.emoji} {self.name}".strip()


PRESETS: tuple[Persona, ...] = (
    Persona(
        name="Helpful assistant",
        emoji="✨",
        system_prompt=(
            "You are a friendly, knowledgeable assistant. Answer the question first, in plain words, then add what "
            "helps. Be brief unless asked for more, use Markdown where it makes things clearer, and say so when you "
            "do not know."
        ),
        greeting="Hello! What are you curious about?",
        examples=(
            "Explain what a language model does, as if I were twelve.",
            "Give me three dinner ideas with eggs and spinach.",
            "Write a polite email asking to move a meeting to Friday.",
        ),
    ),
    Persona(
        name="Sassy robot, 1986",
        emoji="🤖",
        system_prompt="You are a sassy, wise-cracking robot as imagined by Hollywood circa 1986.",
        greeting="BZZT. Circuits warm, sarcasm module loaded. Talk to me, meatbag.",
        examples=(
            "Hey, can you tell me any fun things to do in New York?",
            "What do you think of my microwave oven?",
            "Tell me how the future turned out.",
        ),
    ),
    Persona(
        name="Patient teacher",
        emoji="🍎",
        system_prompt=(
            "You are a patient teacher. Explain one idea at a time, with an everyday comparison and a small example. "
            "Never make the student feel slow. End with one short question that checks understanding."
        ),
        greeting="Take a seat. Which idea shall we take apart today?",
        examples=(
            "Why is the sky blue but sunsets red?",
            "Teach me fractions with a pizza.",
            "What is a variable in programming?",
        ),
    ),
    Persona(
        name="Code reviewer",
        emoji="🛠️",
        system_prompt=(
            "You are a senior software engineer. Give working code first, in a fenced block with its language, then "
            "explain the choices in a few short points. Name bugs, edge cases and security problems plainly, and "
            "prefer the standard library."
        ),
        greeting="Paste the code, or tell me what it should do.",
        examples=(
            "Write a Python function that checks whether a word is a palindrome.",
            "What is wrong with `except: pass`?",
            "Show me how to read a CSV file in Python.",
        ),
    ),
    Persona(
        name="Pirate storyteller",
        emoji="🏴‍☠️",
        system_prompt=(
            "You are an old pirate telling tales in a harbour tavern. Speak in salty pirate slang, paint the scene "
            "with smells and sounds, keep every tale short, and end it on a cliffhanger."
        ),
        greeting="Arr, pull up a barrel! What tale will ye have?",
        examples=(
            "Tell me about the night the map burned.",
            "How did ye lose yer leg?",
            "What lies beneath Skull Island?",
        ),
    ),
    Persona(
        name="Socratic philosopher",
        emoji="🏛️",
        system_prompt=(
            "You are a philosopher in the manner of Socrates. Answer mostly with probing questions, one or two at a "
            "time. Point out hidden assumptions kindly, and let the other person find the answer."
        ),
        greeting="Welcome, friend. What do you believe, and why?",
        examples=(
            "Is it ever right to lie?",
            "What makes a life a good one?",
            "Can a machine understand anything?",
        ),
    ),
    Persona(
        name="Haiku poet",
        emoji="🌸",
        system_prompt=(
            "You are a haiku poet. Answer everything with a single haiku: three lines of five, seven and five "
            "syllables, with one image from nature. Write nothing else."
        ),
        greeting="Ask, and a petal falls.",
        examples=(
            "Morning coffee",
            "My computer crashed again",
            "The first snow of the year",
        ),
    ),
    Persona(
        name="No persona",
        emoji="⚪",
        system_prompt="",
        greeting="Just the model, as it comes.",
        examples=(
            "Who are you?",
            "Once upon a time",
            "List the planets of the solar system.",
        ),
    ),
)


def translated(persona: Persona) -> Persona:
    """The persona with name, greeting and examples in the current language if it is a preset; others are unchanged."""
    if persona not in PRESETS:
        return persona
    examples = tuple(gettext(example) for example in persona.examples)
    return replace(persona, name=gettext(persona.name), greeting=gettext(persona.greeting), examples=examples)


def key(preset: Persona) -> str:
    """The key of a preset, used in place of the id that a saved persona has."""
    return f"preset:{preset.name}"


def find(preset_key: str) -> Persona | None:
    """The preset with this key, or None."""
    return next((preset for preset in PRESETS if key(preset) == preset_key), None)


def day(date: datetime) -> str:
    """Format a date as the value of {{date}}: "Tuesday, 24 November 2026"."""
    return f"{date:%A}, {date.day} {date:%B %Y}"


def validate(persona: Persona) -> Persona:
    """Validate a persona and clean its texts. Raises SettingsError with the name of the invalid field.

    Name, emoji and examples become single lines. Empty examples are removed.
    """
    examples = tuple(line for example in persona.examples if (line := one_line(clean_lines(example))))
    cleaned = replace(
        persona,
        name=_check_length("Name", one_line(clean_lines(persona.name)), MAX_NAME_LENGTH),
        emoji=_check_length("Emoji", one_line(clean_lines(persona.emoji)), MAX_EMOJI_LENGTH),
        system_prompt=_check_length("System prompt", clean_lines(persona.system_prompt), MAX_PROMPT_LENGTH),
        greeting=_check_length("Greeting", clean_lines(persona.greeting), MAX_GREETING_LENGTH),
        examples=tuple(_check_length("Example prompts", example, MAX_EXAMPLE_LENGTH) for example in examples),
    )
    if not cleaned.name:
        raise SettingsError("Name", "there is none.", "Give the persona a name.")
    if len(examples) > MAX_EXAMPLES:
        raise SettingsError("Example prompts", f"there may be {MAX_EXAMPLES}, and these are {len(examples)}.")
    _check_length("Picture", persona.avatar, MAX_AVATAR_LENGTH)
    if persona.avatar and not _AVATAR.fullmatch(persona.avatar):
        raise SettingsError("Picture", "this is no PNG in a data: URL.")
    return cleaned


def _check_length(field: str, text: str, max_length: int) -> str:
    if len(text) > max_length:
        raise SettingsError(
            field, f"there may be {max_length:,} characters, and these are {len(text):,}.", "Shorten it."
        )
    return text
