"""The page's words in the reader's language: `_("...")` and `ngettext`, with a catalogue of messages for each language.

English is the source, so a message is its own id. An event or a request of the page is answered within `speaking`; all
else, so the console and /v1, is English. What is raised or noted where nobody knows the reader stays English, and is
`translated` where it is shown.
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
"""As `lang` of a page, and Gradio, call them; `FOLDER` has a catalogue for each but the first."""
RIGHT_TO_LEFT = frozenset({"ar"})
MAX_HEADER_LENGTH = 1000
ISOLATE, END_OF_ISOLATE = "\u2068", "\u2069"
"""Marks that nobody sees: what is between them has a direction of its own."""

Value = str | int

_language: ContextVar[str] = ContextVar("language", default=SOURCE)
_PRIMARY = {name.partition("-")[0]: name for name in LANGUAGES}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_IN_SCRIPT = re.compile(r'(?<![\w$])_\(\s*("(?:[^"\\]|\\.)*")')
_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")
MIN_LITERAL_LENGTH = 6
"""Letters that a message must have beside its values, to be known again by them."""


def language() -> str:
    """The one of LANGUAGES that is spoken now."""
    return _language.get()


@contextlib.contextmanager
def use_language(name: str) -> Iterator[None]:
    """Speak one of LANGUAGES within this."""
    before = _language.set(name)
    try:
        yield
    finally:
        _language.reset(before)


def negotiate(accepted: str | None) -> str:
    """The language of ours that an Accept-Language header likes best."""
    wanted: list[tuple[float, str]] = []
    for part in (accepted or "")[:MAX_HEADER_LENGTH].split(","):
        tag, _, weight = part.partition(";")
        with contextlib.suppress(ValueError):
            wanted.append((float(weight.strip().removeprefix("q=") or 1), tag.strip().partition("-")[0].lower()))
    liked = sorted((each for each in wanted if each[0] > 0), key=lambda each: -each[0])
    return next((_PRIMARY[tag] for _, tag in liked if tag in _PRIMARY), SOURCE)


def gettext(message: str, /, **values: Value) -> str:
    """The message in the language spoken now, with the values in the places of its {names}."""
    return _filled(_catalogue(language()).messages.gettext(message), values)


_ = gettext


def ngettext(singular: str, plural: str, count: int, /, **values: Value) -> str:
    """The message in the form that goes with `count`, which is its {count}."""
    found = _catalogue(language()).messages.ngettext(singular, plural, count)
    return _filled(found, {"count": count, **values})


def N_(message: str, /) -> str:  # noqa: N802 (gettext's own name)
    """The message as it is; it belongs into the catalogues, for whoever `translated` it. May be an f-string."""
    return message


def translated(text: str) -> str:
    """A text that was written in English elsewhere, by the message that it was made of; itself where none is known."""
    return text if language() == SOURCE or not text else _retranslated(language(), text)


def number(value: float, digits: int = 0) -> str:
    """A number with its thousands and decimals set apart as the language does it."""
    if language() == SOURCE:
        return f"{value:,.{digits}f}"
    from babel.numbers import format_decimal

    pattern = "#,##0" + ("." + "0" * digits if digits else "")
    return format_decimal(round(value, digits), format=pattern, locale=_locale(language()))


def month(day: date, year: bool = False) -> str:
    """The name of a day's month, with its year where that is wanted."""
    if language() == SOURCE:
        return f"{day:%B %Y}" if year else f"{day:%B}"
    from babel.dates import format_skeleton

    return format_skeleton("yMMMM" if year else "LLLL", day, locale=_locale(language()))


def figures(text: str) -> str:
    """A short text of numbers and units with its numbers as the language writes them."""
    spoken = language()
    return text if spoken == SOURCE else _NUMBER.sub(lambda found: _value(spoken, found[0]), text)


