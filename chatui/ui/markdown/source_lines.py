"""Parses Markdown into lines with the kind of block that each belongs to: prose, table or code. Pure."""

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
    """A line and its line end. Lines with the same `block` belong to one paragraph, heading, table cell or code block.

    `code` is a line of code without the markers of lists and quotations and without the indent; None for the fence.
    `closes` is the column of the fence, set on the last line of a closed block.
    """

    text: str
    end: str
    block: int = 0
    kind: Kind = "prose"
    code: str | None = None
    closes: int | None = None


def read(text: str) -> list[Line]:
    """Parse the lines of a text."""
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
    code_lines = token.content.split("\n")[:-1]
    for at, code in zip(numbers[1:] if fenced else numbers, code_lines, strict=False):
        lines[at].code = code
    closed = fenced and len(numbers) > len(code_lines) + 1
    if closed and code_lines:
        lines[numbers[len(code_lines)]].closes = lines[numbers[0]].text.find(token.markup)
