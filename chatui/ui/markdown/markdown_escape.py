"""Escapes a reply for the page's Markdown: tags, entities and code show literally, and formulas are marked. Pure.

Markdown cannot show some texts literally, so `escape` inserts invisible characters as marks; `unescape` and chatui.js
remove them. `OPEN` and `CLOSE` enclose formulas and tags that chatui inserts. `OPEN` alone separates characters that
the page's Markdown would otherwise read as one token.
"""

import bisect
import html
import itertools
import re
from collections import defaultdict, deque
from collections.abc import Sequence

from markdown_it.common.html_blocks import block_names

from chatui.ui.markdown import footnotes, formulas, source_lines
from chatui.ui.markdown.source_lines import Line

# The leading zeros, which no text has, let `unescape` tell these from entities of the text.
LESS_THAN, AMPERSAND = "&#0060;", "&#0038;"
# Zero-width characters. LITERAL follows one that is part of the text itself.
OPEN, CLOSE, LITERAL = "\u2063", "\u2064", "\u2062"
# Replaces the `>` of a quotation inside a formula, where KaTeX would read it.
QUOTE = "\u2061"

DELIMITERS: list[dict[str, str | bool]] = [
    {"left": f"{OPEN}$$", "right": f"$${CLOSE}", "display": True},
    {"left": f"{OPEN}\\[", "right": f"\\]{CLOSE}", "display": True},
    {"left": f"{OPEN}\\(", "right": f"\\){CLOSE}", "display": False},
    {"left": f"{OPEN}$", "right": f"${CLOSE}", "display": False},
]
"""`latex_delimiters` for components that show escaped text: only formulas that `escape` found have them."""

# Markdown shows both literally after a backslash; LESS_THAN and AMPERSAND are escaped even there.
_TAG = re.compile(r"(?<!\\)((?:\\\\)*)<(?=[A-Za-z/!?])(?!https?://[^\s<>]+>)")
_TAG_OF_CELL = re.compile(r"(?<!\\)((?:\\\\)*)<(?=[A-Za-z/!?])(?!https?://[^\s<>]+>|br *\/?>)", re.IGNORECASE)
_ENTITY = re.compile(r"(?<!\\)((?:\\\\)*)&(?=#?\w+;)|&(?=#00(?:60|38);)")
# Gradio's placeholder for formulas while it renders Markdown.
_PLACEHOLDER = re.compile(r"(?<=%%)%(?=LATEX_BLOCK_)")
_MARK = re.compile(f"[{OPEN}{CLOSE}]")
_MARKS = re.compile(rf"{_MARK.pattern}|{_PLACEHOLDER.pattern}")
_SPECIAL = re.compile(
    rf"<[A-Za-z/!?]|&#?\w+;|^[ \t>]*\t|[${OPEN}{CLOSE}]|\\[\[(]|%LATEX_BLOCK_|\[\^|\n[ \t>]*\r?\n[ \t>]*(?:```|~~~)",
    re.MULTILINE,
)
_ESCAPED = re.compile(
    rf"(?P<less_than>{LESS_THAN})|(?P<ampersand>{AMPERSAND})|(?P<quote>{OPEN}{QUOTE})|(?<! ) *{CLOSE}{OPEN}"
    rf"|{OPEN}<[^<>]*>{CLOSE}|(?P<mark>[{OPEN}{CLOSE}]){LITERAL}|[{OPEN}{CLOSE}]"
)
# The start of a code span, or what is skipped: an escaped backtick, or an address, starts none.
_TICKS = re.compile(r"\\.|<https?://[^\s<>]+>|(?P<run>`+)", re.DOTALL)
_RUN = re.compile("`+")
# Unescaped, a line that starts with such a tag would end the paragraph, and a code span in it.
_BLOCK = re.compile(
    rf"\n[ \t>]*<(?:[!?]|/?(?:{'|'.join([*block_names, 'pre', 'script', 'style', 'textarea'])})\b)", re.I
)
# Tags around code: no formulas are looked for between them.
_CODE_TAG = re.compile(r"<(?P<closing>/?)(?P<name>pre|code|kbd|samp|tt)\b[^<>]*>", re.IGNORECASE)
_QUOTE_MARK = re.compile(r"(?<=\n)[ \t]*(?:>[ \t]?)+")


def escape(text: str) -> str:
    """Escape Markdown so that `<tags>` and `&entities;` outside code show literally instead of becoming HTML.

    Formulas outside code are marked for KaTeX, and footnotes are linked. Code keeps every character, tabs included.
    """
    if not _SPECIAL.search(text):
        return text
    lines = source_lines.read(text)
    numbers = footnotes.numbers(line.text for line in lines if line.kind in ("prose", "table"))
    parts = []
    for kind, group in itertools.groupby(lines, lambda line: line.kind):
        part = list(group)
        if kind in ("prose", "table"):
            parts.append(_escape_prose(part, numbers, table=kind == "table"))
        else:
            parts += [_escape_code(line) for line in part]
    return "".join(parts)


def plain(text: str) -> str:
    """Escape text for use inside markup: it contains no HTML, Markdown or LaTeX."""
    escaped = html.escape(text).replace("\n", "<br>")
    return escaped.replace("$", "$<span></span>").replace("\\", "\\<span></span>")


def unescape(text: str) -> str:
    """Undo `escape`."""

    def original(match: re.Match[str]) -> str:
        if match["mark"]:
            return match["mark"]
        return {"less_than": "<", "ampersand": "&", "quote": ">"}.get(match.lastgroup or "", "")

    return _ESCAPED.sub(original, text)


