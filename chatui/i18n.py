"""Translates the texts of the page: `_("...")` and `ngettext`, with a message catalogue for each language.

English is the source: the id of a message is its English text. The page handles events and requests inside
`use_language`. Everything else is English, such as the console and /v1. Texts from code that does not know the reader's
language are English, too. They are `translated` where they are shown.
"""

import contextlib
import gettext as standard
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import date
from functools import cache, lru_cache
from pathlib import Path

FOLDER = Path(__file__).parent / "locale"
SOURCE = "en"
LANGUAGES = (SOURCE, "de", "fr", "es", "zh-CN", "ar")
"""Language codes, as in the page's `lang` and in Gradio. `FOLDER` has a catalogue for each but the first."""
RTL_LANGUAGES = frozenset({"ar"})
MAX_HEADER_LENGTH = 1000
ISOLATE, END_OF_ISOLATE = "\u2068", "\u2069"
"""Invisible characters. A text between them has its own direction, independent of the text around it."""

Value = str | int

_language: ContextVar[str] = ContextVar("language", default=SOURCE)
_PRIMARY = {name.partition("-")[0]: name for name in LANGUAGES}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_IN_SCRIPT = re.compile(r'(?<![\w$])_\(\s*("(?:[^"\\]|\\.)*")')
_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")
MIN_LITERAL_LENGTH = 6
"""Letters outside of the placeholders that a message must have, to be recognized in a formatted text."""


def language() -> str:
    """The current language, one of LANGUAGES."""
    return _language.get()


@contextlib.contextmanager
def use_language(name: str) -> Iterator[None]:
    """Context manager in which the current language is `name`, one of LANGUAGES."""
    token = _language.set(name)
    try:
        yield
    finally:
        _language.reset(token)


def negotiate(accepted: str | None) -> str:
    """The one of LANGUAGES that an Accept-Language header prefers; SOURCE if it names none of them."""
    weighted: list[tuple[float, str]] = []
    for part in (accepted or "")[:MAX_HEADER_LENGTH].split(","):
        tag, _, weight = part.partition(";")
        with contextlib.suppress(ValueError):
            weighted.append((float(weight.strip().removeprefix("q=") or 1), tag.strip().partition("-")[0].lower()))
    preferred = sorted((entry for entry in weighted if entry[0] > 0), key=lambda entry: -entry[0])
    return next((_PRIMARY[tag] for _, tag in preferred if tag in _PRIMARY), SOURCE)


def gettext(message: str, /, **values: Value) -> str:
    """The message in the current language. `values` replace its {placeholders}."""
    return _format(_catalogue(language()).messages.gettext(message), values)


_ = gettext


def ngettext(singular: str, plural: str, count: int, /, **values: Value) -> str:
    """The plural form of the message for `count`, which also replaces {count}."""
    message = _catalogue(language()).messages.ngettext(singular, plural, count)
    return _format(message, {"count": count, **values})


def N_(message: str, /) -> str:  # noqa: N802 (gettext's own name)
    """Mark a message for the catalogues and return it in English, to be `translated` later. May be an f-string."""
    return message


def translated(text: str) -> str:
    """Translate an English text, by the message it was formatted from. Returns it unchanged if no message matches."""
    return text if language() == SOURCE or not text else _translate(language(), text)


def format_number(value: float, digits: int = 0) -> str:
    """Format a number with the thousands and decimal separators of the current language."""
    if language() == SOURCE:
        return f"{value:,.{digits}f}"
    from babel.numbers import format_decimal

    pattern = "#,##0" + ("." + "0" * digits if digits else "")
    return format_decimal(round(value, digits), format=pattern, locale=_locale(language()))


def month_name(day: date, year: bool = False) -> str:
    """The name of a date's month, followed by the year if `year` is true."""
    if language() == SOURCE:
        return f"{day:%B %Y}" if year else f"{day:%B}"
    from babel.dates import format_skeleton

    return format_skeleton("yMMMM" if year else "LLLL", day, locale=_locale(language()))


def localize_numbers(text: str) -> str:
    """A short text of numbers and units, with its numbers formatted for the current language."""
    current = language()
    return text if current == SOURCE else _NUMBER.sub(lambda match: _translate_value(current, match[0]), text)


