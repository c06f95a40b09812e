"""Text shown as it was written: tags and entities in prose survive Markdown, and come back unchanged. Pure."""

import itertools
import re
from collections import defaultdict, deque

from markdown_it import MarkdownIt
from markdown_it.common.html_blocks import block_names

# Spelled with leading zeros, as nobody writes them, so that `unescape` needs no context.
LESS_THAN, AMPERSAND = "&#0060;", "&#0038;"
# The page's Markdown turns the tabs that a line of code starts with into spaces, unless something stands before them.
TAB_GUARD = "\u200b"

# Behind a backslash Markdown shows both as written already; our own spelling is escaped even there.
_TAG = re.compile(r"(?<!\\)((?:\\\\)*)<(?=[A-Za-z/!?])(?!https?://[^\s<>]+>)")
_ENTITY = re.compile(r"(?<!\\)((?:\\\\)*)&(?=#?\w+;)|&(?=#00(?:60|38);)")
_SPECIAL = re.compile(r"<[A-Za-z/!?]|&#?\w+;|^[ \t]*\t", re.MULTILINE)
# Where a code span may begin, and what is passed over before: a backtick behind a backslash, or in an address, is none.
_TICKS = re.compile(r"\\.|<https?://[^\s<>]+>|(?P<run>`+)", re.DOTALL)
_RUN = re.compile("`+")
# Were it not escaped, a line that starts with such a tag would end the paragraph, and a code span with it.
_BLOCK = re.compile(
    rf"\n[ \t>]*<(?:[!?]|/?(?:{'|'.join([*block_names, 'pre', 'script', 'style', 'textarea'])})\b)", re.I
)
_MARKER = re.compile(r"&(?=#00(?:60|38);)")
_FENCED, _INDENTED, _NESTED = -1, -2, -3
# Indented code is indented by four spaces or a tab; what follows those is the code.
_LEADING_TABS = {
    _FENCED: re.compile(r"^([ ]*)(?=\t)", re.MULTILINE),
    _INDENTED: re.compile(r"^([ ]{4}|\t)(?=\t)", re.MULTILINE),
}
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable("inline")


def escape(text: str) -> str:
    """Markdown in which `<tags>` and `&entities;` outside code show as written instead of becoming HTML.

    Code is left alone: there Markdown shows everything as written already.
    """
    if not _SPECIAL.search(text):
        return text
    lines = text.split("\n")
    blocks = _blocks(text, len(lines))
    parts = []
    for block, numbers in itertools.groupby(range(len(lines)), blocks.__getitem__):
        part = "\n".join(lines[number] for number in numbers)
        if block == _NESTED:
            parts.append(_keep_markers(part))
        elif block in _LEADING_TABS:
            parts.append(_LEADING_TABS[block].sub(rf"\1{TAB_GUARD}", _keep_markers(part)))
        else:
            parts.append(_escape_prose(part))
    return "\n".join(parts)


def unescape(text: str) -> str:
    """What `escape` was given."""
    return text.replace(LESS_THAN, "<").replace(AMPERSAND, "&").replace(TAB_GUARD + "\t", "\t")


def _blocks(text: str, count: int) -> list[int]:
    """For each of the `count` lines the number of the block of prose that it belongs to, or the kind of code it is.

    A code span ends at the latest with its block, so they must not be run together. Code in a list or a quotation is
    _NESTED: there the spaces and tabs that a line starts with say what it belongs to.
    """
    blocks = [0] * count
    for number, token in enumerate(_MARKDOWN.parse(text), 1):
        if token.map and token.type in ("fence", "code_block", "inline"):
            first, end = token.map[0], min(token.map[1], count)
            kinds = {"fence": _FENCED, "code_block": _INDENTED}
            kind = _NESTED if token.level and token.type in kinds else kinds.get(token.type, number)
            blocks[first:end] = [kind] * (end - first)
    return blocks


def _escape_prose(text: str) -> str:
    pieces = []
    start = at = 0
    runs = _runs_by_length(text)
    while ticks := _TICKS.search(text, at):
        at = ticks.end()
        length = len(ticks["run"] or "")
        closing = _first_from(runs.get(length), at)
        if closing is None:
            continue
        at = closing + length
        if not _BLOCK.search(text, ticks.end(), closing):
            pieces += [_escape_all(text[start : ticks.start()]), _keep_markers(text[ticks.start() : at])]
            start = at
    return "".join([*pieces, _escape_all(text[start:])])


def _runs_by_length(text: str) -> dict[int, deque[int]]:
    """Where the runs of backticks begin, by their length: a code span ends at the next run as long as its first."""
    runs: defaultdict[int, deque[int]] = defaultdict(deque)
    for run in _RUN.finditer(text):
        runs[run.end() - run.start()].append(run.start())
    return runs


def _first_from(starts: deque[int] | None, at: int) -> int | None:
    """The first of the ascending `starts` from `at` on; those before it are dropped, as `at` only grows."""
    while starts and starts[0] < at:
        starts.popleft()
    return starts[0] if starts else None


def _keep_markers(code: str) -> str:
    """Code that happens to hold our own spelling comes back as it was, though it is shown with one more `&#0038;`."""
    return _MARKER.sub(AMPERSAND, code)


def _escape_all(text: str) -> str:
    return _TAG.sub(rf"\1{LESS_THAN}", _ENTITY.sub(rf"\1{AMPERSAND}", text))