def _escape_code(line: Line) -> str:
    text, code = line.text, line.code
    if code is not None and line.kind == "code":
        indent = code[: len(code) - len(code.lstrip(" \t"))]
        tab = indent.find("\t")
        # Gradio's Markdown turns leading tabs of a line into spaces, unless another character precedes them.
        if tab >= 0 and text.endswith(code[tab:]):
            start = len(text) - len(code) + tab
            return _escape_marks(text[:start]) + OPEN + _escape_marks(text[start:]) + line.end
        if line.closes is not None and not code:
            # It also drops an empty last line. A line shorter than the indent would end the list item.
            short = line.closes - len(text)
            if short <= 0:
                return _escape_marks(text) + OPEN + line.end
            if not text[-1:].isspace():
                return _escape_marks(text) + " " * short + CLOSE + OPEN + line.end
    return _escape_marks(text) + line.end


def _escape_marks(code: str) -> str:
    """Escape code so that nothing in it is read as a mark of `escape` or as a formula."""
    code = _MARK.sub(rf"\g<0>{LITERAL}", code)
    return re.sub(r"&(?=#00(?:60|38);)", f"&{OPEN}", _PLACEHOLDER.sub(f"{OPEN}%", code))


def _escape_prose(lines: Sequence[Line], numbers: dict[str, int], *, table: bool) -> str:
    text = "".join(line.text + line.end for line in lines)
    starts = list(itertools.accumulate((len(line.text + line.end) for line in lines), initial=0))[:-1]

    def distance(start: int, end: int) -> int:
        first, last = (bisect.bisect_right(starts, at) - 1 for at in (start, end))
        if first == last:
            return formulas.SAME_LINE
        block = lines[first].block
        same = bool(block) and all(line.block == block for line in lines[first + 1 : last + 1])
        return formulas.SAME_BLOCK if same else formulas.ANYWHERE

    spans = _code_spans(text, lines, starts)
    marks = [mark.span() for mark in _MARKS.finditer(text)]
    formula_spans = formulas.find(text, [*spans, *_tagged_code(text, spans), *marks], distance, table=table)
    pieces = []
    at = 0
    for start, end, convert in sorted(
        [*((*span, _escape_marks) for span in spans), *((*span, _formula) for span in formula_spans)]
    ):
        pieces += [_escape_all(text[at:start], numbers, table=table), convert(text[start:end])]
        at = end
    return "".join([*pieces, _escape_all(text[at:], numbers, table=table)])


def _code_spans(text: str, lines: Sequence[Line], starts: Sequence[int]) -> list[formulas.Span]:
    """The code spans of all blocks. None spans two blocks."""
    spans = []
    first = 0
    for _, block in itertools.groupby(lines, lambda line: line.block):
        count = sum(1 for _ in block)
        block_end = starts[first + count] if first + count < len(starts) else len(text)
        offset = starts[first]
        spans += [(offset + start, offset + end) for start, end in _spans_in_block(text[offset:block_end])]
        first += count
    return spans


def _spans_in_block(text: str) -> list[formulas.Span]:
    spans = []
    at = 0
    runs = _runs_by_length(text)
    while ticks := _TICKS.search(text, at):
        at = ticks.end()
        length = len(ticks["run"] or "")
        closing = _first_from(runs.get(length), at)
        if closing is None:
            continue
        at = closing + length
        if not _BLOCK.search(text, ticks.end(), closing):
            spans.append((ticks.start(), at))
    return spans


def _runs_by_length(text: str) -> dict[int, deque[int]]:
    """The starts of the runs of backticks, by length: a code span ends at the next run of the same length."""
    runs: defaultdict[int, deque[int]] = defaultdict(deque)
    for run in _RUN.finditer(text):
        runs[run.end() - run.start()].append(run.start())
    return runs


def _first_from(starts: deque[int] | None, at: int) -> int | None:
    """The first of the ascending `starts` that is not before `at`; earlier ones are dropped, as `at` only grows."""
    while starts and starts[0] < at:
        starts.popleft()
    return starts[0] if starts else None


def _tagged_code(text: str, code: Sequence[formulas.Span]) -> list[formulas.Span]:
    """The spans from an opening tag of code to its closing one; tags in code spans do not count."""
    spans = []
    opened: re.Match[str] | None = None
    for tag in _CODE_TAG.finditer(text):
        before = bisect.bisect_right(code, tag.start(), key=lambda span: span[0])
        if before and tag.start() < code[before - 1][1]:
            continue
        if opened is None:
            opened = None if tag["closing"] else tag
        elif tag["closing"] and tag["name"].lower() == opened["name"].lower():
            spans.append((opened.start(), tag.end()))
            opened = None
    return spans


def _formula(text: str) -> str:
    text = _QUOTE_MARK.sub(lambda mark: mark[0].replace(">", f"{OPEN}{QUOTE}"), text)
    return f"{OPEN}{_escape_markup(text, _TAG)}{CLOSE}"


def _escape_all(text: str, numbers: dict[str, int], *, table: bool) -> str:
    text = _PLACEHOLDER.sub(f"{OPEN}%", _MARK.sub(rf"\g<0>{LITERAL}", text))
    text = _escape_markup(text, _TAG_OF_CELL if table else _TAG)
    return footnotes.link(text, numbers, lambda tag: f"{OPEN}{tag}{CLOSE}") if numbers else text


def _escape_markup(text: str, tag: re.Pattern[str]) -> str:
    return tag.sub(rf"\1{LESS_THAN}", _ENTITY.sub(rf"\1{AMPERSAND}", text))
