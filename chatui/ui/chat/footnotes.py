"""Footnotes as GitHub has them: `[^note]` in a text, and `[^note]: what it says` on a line of its own. Pure."""

import re
from collections.abc import Callable, Iterable

_DEFINITION = re.compile(r"^( {0,3})(\[\^([^\]\[\s^]{1,200})\]:)", re.MULTILINE)
_REFERENCE = re.compile(r"(?<!\\)\[\^([^\]\[\s^]{1,200})\](?!:)")


def numbers(lines: Iterable[str]) -> dict[str, int]:
    """The footnotes that are both referred to and defined, numbered as they are first referred to."""
    defined: set[str] = set()
    named: dict[str, None] = {}
    for line in lines:
        if "[^" not in line:
            continue
        defined.update(match[3] for match in _DEFINITION.finditer(line))
        named.update(dict.fromkeys(_REFERENCE.findall(line)))
    return {label: number for number, label in enumerate((name for name in named if name in defined), 1)}


def link(text: str, numbers: dict[str, int], ours: Callable[[str], str]) -> str:
    """`text` with tags around references and definitions, of which chatui.js makes links; `ours` marks such a tag."""

    def definition(found: re.Match[str]) -> str:
        number = numbers.get(found[3])
        if number is None:
            return found[0]
        return found[1] + ours(f'<span class="footnote note-{number}">') + found[2] + ours("</span>")

    def reference(found: re.Match[str]) -> str:
        number = numbers.get(found[1])
        if number is None:
            return found[0]
        return ours(f'<sup class="footnote-reference note-{number}">') + found[0] + ours("</sup>")

    return _REFERENCE.sub(reference, _DEFINITION.sub(definition, text))
