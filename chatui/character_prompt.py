"""Builds the prompt of a persona: the system prompt with lore, and a character card's instructions between messages.

All callers use build_prompt(): for a new reply, for the preview, and to repeat a reply.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatui import cards, lorebook
from chatui.i18n import N_
from chatui.lorebook import ActivatedEntry, Book, Entry
from chatui.macros import MacroValues, convert_legacy_macros, expand
from chatui.personas import Persona
from chatui.text_cleaning import clean_lines

NOTE_DEPTH = 4
"""SillyTavern's default depth: the number of messages after an insertion."""
AT_DEPTH = 4
"""SillyTavern's number for the position "at depth", between messages. 0 is before the character."""
MAX_DEPTH = 10_000
MAX_DECORATORS = 20

_DECORATOR = re.compile(r"\s*(@@@?)(\w+)[ \t]*(.*)")
_SUPPORTED_DECORATORS = {
    "activate",
    "additional_keys",
    "depth",
    "dont_activate",
    "exclude_keys",
    "position",
    "role",
    "scan_depth",
}
_POSITIONS: dict[str, lorebook.Position] = {"before_desc": "before", "after_desc": "after"}
_UNSUPPORTED_CONDITIONS = {
    "automationId": "automation",
    "cooldown": "cooldown",
    "delay": "delay",
    "group": "group",
    "sticky": "sticky",
    "vectorized": "vectorized",
}
_KNOWN_FIELDS = {
    *cards.V1,
    *cards.V2,
    *("alternate_greetings", "assets", "character_book", "creation_date", "creator_notes_multilingual", "extensions"),
    *("group_only_greetings", "modification_date", "nickname", "source", "tags"),
    *("avatar", "chat", "create_date", "creatorcomment", "fav", "metadata", "talkativeness"),  # in no specification
}
_KNOWN_EXTENSIONS = {"chatui", "depth_prompt", "fav", "regex_scripts", "talkativeness", "world"}


@dataclass(frozen=True)
class Insertion:
    """A system message within a conversation. `depth` messages follow it; with 0 it is the last one."""

    depth: int
    content: str


@dataclass(frozen=True)
class CharacterPrompt:
    """The system prompt of a conversation, and the system messages to insert into it."""

    system_prompt: str
    insertions: tuple[Insertion, ...] = ()


def build_prompt(
    persona: Persona, messages: Sequence[str], macro_values: MacroValues, context_length: int
) -> CharacterPrompt:
    """Build the system prompt of a persona with its lore, and the insertions of its card.

    `messages` are the texts of the conversation, in which the keys of the lorebook are searched. `context_length` is
    that of the model in tokens, which limits the lore.
    """
    book = lorebook_of(persona)
    activated = lorebook.activate_entries(book, messages, macro_values, context_length) if book else ()
    lore = {
        position: [each.text for each in activated if _system_position(each) == position]
        for position in ("before", "after")
    }
    instructions, character, examples = _split_system_prompt(persona, macro_values)
    text = _append_lore(instructions, lore["before"]) + _append_lore(character, lore["after"]) + examples
    return CharacterPrompt(text.strip(), tuple(_insertions(persona, activated, macro_values)))


def has_lorebook(persona: Persona) -> bool:
    """Whether the prompt depends on the messages of the conversation."""
    return bool(_card_data(persona).get("character_book"))


def lorebook_of(persona: Persona) -> Book | None:
    """Parse the lorebook of the persona's card; None if there is none."""
    book = _card_data(persona).get("character_book")
    if not isinstance(book, dict):
        return None
    scan_depth, token_budget = book.get("scan_depth"), book.get("token_budget")
    return Book(
        tuple(entry for entry, _ in _parse_entries(book)),
        int(_parse_number(scan_depth, lorebook.SCAN_DEPTH, 0, MAX_DEPTH)),
        None if (tokens := _parse_number(token_budget, -1, -1, 10**9)) < 0 else int(tokens),
        book.get("recursive_scanning") is True,
    )


def has_instructions(persona: Persona) -> bool:
    """Whether the card inserts instructions into every conversation."""
    data = _card_data(persona)
    note = _mapping(_mapping(data.get("extensions")).get("depth_prompt")).get("prompt")
    return bool(_text(note) or _text(data.get("post_history_instructions")))


def notes(persona: Persona, language: str) -> str:
    """The notes of the card's creator for users, in `language` if the card has them."""
    translations = _card_data(persona).get("creator_notes_multilingual")
    translated = _text(translations.get(language.partition("-")[0].lower())) if isinstance(translations, dict) else ""
    return translated or _text(_card_data(persona).get("creator_notes"))


