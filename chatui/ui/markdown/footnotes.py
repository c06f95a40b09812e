"""GitHub's footnotes: `[^note]` in a text, and the definition `[^note]: text` on a line of its own. Pure."""

import re
from collections.abc import Callable, Iterable

_DEFINITION = re.compile(r"^( {0,3})(\[\^([^\]\[\s^]{1,200})\]:)", re.MULTILINE)
_REFERENCE = re.compile(r"(?<!\\)\[\^([^\]\[\s^]{1,200})\](?!:)")


def numbers(lines: Iterable[str]) -> dict[str, int]:
    """Number the footnotes that are both referenced and defined, in the order of their first references."""
    defined: set[str] = set()
    referenced: dict[str, None] = {}
    for line in lines:
        if "[^" not in line:
            continue
        defined.update(match[3] for match in _DEFINITION.finditer(line))
        referenced.update(dict.fromkeys(_REFERENCE.findall(line)))
    return {label: number for number, label in enumerate((name for name in referenced if name in defined), 1)}


def link(text: str, numbers: dict[str, int], mark: Callable[[str], str]) -> str:
    """Put tags around references and definitions, which chatui.js turns into links; `mark` encloses each tag."""

    def definition(match: re.Match[str]) -> str:
        number = numbers.get(match[3])
        if number is None:
            return match[0]
        return match[1] + mark(f'<span class="footnote note-{number}">') + match[2] + mark("</span>")

    def reference(match: re.Match[str]) -> str:
        number = numbers.get(match[1])
        if number is None:
            return match[0]
        return mark(f'<sup class="footnote-reference note-{number}">') + match[0] + mark("</sup>")

    return _REFERENCE.sub(reference, _DEFINITION.sub(definition, text))
