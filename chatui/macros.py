"""Expands the macros in a persona's texts, such as {{user}} and {{random:a,b}}. Knows no card."""

import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from chatui import personas

MAX_DEPTH = 8
"""Maximum nesting of macros. Deeper ones are left in the text."""

# The last two of several braces open a macro: "{{{user}}}" is the user's name in braces.
_BRACES = re.compile(r"\{\{(?!\{)|\}\}")
_DICE = re.compile(r"(?:([1-9]\d?)?d)?([1-9]\d{0,8})([+-]\d{1,9})?", re.IGNORECASE | re.ASCII)
_COMMA = re.compile(r"(?<!\\),")
_LEGACY_MACROS = re.compile("<(bot|char|user)>", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class MacroValues:
    """The values that macros expand to.

    `local_time` is the time in the user's time zone. The random macros depend on `seed`. {{pick}} depends on `chat`
    instead, the id of the conversation, and so stays the same in all of it.
    """

    user: str
    char: str
    model: str
    local_time: datetime
    seed: int = 0
    chat: str = ""


class _TrimMarker:
    """The value of {{trim}}: line ends on both sides of it are removed."""


Piece = str | _TrimMarker


def convert_legacy_macros(text: str) -> str:
    """Replace <BOT>, <CHAR> and <USER>, which old cards use, by {{char}} and {{user}}."""
    return _LEGACY_MACROS.sub(lambda match: "{{user}}" if match[1].lower() == "user" else "{{char}}", text)


def expand(text: str, macro_values: MacroValues, hidden: list[str] | None = None) -> str:
    """Replace the macros in a text. Their values are not expanded again, unknown macros stay as they are.

    The arguments of {{hidden_key:...}} are appended to `hidden`.
    """
    if "{{" not in text:
        return text
    expander = _Expander(text, macro_values, hidden)
    stack: list[list[Piece]] = [[]]  # pieces outside of macros, then of each open macro
    end = 0
    for braces in _BRACES.finditer(text):
        stack[-1].append(text[end : braces.start()])
        end = braces.end()
        if braces[0] == "{{" and len(stack) <= MAX_DEPTH:
            stack.append([])
        elif braces[0] == "}}" and len(stack) > 1:
            macro = _join(stack.pop())
            stack[-1].append(expander.value(macro))
        else:
            stack[-1].append(braces[0])
    stack[-1].append(text[end:])
    while len(stack) > 1:
        unclosed = stack.pop()
        stack[-1] += ["{{", *unclosed]
    return _join(stack[0])


def _join(pieces: list[Piece]) -> str:
    """Join the pieces, without the line ends around each {{trim}}."""
    parts: list[list[str]] = [[]]
    for piece in pieces:
        if isinstance(piece, _TrimMarker):
            parts.append([])
        else:
            parts[-1].append(piece)
    texts = ["".join(part) for part in parts]
    for i in range(1, len(texts)):
        texts[i - 1], texts[i] = texts[i - 1].rstrip("\r\n"), texts[i].lstrip("\r\n")
    return "".join(texts)


class _Expander:
    """Computes the values of the macros in one text."""

    def __init__(self, text: str, macro_values: MacroValues, hidden: list[str] | None) -> None:
        self._text, self.macro_values, self._hidden = text, macro_values, hidden
        self._digest: int | None = None
        self._draws = 0

    def value(self, macro: str) -> Piece:
        """The value of a macro, given without braces; the text with its braces if there is no such macro."""
        if macro.lstrip().startswith("//"):
            return ""
        name, colon, argument = macro.partition(":")
        name = name.strip().lower() if name.isascii() else ""
        value: Piece | None = None
        if colon and name in _WITH_ARGUMENT:
            value = _WITH_ARGUMENT[name](self, argument)
        elif not colon and name in _WITHOUT_ARGUMENT:
            value = _WITHOUT_ARGUMENT[name](self.macro_values)
        return "{{" + macro + "}}" if value is None else value

    def draw(self, limit: int, seed: str) -> int:
        """A pseudorandom number from 0 to `limit` - 1.

        Depends on `seed`, on the text and on the number of draws before, so that an expansion can be repeated.
        """
        if self._digest is None:
            self._digest = zlib.crc32(self._text.encode("utf-8", "surrogatepass"))
        self._draws += 1
        digest = hashlib.sha256(f"{seed}/{self._digest}/{self._draws}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:16]) % limit

    def choice(self, argument: str, seed: str) -> str:
        """One item of a list: items separated by commas, or each preceded by "::"."""
        items = argument[1:].split("::") if argument.startswith(":") else _COMMA.split(argument)
        item = items[self.draw(len(items), seed)].strip()
        return item if argument.startswith(":") else item.replace("\\,", ",")

    def random(self, argument: str) -> str:
        return self.choice(argument, f"{self.macro_values.seed}")

    def pick(self, argument: str) -> str:
        return self.choice(argument, f"chat {self.macro_values.chat}")

    def roll(self, argument: str) -> str | None:
        dice = _DICE.fullmatch(argument.lstrip(":").strip())
        if dice is None:
            return None
        rolls = (self.draw(int(dice[2]), f"{self.macro_values.seed}") + 1 for _ in range(int(dice[1] or 1)))
        return str(sum(rolls) + int(dice[3] or 0))

    def drop(self, _: str) -> str:
        return ""

    def hide(self, argument: str) -> str:
        if self._hidden is not None:
            self._hidden.append(argument.strip())
        return ""


_WITHOUT_ARGUMENT: dict[str, Callable[[MacroValues], Piece]] = {
    "user": lambda macro_values: macro_values.user,
    "char": lambda macro_values: macro_values.char,
    "model": lambda macro_values: macro_values.model,
    "date": lambda macro_values: personas.day(macro_values.local_time),
    "weekday": lambda macro_values: f"{macro_values.local_time:%A}",
    "time": lambda macro_values: f"{macro_values.local_time:%H:%M}",
    "isodate": lambda macro_values: f"{macro_values.local_time:%Y-%m-%d}",
    "isotime": lambda macro_values: f"{macro_values.local_time:%H:%M}",
    "newline": lambda _: "\n",
    "trim": lambda _: _TrimMarker(),
    "noop": lambda _: "",
    "original": lambda _: "",
}
_WITH_ARGUMENT: dict[str, Callable[[_Expander, str], str | None]] = {
    "random": _Expander.random,
    "pick": _Expander.pick,
    "roll": _Expander.roll,
    "reverse": lambda _, argument: argument.lstrip(":").strip()[::-1],
    "comment": _Expander.drop,
    "hidden_key": _Expander.hide,
}