def format_percent(fraction: float, digits: int = 0) -> str:
    """Format a fraction of 1 as a percentage."""
    if language() == SOURCE:
        return f"{fraction:.{digits}%}"
    from babel.numbers import format_percent

    pattern = "#,##0" + ("." + "0" * digits if digits else "") + "%"
    if language() in ("de", "fr", "es"):
        pattern = pattern.replace("%", "\u00a0%")
    return format_percent(round(fraction, digits + 2), format=pattern, locale=_locale(language()))


def script_message_ids(source: str) -> list[str]:
    """The message ids in a JavaScript source: the arguments of `_("...")`, sorted."""
    return sorted({json.loads(match[1]) for match in _IN_SCRIPT.finditer(source)})


def direction() -> str:
    """The `dir` attribute of a page in the current language."""
    return "rtl" if language() in RTL_LANGUAGES else "ltr"


def isolate(text: str) -> str:
    """The text between Unicode isolates, so that its direction is its own. Unchanged in left-to-right languages.

    Without them, "float32 · 5 MB" would be shown in the wrong order among right-to-left words.
    """
    return f"{ISOLATE}{text}{END_OF_ISOLATE}" if direction() == "rtl" and text else text


def join_isolated(parts: Iterable[str], separator: str = " · ") -> str:
    """Join short facts to one line, each with its own direction."""
    return separator.join(map(isolate, parts))


@dataclass(frozen=True)
class Catalogue:
    """The messages of a language. `patterns` recognize messages with values, the most specific ones first."""

    messages: standard.NullTranslations = field(default_factory=standard.NullTranslations)
    patterns: tuple[tuple[re.Pattern[str], str], ...] = ()


@cache
def _catalogue(name: str) -> Catalogue:
    if name == SOURCE:
        return Catalogue()
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    with (FOLDER / f"{name}.po").open(encoding="utf-8") as file:
        parsed = read_po(file, locale=_locale(name))
    compiled = io.BytesIO()
    write_mo(compiled, parsed)
    compiled.seek(0)
    ids = [message.id for message in parsed if isinstance(message.id, str) and "{" in message.id]
    return Catalogue(standard.GNUTranslations(compiled), tuple(_patterns(ids)))


def _patterns(ids: list[str]) -> Iterator[tuple[re.Pattern[str], str]]:
    for message in sorted(filter(is_recognizable, ids), key=_literal_length, reverse=True):
        pieces = _PLACEHOLDER.split(message)
        seen: set[str] = set()
        pattern = ""
        for index, piece in enumerate(pieces):
            if index % 2 == 0:
                pattern += re.escape(piece)
            else:
                pattern += f"(?P={piece})" if piece in seen else f"(?P<{piece}>.*?)"
                seen.add(piece)
        yield re.compile(pattern, re.DOTALL), message


def is_recognizable(message: str) -> bool:
    """Whether a text formatted from this message can be recognized by what stands outside of the placeholders."""
    return _literal_length(message) >= MIN_LITERAL_LENGTH


def _literal_length(message: str) -> int:
    return len(re.findall(r"\w", _PLACEHOLDER.sub("", message)))


@lru_cache(maxsize=2048)
def _translate(name: str, text: str) -> str:
    catalogue = _catalogue(name)
    translation = catalogue.messages.gettext(text)
    if translation != text:
        return translation
    for pattern, message in catalogue.patterns:
        match = pattern.fullmatch(text)
        if match:
            values = {key: _translate_value(name, value) for key, value in match.groupdict().items()}
            return _format(catalogue.messages.gettext(message), values)
    return text


def _translate_value(name: str, text: str) -> str:
    """Translate a value in an English text: numbers are formatted for the language, known words are translated."""
    if _NUMBER.fullmatch(text):
        digits = len(text.partition(".")[2])
        with use_language(name):
            return format_number(float(text.replace(",", "")), digits)
    return _translate(name, text)


def _format(text: str, values: Mapping[str, Value]) -> str:
    if not values:
        return text
    formatted = {
        name: isolate(value if isinstance(value, str) else format_number(value)) for name, value in values.items()
    }
    return text.format(**formatted)


def _locale(name: str) -> str:
    return name.replace("-", "_")
