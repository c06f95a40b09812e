"""The texts of single tokens: with visible white space, as bytes, and the type of a coloured list of them. Pure."""

import re
from collections.abc import Iterable, Mapping

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")

HighlightedTokens = list[tuple[str, str | None]]
"""The value of a gr.HighlightedText: texts, each with its category."""


def visible_text(text: str) -> str:
    """A token's text with visible white space; ◦ for a token that is a part of a character shown by an earlier one."""
    if not text:
        return "◦"
    return text.replace(" ", "·").replace("\t", "⇥").replace("\r", "␍").replace("\n", "⏎\n")


def join_texts(texts: Mapping[int, str], ids: Iterable[int]) -> str:
    """The text that the tokens `ids` make together; an incomplete character is left out."""
    return b"".join(_token_bytes(texts.get(id, "")) for id in ids).decode(errors="ignore")


def _token_bytes(text: str) -> bytes:
    """The bytes of a token's text, which may be written as byte tokens, such as `<0xC3><0xA9>`."""
    parts = BYTE_TOKEN.findall(text)
    is_byte_tokens = bool(parts) and len(text) == 6 * len(parts)
    return bytes(int(part, 16) for part in parts) if is_byte_tokens else text.encode()