def percent(share: float, digits: int = 0) -> str:
    """A share of one as a percentage."""
    if language() == SOURCE:
        return f"{share:.{digits}%}"
    from babel.numbers import format_percent

    pattern = "#,##0" + ("." + "0" * digits if digits else "") + "%"
    if language() in ("de", "fr", "es"):
        pattern = pattern.replace("%", "\u00a0%")
    return format_percent(round(share, digits + 2), format=pattern, locale=_locale(language()))


def in_script(source: str) -> list[str]:
    """The messages in a JavaScript source, each in `_("...")`."""
    return sorted({json.loads(found[1]) for found in _IN_SCRIPT.finditer(source)})


def direction() -> str:
    """`dir` of a page in the language spoken now."""
    return "rtl" if language() in RIGHT_TO_LEFT else "ltr"


def isolated(text: str) -> str:
    """A text that stands in the direction of its own words, whatever is before and behind it.

    Between words that run to the left, "float32 · 5 MB" would else be read in no order.
    """
    return f"{ISOLATE}{text}{END_OF_ISOLATE}" if direction() == "rtl" and text else text


def joined(parts: Iterable[str], between: str = " · ") -> str:
    """Short facts in one line, each in its own direction."""
    return between.join(map(isolated, parts))


@dataclass(frozen=True)
class Catalogue:
    """The messages of a language; `patterns` know those with values again, the most particular first."""

    messages: standard.NullTranslations = field(default_factory=standard.NullTranslations)
    patterns: tuple[tuple[re.Pattern[str], str], ...] = ()


@cache
def _catalogue(name: str) -> Catalogue:
    if name == SOURCE:
        return Catalogue()
    from babel.messages.mofile import write_mo
    from babel.messages.pofile import read_po

    with (FOLDER / f"{name}.po").open(encoding="utf-8") as file:
        known = read_po(file, locale=_locale(name))
    compiled = io.BytesIO()
    write_mo(compiled, known)
    compiled.seek(0)
    ids = [message.id for message in known if isinstance(message.id, str) and "{" in message.id]
    return Catalogue(standard.GNUTranslations(compiled), tuple(_patterns(ids)))


def _patterns(ids: list[str]) -> Iterator[tuple[re.Pattern[str], str]]:
    for message in sorted(filter(is_recognizable, ids), key=_literal, reverse=True):
        pieces = _PLACEHOLDER.split(message)
        seen: set[str] = set()
        made = ""
        for at, piece in enumerate(pieces):
            if at % 2 == 0:
                made += re.escape(piece)
            else:
                made += f"(?P={piece})" if piece in seen else f"(?P<{piece}>.*?)"
                seen.add(piece)
        yield re.compile(made, re.DOTALL), message


def is_recognizable(message: str) -> bool:
    """Whether a text made of this message tells it by what stands beside its values."""
    return _literal(message) >= MIN_LITERAL_LENGTH


def _literal(message: str) -> int:
    return len(re.findall(r"\w", _PLACEHOLDER.sub("", message)))


@lru_cache(maxsize=2048)
def _retranslated(name: str, text: str) -> str:
    catalogue = _catalogue(name)
    known = catalogue.messages.gettext(text)
    if known != text:
        return known
    for pattern, message in catalogue.patterns:
        found = pattern.fullmatch(text)
        if found:
            values = {key: _value(name, value) for key, value in found.groupdict().items()}
            return _filled(catalogue.messages.gettext(message), values)
    return text


def _value(name: str, text: str) -> str:
    """A value out of an English text: a number as the language writes it, words translated where they are known."""
    if _NUMBER.fullmatch(text):
        digits = len(text.partition(".")[2])
        with use_language(name):
            return number(float(text.replace(",", "")), digits)
    return _retranslated(name, text)


def _filled(text: str, values: Mapping[str, Value]) -> str:
    if not values:
        return text
    told = {name: isolated(value if isinstance(value, str) else number(value)) for name, value in values.items()}
    return text.format(**told)


def _locale(name: str) -> str:
    return name.replace("-", "_")
