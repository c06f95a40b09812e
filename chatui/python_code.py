"""Formats Python code: calls, comments, and texts as literals. Pure."""

import textwrap
from collections.abc import Iterable, Iterator

MAX_LINE_LENGTH = 100
"""Maximum length of a piece of a literal, in characters."""


def call(function: str, arguments: Iterable[str]) -> str:
    """The code of a call with one argument on each line."""
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{function}(\n{lines})"


def comment_lines(text: str) -> list[str]:
    """A text as lines of comments."""
    return textwrap.wrap(text, MAX_LINE_LENGTH + 10, initial_indent="# ", subsequent_indent="# ") or ["#"]


def literal(text: str) -> str:
    """A text as a Python literal; a long or multi-line one as several strings in parentheses."""
    pieces = list(_pieces(text))
    if len(pieces) < 2:
        return quoted(text)
    return "(\n" + "".join(f"        {quoted(piece)}\n" for piece in pieces) + "    )"


def _pieces(text: str) -> Iterator[str]:
    """Split a text after line ends, and longer lines into pieces of at most MAX_LINE_LENGTH characters."""
    for line in text.splitlines(keepends=True):
        remaining = line
        while len(remaining) > MAX_LINE_LENGTH:
            cut = remaining.rfind(" ", 0, MAX_LINE_LENGTH) + 1 or MAX_LINE_LENGTH
            yield remaining[:cut]
            remaining = remaining[cut:]
        yield remaining


def value(value: bool | int | str) -> str:
    """A value as a Python literal."""
    return quoted(value) if isinstance(value, str) else repr(value)


def quoted(text: str) -> str:
    """`repr`, which escapes invisible characters, in double quotes unless the text has some itself."""
    code = repr("'" + text)
    return '"' + code[2:] if code[0] == '"' else repr(text)
