"""What a character card adds to a conversation beside its persona's system prompt: lore, and instructions within.

What becomes of a conversation is told by prompted() alone: for a reply, for the preview, and for a reply once more.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatui import cards, lorebook
from chatui.i18n import N_
from chatui.lorebook import ActivatedEntries, Book, Entry
from chatui.macros import Scene, expand, renamed
from chatui.personas import Persona
from chatui.text_cleaning import clean_lines

NOTE_DEPTH = 4
"""Messages before the end at which SillyTavern puts what has no depth of its own."""
AT_DEPTH = 4
"""SillyTavern's number for a position inside the conversation; 0 is before the character."""
MAX_DEPTH = 10_000
MAX_DECORATORS = 20

_DECORATOR = re.compile(r"\s*(@@@?)(\w+)[ \t]*(.*)")
_DECORATORS = {
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
_UNUSED = {
    "automationId": "automation",
    "cooldown": "cooldown",
    "delay": "delay",
    "group": "group",
    "sticky": "sticky",
    "vectorized": "vectorized",
}
_FIELDS = {
    *cards.V1,
    *cards.V2,
    *("alternate_greetings", "assets", "character_book", "creation_date", "creator_notes_multilingual", "extensions"),
    *("group_only_greetings", "modification_date", "nickname", "source", "tags"),
    *("avatar", "chat", "create_date", "creatorcomment", "fav", "metadata", "talkativeness"),  # beside those of cards
}
_EXTENSIONS = {"chatui", "depth_prompt", "fav", "regex_scripts", "talkativeness", "world"}


@dataclass(frozen=True)
class Insertion:
    """A system message that stands `depth` messages before a conversation's end, 0 is behind the last one."""

    depth: int
    content: str


@dataclass(frozen=True)
class CharacterPrompt:
    """What a conversation is told beside its messages."""

    system_prompt: str
    insertions: tuple[Insertion, ...] = ()


def build_prompt(persona: Persona, said: Sequence[str], scene: Scene, context: int) -> CharacterPrompt:
    """The persona's system prompt with its lore, and what stands inside the conversation.

    `said` are the messages as they are sent, which call up the lore; all of it fits a model's `context`.
    """
    book = lorebook_of(persona)
    told = lorebook.activate_entries(book, said, scene, context) if book else ()
    lore = {place: [each.text for each in told if _place(each) == place] for place in ("before", "after")}
    head, character, examples = _parts(persona, scene)
    text = _then(head, lore["before"]) + _then(character, lore["after"]) + examples
    return CharacterPrompt(text.strip(), tuple(_insertions(persona, told, scene)))


def has_lorebook(persona: Persona) -> bool:
    """Whether it matters for the prompt what is said in the conversation."""
    return bool(_data(persona).get("character_book"))


def lorebook_of(persona: Persona) -> Book | None:
    """The lorebook of the persona's card, None where it has none."""
    found = _data(persona).get("character_book")
    if not isinstance(found, dict):
        return None
    depth, most = found.get("scan_depth"), found.get("token_budget")
    return Book(
        tuple(entry for entry, _ in _entries(found)),
        int(_number(depth, lorebook.SCAN_DEPTH, 0, MAX_DEPTH)),
        None if (tokens := _number(most, -1, -1, 10**9)) < 0 else int(tokens),
        found.get("recursive_scanning") is True,
    )


def has_instructions(persona: Persona) -> bool:
    """Whether the card has something to say inside every conversation."""
    data = _data(persona)
    note = _mapping(_mapping(data.get("extensions")).get("depth_prompt")).get("prompt")
    return bool(_text(note) or _text(data.get("post_history_instructions")))


def notes(persona: Persona, language: str) -> str:
    """What the card's creator says to whoever uses it, in this language where there is one."""
    many = _data(persona).get("creator_notes_multilingual")
    told = _text(many.get(language.partition("-")[0].lower())) if isinstance(many, dict) else ""
    return told or _text(_data(persona).get("creator_notes"))


def unsupported(persona: Persona) -> Iterator[tuple[str, str]]:
    """Parts of the card that are kept and not used: what they are, in English, and their names where they have some."""
    data = _data(persona)
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
    if others := _names(name for name, value in extensions.items() if value and name not in _EXTENSIONS):
        yield N_("extensions"), others
    if others := _names(name for name, value in data.items() if value and name not in _FIELDS):
        yield N_("unknown fields"), others
    unused = (name for _, names in _entries(_mapping(data.get("character_book"))) for name in names)
    if others := _names(unused):
        yield N_("conditions of lore entries"), others


def _names(names: Iterator[str]) -> str:
    """Names in alphabetical order, not too many and none too long."""
    found = sorted(set(names))
    return ", ".join([*(name[:40] for name in found[:6]), *(["…"] if len(found) > 6 else [])])


def _place(told: ActivatedEntries) -> str:
    return told.entry.position if told.entry.depth is None else ""


def _parts(persona: Persona, scene: Scene) -> tuple[str, str, str]:
    """The system prompt as cards.read() puts it together: instructions, the character, examples; "" what is missing.

    Of a prompt that somebody wrote anew all is the character.
    """
    text = expand(persona.system_prompt, scene)
    first = {name: _line_of(expand(label, scene), text) for name, label in cards.SECTIONS.items()}
    start = min((at for at in first.values() if at is not None), default=0)
    end = first["mes_example"] if first["mes_example"] is not None else len(text)
    return text[:start], text[start:end], text[end:]


def _then(text: str, lore: Sequence[str]) -> str:
    """The text with the lore behind it, each a paragraph."""
    return "\n\n".join([*([text.rstrip("\n")] if text.strip() else []), *lore, ""]) if lore else text


def _line_of(label: str, text: str) -> int | None:
    """Where the label is a line of its own."""
    found = re.search(f"^{re.escape(label)}$", text, re.MULTILINE)
    return found.start() if found else None


def _insertions(persona: Persona, told: Sequence[ActivatedEntries], scene: Scene) -> Iterator[Insertion]:
    """What stands inside the conversation, the deepest first; of one depth the card's instructions last."""
    data = _data(persona)
    found = [Insertion(each.entry.depth, each.text) for each in told if each.entry.depth is not None]
    note = _mapping(_mapping(data.get("extensions")).get("depth_prompt"))
    found.append(Insertion(_depth(note.get("depth")), expand(_text(note.get("prompt")), scene).strip()))
    found.append(Insertion(0, expand(_text(data.get("post_history_instructions")), scene).strip()))
    for depth in sorted({insertion.depth for insertion in found}, reverse=True):
        texts = [insertion.content for insertion in found if insertion.depth == depth and insertion.content]
        if texts:
            yield Insertion(depth, "\n\n".join(texts))


def _entries(book: Mapping[str, Any]) -> Iterator[tuple[Entry, tuple[str, ...]]]:
    """The entries that are enabled, each with the names of its conditions that are not known here."""
    found = book.get("entries")
    listed = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list) else []
    for index, entry in enumerate(listed):
        if isinstance(entry, dict) and entry.get("enabled", True) is not False:
            content, decorators = _decorated(_text(entry.get("content")))
            if "dont_activate" not in decorators:
                yield _entry(index, entry, content, decorators), _unknown(entry, decorators)


