"""The macros of a persona's texts, {{user}} and {{random:a,b}} among them, and what each stands for. Knows no card."""

import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from chatui import personas

MAX_DEPTH = 8
"""Macros within macros that are looked for; what is deeper stays as it is written."""

# The last two of several braces open a macro: "{{{user}}}" is a name in braces.
_BRACES = re.compile(r"\{\{(?!\{)|\}\}")
_DICE = re.compile(r"(?:([1-9]\d?)?d)?([1-9]\d{0,8})([+-]\d{1,9})?", re.IGNORECASE | re.ASCII)
_COMMA = re.compile(r"(?<!\\),")
_OLD_NAMES = re.compile("<(bot|char|user)>", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Scene:
    """Who talks with whom, where and when: what macros stand for.

    `moment` is the user's own time. With the same `seed` the same is drawn; {{pick}} draws the same all over a `chat`.
    """

    user: str
    char: str
    model: str
    moment: datetime
    seed: int = 0
    chat: str = ""


class _Trim:
    """Where line ends are taken off on both sides."""


Piece = str | _Trim


def renamed(text: str) -> str:
    """The text with the names of old cards, <BOT>, <CHAR> and <USER>, as macros."""
    return _OLD_NAMES.sub(lambda name: "{{user}}" if name[1].lower() == "user" else "{{char}}", text)


def expand(text: str, scene: Scene, hidden: list[str] | None = None) -> str:
    """The text with its macros replaced, each once; what is no macro stays. {{hidden_key:...}} goes into `hidden`."""
    if "{{" not in text:
        return text
    values = _Values(text, scene, hidden)
    opened: list[list[Piece]] = [[]]
    at = 0
    for braces in _BRACES.finditer(text):
        opened[-1].append(text[at : braces.start()])
        at = braces.end()
        if braces[0] == "{{" and len(opened) <= MAX_DEPTH:
            opened.append([])
        elif braces[0] == "}}" and len(opened) > 1:
            inner = _joined(opened.pop())
            opened[-1].append(values.of(inner))
        else:
            opened[-1].append(braces[0])
    opened[-1].append(text[at:])
    while len(opened) > 1:
        unclosed = opened.pop()
        opened[-1] += ["{{", *unclosed]
    return _joined(opened[0])


def _joined(pieces: list[Piece]) -> str:
    """The pieces as one text."""
    parts: list[list[str]] = [[]]
    for piece in pieces:
        if isinstance(piece, _Trim):
            parts.append([])
        else:
            parts[-1].append(piece)
    texts = ["".join(part) for part in parts]
    for at in range(1, len(texts)):
        texts[at - 1], texts[at] = texts[at - 1].rstrip("\r\n"), texts[at].lstrip("\r\n")
    return "".join(texts)


class _Values:
    """What the macros of one text stand for."""

    def __init__(self, text: str, scene: Scene, hidden: list[str] | None) -> None:
        self._text, self.scene, self._hidden = text, scene, hidden
        self._digest: int | None = None
        self._drawn = 0

    def of(self, inner: str) -> Piece:
        """The value of what stands between the braces; with its braces where that is no macro."""
        if inner.lstrip().startswith("//"):
            return ""
        name, colon, body = inner.partition(":")
        name = name.strip().lower() if name.isascii() else ""
        value: Piece | None = None
        if colon and name in _WITH_BODY:
            value = _WITH_BODY[name](self, body)
        elif not colon and name in _PLAIN:
            value = _PLAIN[name](self.scene)
        return "{{" + inner + "}}" if value is None else value

    def draw(self, sides: int, of: str) -> int:
        """A number below `sides`: another one at each call, the same ones each time the text is expanded."""
        if self._digest is None:
            self._digest = zlib.crc32(self._text.encode("utf-8", "surrogatepass"))
        self._drawn += 1
        drawn = hashlib.sha256(f"{of}/{self._digest}/{self._drawn}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(drawn[:16]) % sides

    def one_of(self, body: str, of: str) -> str:
        """One of the texts that are listed with commas, or with "::" before each."""
        items = body[1:].split("::") if body.startswith(":") else _COMMA.split(body)
        item = items[self.draw(len(items), of)].strip()
        return item if body.startswith(":") else item.replace("\\,", ",")

    def random(self, body: str) -> str:
        return self.one_of(body, f"{self.scene.seed}")

    def pick(self, body: str) -> str:
        return self.one_of(body, f"chat {self.scene.chat}")

    def roll(self, body: str) -> str | None:
        dice = _DICE.fullmatch(body.lstrip(":").strip())
        if dice is None:
            return None
        rolls = (self.draw(int(dice[2]), f"{self.scene.seed}") + 1 for _ in range(int(dice[1] or 1)))
        return str(sum(rolls) + int(dice[3] or 0))

    def drop(self, _: str) -> str:
        return ""

    def hide(self, body: str) -> str:
        if self._hidden is not None:
            self._hidden.append(body.strip())
        return ""


_PLAIN: dict[str, Callable[[Scene], Piece]] = {
    "user": lambda scene: scene.user,
    "char": lambda scene: scene.char,
    "model": lambda scene: scene.model,
    "date": lambda scene: personas.day(scene.moment),
    "weekday": lambda scene: f"{scene.moment:%A}",
    "time": lambda scene: f"{scene.moment:%H:%M}",
    "isodate": lambda scene: f"{scene.moment:%Y-%m-%d}",
    "isotime": lambda scene: f"{scene.moment:%H:%M}",
    "newline": lambda _: "\n",
    "trim": lambda _: _Trim(),
    "noop": lambda _: "",
    "original": lambda _: "",
}
_WITH_BODY: dict[str, Callable[[_Values, str], str | None]] = {
    "random": _Values.random,
    "pick": _Values.pick,
    "roll": _Values.roll,
    "reverse": lambda _, body: body.lstrip(":").strip()[::-1],
    "comment": _Values.drop,
    "hidden_key": _Values.hide,
}
