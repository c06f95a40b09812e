"""Text shown as it was written: tags and entities in prose survive Markdown, and come back unchanged. Pure."""

import re

from markdown_it import MarkdownIt

# Spelled with leading zeros, as nobody writes them, so that `unescape` needs no context.
LESS_THAN, AMPERSAND = "&#0060;", "&#0038;"

_TAG = re.compile(r"<(?=[A-Za-z/!?])(?!https?://[^\s<>]+>)")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_SPECIAL = re.compile(r"<[A-Za-z/!?]|&#?\w+;")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)\1(?!`)", re.DOTALL)
_BLOCKS = MarkdownIt("commonmark", {"html": False}).enable("table").disable("inline")


def escape(text: str) -> str:
    """Markdown in which `<tags>` and `&entities;` outside code show as written instead of becoming HTML.

    Code is left alone: there Markdown shows everything as written already.
    """
    if not _SPECIAL.search(text):
        return text
    lines = text.split("\n")
    in_code = [False] * len(lines)
    for token in _BLOCKS.parse(text):
        if token.type in ("fence", "code_block") and token.map:
            for number in range(token.map[0], min(token.map[1], len(lines))):
                in_code[number] = True
    parts: list[str] = []
    prose: list[str] = []
    for line, code in zip(lines, in_code, strict=True):
        if code:
            parts.extend(_flush(prose))
            parts.append(line)
        else:
            prose.append(line)
    parts.extend(_flush(prose))
    return "\n".join(parts)


def unescape(text: str) -> str:
    """What `escape` was given."""
    return text.replace(LESS_THAN, "<").replace(AMPERSAND, "&")


def _flush(prose: list[str]) -> list[str]:
    """The gathered lines of prose, escaped, as one part; empties the list."""
    if not prose:
        return []
    text = "\n".join(prose)
    prose.clear()
    pieces: list[str] = []
    end = 0
    for span in _CODE_SPAN.finditer(text):
        pieces += [_escape_prose(text[end : span.start()]), span.group()]
        end = span.end()
    return ["".join([*pieces, _escape_prose(text[end:])])]


def _escape_prose(text: str) -> str:
    return _TAG.sub(LESS_THAN, _ENTITY.sub(AMPERSAND, text))