def _entry(index: int, found: Mapping[str, Any], content: str, decorators: Mapping[str, str]) -> Entry:
    extensions = _mapping(found.get("extensions"))
    secondary = _texts(found.get("secondary_keys")) if found.get("selective") is True else ()
    at_depth = "depth" in decorators or extensions.get("position") == AT_DEPTH
    scan_depth = _number(decorators.get("scan_depth", extensions.get("scan_depth")), -1, -1, MAX_DEPTH)
    lucky = _number(extensions.get("probability"), 100, 0, 100) if extensions.get("useProbability") else 100
    return Entry(
        index=index,
        content=content,
        keys=(*_texts(found.get("keys")), *_listed(decorators.get("additional_keys"))),
        secondary=secondary,
        logic=int(_number(extensions.get("selectiveLogic"), lorebook.AND_ANY, 0, 3)),
        excluding=_listed(decorators.get("exclude_keys")),
        constant=found.get("constant") is True or "activate" in decorators,
        case_sensitive=True in (found.get("case_sensitive"), extensions.get("case_sensitive")),
        whole_words=extensions.get("match_whole_words") is True,
        is_regex=found.get("use_regex") is True,
        order=_number(found.get("insertion_order"), 100),
        priority=_number(found.get("priority"), 0),
        probability=lucky,
        position=_POSITIONS.get(decorators.get("position", ""), _position(found)),
        depth=_depth(decorators.get("depth", extensions.get("depth"))) if at_depth else None,
        scan_depth=None if scan_depth < 0 else int(scan_depth),
        recursed=not extensions.get("exclude_recursion"),
        recurses=not extensions.get("prevent_recursion"),
        only_recursed=bool(extensions.get("delay_until_recursion")),
    )


def _position(found: Mapping[str, Any]) -> lorebook.Position:
    number = _mapping(found.get("extensions")).get("position")
    before = found.get("position") == "before_char" if number is None else number == 0
    return "before" if before else "after"


def _decorated(content: str) -> tuple[str, dict[str, str]]:
    """The content without the decorators that it begins with, and these; of fallbacks the first that is known here."""
    decorators: dict[str, str] = {}
    tried: list[str] = []
    at = 0
    while len(decorators) < MAX_DECORATORS and (found := _DECORATOR.match(content, at)):
        mark, name, value = found.groups()
        if mark == "@@":
            tried = []
        if not tried or tried[-1] not in _DECORATORS:
            for other in tried[-1:]:
                del decorators[other]
            decorators[name] = value.strip()
            tried = [name]
        at = found.end()
    return content[at:].strip(), decorators


def _unknown(entry: Mapping[str, Any], decorators: Mapping[str, str]) -> tuple[str, ...]:
    extensions = _mapping(entry.get("extensions"))
    names = [f"@@{name}" for name in decorators if name not in _DECORATORS]
    if decorators.get("position", "before_desc") not in _POSITIONS:
        names.append("@@position")
    if decorators.get("role", "system") != "system" or (
        extensions.get("position") == AT_DEPTH and extensions.get("role")
    ):
        names.append("role")
    return (*names, *(told for name, told in _UNUSED.items() if extensions.get(name)))


def _data(persona: Persona) -> Mapping[str, Any]:
    return _mapping((persona.card or {}).get("data"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return renamed(clean_lines(value)).strip() if isinstance(value, str) else ""


def _texts(values: object) -> tuple[str, ...]:
    if isinstance(values, str):
        return _listed(values)
    return tuple(dict.fromkeys(filter(None, map(_text, values if isinstance(values, list) else ()))))


def _listed(text: str | None) -> tuple[str, ...]:
    """Texts that are set apart by commas."""
    return _texts((text or "").split(","))


def _depth(value: object) -> int:
    return int(_number(value, NOTE_DEPTH, 0, MAX_DEPTH))


def _number(value: object, default: float, least: float = -1e9, most: float = 1e9) -> float:
    """A number as JSON or a decorator has it, brought within limits; the default where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return default
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return default
    return min(max(number, least), most) if math.isfinite(number) else default
