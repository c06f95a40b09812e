"""Finds LaTeX formulas in a text, and tells them from prices, shell variables and prose. Pure."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Span = tuple[int, int]
"""Start and end of a part of a text."""

SAME_LINE, SAME_BLOCK, ANYWHERE = range(3)

_DELIMITER = re.compile(r"\\.|\$+", re.DOTALL)
_CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
_ADDRESS = re.compile(r"\b(?:https?|ftp)://[^\s<>]*|\bwww\.[^\s<>]*")
_BLANK_LINE = re.compile(r"\n[ \t>]*\n")
# What may precede a formula on lines of its own: markers of lists and quotations.
_LINE_START = re.compile(r"[ \t]*(?:(?:>|[-*+]|\d{1,9}[.)])[ \t]*)*")

_COMMAND = re.compile(r"\\[A-Za-z]")
_SCRIPT = re.compile(r"[_^]\{[^{}]*\}")
_WORD = re.compile(r"[(\"'“‘«*_]*[^\W\d_]{2,}(?:['’-][^\W\d_]+)*[)\"'”’».,;:!?*_]*")
_FUNCTIONS = re.compile(
    r"(?:a?(?:rc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|lg|exp|lim|max|min|sup|inf|arg(?:max|min)?|det|dim|ker|gcd|lcm"
    r"|mod|div|deg|rank|tr|sgn|var|cov|choose|d[a-z])"
)
_RELATION = re.compile(r"[=<>≤≥≈≠∈∼≡→⇒]|(?:\w|[)}\]])[\^_]")
_NUMBERS = re.compile(r"[-+]?\d[\d.]*(?:, ?[-+]?\d[\d.]*)*")
# From this code point on, scripts put no space between words, so that a formula may touch them.
_UNSPACED = "\u0590"
_ORDINAL = re.compile(r"(?:th|st|nd|rd|s)\b")


@dataclass(frozen=True)
class _Delimiter:
    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def find(text: str, hidden: Iterable[Span], distance: Callable[[int, int], int], *, table: bool = False) -> list[Span]:
    """The spans of the formulas of `text` with their delimiters. They neither overlap nor touch a `hidden` span.

    `distance` tells whether two positions are in the SAME_LINE, the SAME_BLOCK or neither. Takes linear time:
    a candidate ends at the next delimiter of its kind.
    """
    spans: list[Span] = []
    at = 0
    for start, end in [*sorted(hidden), (len(text), len(text))]:
        if start > at:
            spans += _find_in_gap(text, (at, start), distance, table)
        at = max(at, end)
    return spans


def _find_in_gap(text: str, gap: Span, distance: Callable[[int, int], int], table: bool) -> Iterator[Span]:
    delimiters = list(_delimiters(text, gap))
    following = _following(delimiters)
    at = 0
    while at < len(delimiters):
        opening, closing_at = delimiters[at], following[at]
        at += 1
        if closing_at is None:
            continue
        closing = delimiters[closing_at]
        if closing.text == _CLOSING[opening.text] and _is_formula(text, opening, closing, distance, table):
            yield opening.start, closing.end
            at = closing_at + 1


def _delimiters(text: str, gap: Span) -> Iterator[_Delimiter]:
    addresses = iter(_ADDRESS.finditer(text, *gap))
    address = next(addresses, None)
    for match in _DELIMITER.finditer(text, *gap):
        while address is not None and address.end() <= match.start():
            address = next(addresses, None)
        inside = address is not None and address.start() <= match.start()
        if match[0] in ("\\(", "\\)", "\\[", "\\]") or (match[0][0] == "$" and not (inside and len(match[0]) == 1)):
            yield _Delimiter(match.start(), match[0])


def _following(delimiters: list[_Delimiter]) -> list[int | None]:
    """For each delimiter that may open a formula, the index of the next one of its kind, opening or closing."""
    following: list[int | None] = [None] * len(delimiters)
    last: dict[str, int] = {}
    for number in reversed(range(len(delimiters))):
        kind = delimiters[number].text
        opening = {"\\)": "\\(", "\\]": "\\["}.get(kind, kind)
        if kind == opening and kind in _CLOSING:
            following[number] = last.get(kind)
        last[opening] = number
        if kind.startswith("$"):
            last["$"] = number
    return following


def _is_formula(
    text: str, opening: _Delimiter, closing: _Delimiter, distance: Callable[[int, int], int], table: bool
) -> bool:
    content = text[opening.end : closing.start]
    if not _is_well_formed(content):
        return False
    if content[0] in ",.;:!?)" or (table and " | " in content):
        return False
    separation = distance(opening.start, closing.start)
    if opening.text == "$":
        return (
            separation == SAME_LINE and _is_not_money(text, opening, closing) and not _is_prose(content, lenient=False)
        )
    if separation == ANYWHERE and (opening.text == "\\(" or not _has_own_lines(text, opening, closing)):
        return False
    if (
        opening.text == "\\["
        and separation == SAME_LINE
        and (content.isdigit() or text[closing.end : closing.end + 1] == "(")
    ):
        return False  # an escaped bracket of Markdown: a reference, or a literal link
    spaced = content[0].isspace() and content[-1].isspace() and "\n" not in content
    return not (spaced and _is_words(content)) and not _is_prose(content, lenient=True)


def _is_well_formed(content: str) -> bool:
    """Whether KaTeX parses it up to its end: its braces are balanced, and it is not blank."""
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", content, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth < 0:
            return False
    trailing = len(content) - len(content.rstrip("\\"))
    return depth == 0 and trailing % 2 == 0 and not content.isspace() and content != ""


def _has_own_lines(text: str, opening: _Delimiter, closing: _Delimiter) -> bool:
    """Whether its lines contain nothing else; with a blank line in it, its delimiters need lines of their own too."""
    content = text[opening.end : closing.start]
    line = text[text.rfind("\n", 0, opening.start) + 1 : opening.start]
    newline = text.find("\n", closing.end)
    rest = text[closing.end : newline if newline >= 0 else len(text)]
    if not _LINE_START.fullmatch(line) or rest.strip(" \t.,;"):
        return False
    last = content[content.rfind("\n") + 1 :]
    separate = content.partition("\n")[0].strip() == "" and _LINE_START.fullmatch(last) is not None
    return separate or not _BLANK_LINE.search(content)


def _is_not_money(text: str, opening: _Delimiter, closing: _Delimiter) -> bool:
    """Pandoc's rule for `$x$`, and further ones for prices, shell variables and regular expressions."""
    content = text[opening.end : closing.start]
    before, after = text[opening.start - 1 : opening.start], text[closing.end : closing.end + 1]
    if before and ((before.isalnum() and before < _UNSPACED) or before in "\\^)]}%._"):
        return False
    if content[0].isspace() or content[-1].isspace() or content[-1] in "-–—+*/=<([{" or content[0] in "@#*":
        return False
    if content[-1] == "|" != content[0]:
        return False
    if after and ((after.isalnum() and after < _UNSPACED) or after in "_{("):
        return bool(_ORDINAL.match(text, closing.end)) and not content[0].isdigit()
    if content[0].isdigit():
        tokens = content.split()
        operands = [token[0].isalnum() or token[-1].isalnum() or token[-1] in ",;.:" for token in tokens]
        if any(a and b for a, b in itertools.pairwise(operands)) or content[-1] in ",;.:":
            return bool(_NUMBERS.fullmatch(content)) or bool(_COMMAND.search(content))
    return True


def _is_prose(content: str, *, lenient: bool) -> bool:
    """Whether it has two words in a row, as no formula has. If `lenient`, relations and scripts make it a formula."""
    if _COMMAND.search(content):
        return False
    if any("\u2e80" <= character < "\ud800" or "\uff00" <= character < "\uffa0" for character in content):
        return True
    if lenient and ";" not in content and _RELATION.search(content):
        return False
    without_scripts = _SCRIPT.sub("", content)
    for token, following in itertools.pairwise(without_scripts.split()):
        if (_is_word(token) and _is_operand(following)) or (_is_operand(token) and _is_word(following)):
            return True
    return False


def _is_words(content: str) -> bool:
    tokens = content.split()
    return all(_is_word(token) or not _is_operand(token) for token in tokens) and any(map(_is_word, tokens))


def _is_word(token: str) -> bool:
    return bool(_WORD.fullmatch(token)) and not _is_function(token)


def _is_operand(token: str) -> bool:
    return any(character.isalnum() for character in token) and not _is_function(token)


def _is_function(token: str) -> bool:
    return bool(_FUNCTIONS.fullmatch(token.strip("()[],.;:")))
