"""What Markdown makes of each line of a text: prose, a table or code. Pure."""

import re
from dataclasses import dataclass
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token

Kind = Literal["prose", "table", "code", "mermaid"]

_END = re.compile(r"(\r\n?|\n)")
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable("inline")


@dataclass
class Line:
    """A line of a text with the line's end. Lines of one `block` belong to the same paragraph, heading, cell or code.

    Of code, `code` is what is left when the marks of lists and quotations, and the indent, are taken away; None for the
    fence itself. `closes` is the column in which the fence of the code stands, on its last line.
    """

    text: str
    end: str
    block: int = 0
    kind: Kind = "prose"
    code: str | None = None
    closes: int | None = None


def read(text: str) -> list[Line]:
    """The lines of a text."""
    parts = [*_END.split(text), ""]
    lines = [Line(line, end) for line, end in zip(parts[::2], parts[1::2], strict=True)]
    table = range(0)
    for number, token in enumerate(_MARKDOWN.parse(text), 1):
        if not token.map:
            continue
        numbers = range(token.map[0], min(token.map[1], len(lines)))
        if token.type == "table_open":
            table = numbers
        elif token.type == "inline":
            for at in numbers:
                lines[at].block, lines[at].kind = number, "table" if at in table else "prose"
        elif token.type in ("fence", "code_block"):
            _mark_code(lines, numbers, token, number)
    return lines


def _mark_code(lines: list[Line], numbers: range, token: Token, block: int) -> None:
    fenced = token.type == "fence"
    mermaid = fenced and token.info.split()[:1] == ["mermaid"]
    for at in numbers:
        lines[at].block, lines[at].kind = block, "mermaid" if mermaid else "code"
    written = token.content.split("\n")[:-1]
    for at, code in zip(numbers[1:] if fenced else numbers, written, strict=False):
        lines[at].code = code
    closed = fenced and len(numbers) > len(written) + 1
    if closed and written:
        lines[numbers[len(written)]].closes = lines[numbers[0]].text.find(token.markup)