def unsupported(persona: Persona) -> Iterator[tuple[str, str]]:
    """Parts of the card that are stored but not used: (what they are, in English; their names, or "")."""
    data = _card_data(persona)
    extensions = _mapping(data.get("extensions"))
    assets = data.get("assets")
    if isinstance(assets, list) and any(_mapping(asset).get("type") != "icon" for asset in assets):
        yield N_("pictures and other files"), ""
    if extensions.get("regex_scripts"):
        yield N_("regex scripts"), ""
    if data.get("group_only_greetings"):
        yield N_("greetings for groups"), ""
    if extensions.get("world") and not data.get("character_book"):
        yield N_("a lorebook in another file"), ""
    if others := _name_list(name for name, value in extensions.items() if value and name not in _KNOWN_EXTENSIONS):
        yield N_("extensions"), others
    if others := _name_list(name for name, value in data.items() if value and name not in _KNOWN_FIELDS):
        yield N_("unknown fields"), others
    conditions = (name for _, names in _parse_entries(_mapping(data.get("character_book"))) for name in names)
    if others := _name_list(conditions):
        yield N_("conditions of lore entries"), others


def _name_list(names: Iterator[str]) -> str:
    """The first 6 names in alphabetical order, separated by commas, each cut to 40 characters."""
    unique = sorted(set(names))
    return ", ".join([*(name[:40] for name in unique[:6]), *(["…"] if len(unique) > 6 else [])])


def _system_position(activated: ActivatedEntry) -> str:
    return activated.entry.position if activated.entry.depth is None else ""


def _split_system_prompt(persona: Persona, macro_values: MacroValues) -> tuple[str, str, str]:
    """Split a system prompt that cards.read() joined into (instructions, character, examples), "" for a missing part.

    A prompt without the labels of cards.SECTIONS is all character.
    """
    text = expand(persona.system_prompt, macro_values)
    offsets = {name: _label_offset(expand(label, macro_values), text) for name, label in cards.SECTIONS.items()}
    start = min((offset for offset in offsets.values() if offset is not None), default=0)
    end = offsets["mes_example"] if offsets["mes_example"] is not None else len(text)
    return text[:start], text[start:end], text[end:]


def _append_lore(text: str, lore: Sequence[str]) -> str:
    """Append each text of the lore as a paragraph."""
    return "\n\n".join([*([text.rstrip("\n")] if text.strip() else []), *lore, ""]) if lore else text


def _label_offset(label: str, text: str) -> int | None:
    """The offset of the first line that is the label; None if there is none."""
    match = re.search(f"^{re.escape(label)}$", text, re.MULTILINE)
    return match.start() if match else None


def _insertions(
    persona: Persona, activated: Sequence[ActivatedEntry], macro_values: MacroValues
) -> Iterator[Insertion]:
    """The insertions, one per depth, the deepest first. Lore comes before the card's instructions of the same depth."""
    data = _card_data(persona)
    insertions = [Insertion(each.entry.depth, each.text) for each in activated if each.entry.depth is not None]
    note = _mapping(_mapping(data.get("extensions")).get("depth_prompt"))
    insertions.append(
        Insertion(_parse_depth(note.get("depth")), expand(_text(note.get("prompt")), macro_values).strip())
    )
    insertions.append(Insertion(0, expand(_text(data.get("post_history_instructions")), macro_values).strip()))
    for depth in sorted({insertion.depth for insertion in insertions}, reverse=True):
        texts = [insertion.content for insertion in insertions if insertion.depth == depth and insertion.content]
        if texts:
            yield Insertion(depth, "\n\n".join(texts))


def _parse_entries(book: Mapping[str, Any]) -> Iterator[tuple[Entry, tuple[str, ...]]]:
    """The enabled entries, each with the names of its conditions that are not supported."""
    entries = book.get("entries")
    entries = list(entries.values()) if isinstance(entries, dict) else entries if isinstance(entries, list) else []
    for index, entry in enumerate(entries):
        if isinstance(entry, dict) and entry.get("enabled", True) is not False:
            content, decorators = _parse_decorators(_text(entry.get("content")))
            if "dont_activate" not in decorators:
                yield _parse_entry(index, entry, content, decorators), _unsupported_conditions(entry, decorators)


def _parse_entry(index: int, entry: Mapping[str, Any], content: str, decorators: Mapping[str, str]) -> Entry:
    extensions = _mapping(entry.get("extensions"))
    secondary = _text_list(entry.get("secondary_keys")) if entry.get("selective") is True else ()
    at_depth = "depth" in decorators or extensions.get("position") == AT_DEPTH
    scan_depth = _parse_number(decorators.get("scan_depth", extensions.get("scan_depth")), -1, -1, MAX_DEPTH)
    probability = _parse_number(extensions.get("probability"), 100, 0, 100) if extensions.get("useProbability") else 100
    return Entry(
        index=index,
        content=content,
        keys=(*_text_list(entry.get("keys")), *_split_commas(decorators.get("additional_keys"))),
        secondary_keys=secondary,
        selective_logic=int(_parse_number(extensions.get("selectiveLogic"), lorebook.AND_ANY, 0, 3)),
        exclude_keys=_split_commas(decorators.get("exclude_keys")),
        constant=entry.get("constant") is True or "activate" in decorators,
        case_sensitive=True in (entry.get("case_sensitive"), extensions.get("case_sensitive")),
        whole_words=extensions.get("match_whole_words") is True,
        is_regex=entry.get("use_regex") is True,
        order=_parse_number(entry.get("insertion_order"), 100),
        priority=_parse_number(entry.get("priority"), 0),
        probability=probability,
        position=_POSITIONS.get(decorators.get("position", ""), _parse_position(entry)),
        depth=_parse_depth(decorators.get("depth", extensions.get("depth"))) if at_depth else None,
        scan_depth=None if scan_depth < 0 else int(scan_depth),
        exclude_recursion=bool(extensions.get("exclude_recursion")),
        prevent_recursion=bool(extensions.get("prevent_recursion")),
        delay_until_recursion=bool(extensions.get("delay_until_recursion")),
    )


def _parse_position(entry: Mapping[str, Any]) -> lorebook.Position:
    number = _mapping(entry.get("extensions")).get("position")
    before = entry.get("position") == "before_char" if number is None else number == 0
    return "before" if before else "after"


def _parse_decorators(content: str) -> tuple[str, dict[str, str]]:
    """Split leading decorators off an entry: (the rest of the content, decorators with their values).

    Lines with @@@ are fallbacks for the @@ line before. Of these the first that is supported is used.
    """
    decorators: dict[str, str] = {}
    current: list[str] = []  # the name chosen of the last @@ line and its fallbacks
    end = 0
    while len(decorators) < MAX_DECORATORS and (match := _DECORATOR.match(content, end)):
        mark, name, value = match.groups()
        if mark == "@@":
            current = []
        if not current or current[-1] not in _SUPPORTED_DECORATORS:
            for replaced in current[-1:]:
                del decorators[replaced]
            decorators[name] = value.strip()
            current = [name]
        end = match.end()
    return content[end:].strip(), decorators


def _unsupported_conditions(entry: Mapping[str, Any], decorators: Mapping[str, str]) -> tuple[str, ...]:
    extensions = _mapping(entry.get("extensions"))
    names = [f"@@{name}" for name in decorators if name not in _SUPPORTED_DECORATORS]
    if decorators.get("position", "before_desc") not in _POSITIONS:
        names.append("@@position")
    if decorators.get("role", "system") != "system" or (
        extensions.get("position") == AT_DEPTH and extensions.get("role")
    ):
        names.append("role")
    return (*names, *(condition for name, condition in _UNSUPPORTED_CONDITIONS.items() if extensions.get(name)))


def _card_data(persona: Persona) -> Mapping[str, Any]:
    return _mapping((persona.card or {}).get("data"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return convert_legacy_macros(clean_lines(value)).strip() if isinstance(value, str) else ""


def _text_list(values: object) -> tuple[str, ...]:
    if isinstance(values, str):
        return _split_commas(values)
    return tuple(dict.fromkeys(filter(None, map(_text, values if isinstance(values, list) else ()))))


def _split_commas(text: str | None) -> tuple[str, ...]:
    """The items of a list with commas."""
    return _text_list((text or "").split(","))


def _parse_depth(value: object) -> int:
    return int(_parse_number(value, NOTE_DEPTH, 0, MAX_DEPTH))


def _parse_number(value: object, default: float, minimum: float = -1e9, maximum: float = 1e9) -> float:
    """A number from JSON or a decorator, clamped to `minimum` and `maximum`; `default` if the value is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return default
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return default
    return min(max(number, minimum), maximum) if math.isfinite(number) else default
