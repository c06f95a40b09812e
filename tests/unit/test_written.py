import html
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from chatui.ui.written import escape, unescape

markdown = MarkdownIt("commonmark", {"html": True, "breaks": True}).enable("table")

PIECES = ["<b>", "</b>", "a < b", "Vec<String>", "&lt;", "&amp;", "`", "``", "```\n", "```py\n", "\n", "\n\n", "    "]
PIECES += [
    "\t",
    "x",
    " ",
    "- ",
    "1. ",
    "> ",
    "<!-- c -->",
    "<script>",
    "<",
    ">",
    "&",
    "<https://a.b>",
    "&#0060;",
    "&#0038;",
    "\\",
    "|a|b|\n|-|-|\n",
    "<div>",
]
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@given(texts)
def test_unescape_gives_back_what_was_escaped(text: str) -> None:
    assert unescape(escape(text)) == text


def tags_in(rendered: str) -> set[str]:
    return set(re.findall(r"<(b>|/b>|div|string|script|!--)", rendered.lower()))


@given(texts)
@example("- ```\n\t<b>")
@example("\\`<b>`")
@example("`\n<b>`<b>`")
@example("`\n<div>`<b>`")
@example("- a\n\n\t\t<b>")
@example("> ```\n>\t<b>")
def test_no_tag_of_the_text_becomes_markup(text: str) -> None:
    assert tags_in(markdown.render(escape(text))) == set()


@pytest.mark.parametrize(
    "text",
    [
        "say <b>hello</b> to `<i>` and Vec<String>, if a < b && c > d",
        "```html\n<div>&lt;</div>\n```\nthen <div>",
        "    <indented> code\n    a & b",
        "- item\n\n      <code in a list>\n- `<x>` and <y>",
        "$$a<b$$ and &nbsp; and &#60;",
        "`unclosed <tick>\n\nnext <p>",
        "> quoted <q>\n> ```\n> <r>\n> ```",
    ],
)
def test_shown_text_is_the_text_as_written(text: str) -> None:
    shown = html.unescape(re.sub(r"<[^>]+>", "", markdown.render(escape(text))))
    for tag in re.findall(r"</?\w[^>]*>|&\w+;|&#\d+;", text):
        assert tag in shown


@pytest.mark.parametrize("text", ["plain words", "1 < 2", "a<3", "AT&T & co", "see <https://example.org/a>"])
def test_text_that_needs_nothing_is_left_alone(text: str) -> None:
    assert escape(text) == text


def seconds_of(text: str) -> float:
    def once() -> float:
        began = time.process_time()
        escape(text)
        return time.process_time() - began

    return min(once() for _ in range(3))


def unmatched(characters: int) -> str:
    """Runs of backticks of which no two are of one length, and short words between them."""
    return "".join("`" * (1 + number) + "x" for number in range(int((2 * characters) ** 0.5))) + "<b>"


HOSTILE: dict[str, Callable[[int], str]] = {
    "unmatched backticks": unmatched,
    "one run of backticks": lambda n: "`" * n + "<b>",
    "one more backtick than there are pairs": lambda n: "<b>" + "`` x` " * (n // 6),
    "stars": lambda n: "*" * n + "<b>",
    "brackets": lambda n: "[a](" * (n // 4) + "<b>",
    "tags": lambda n: "<a " * (n // 3),
    "addresses": lambda n: "<http://a" * (n // 9),
    "bars": lambda n: "|" * n + "<b>",
    "dollars": lambda n: "$" * n + "<b>",
    "quotations": lambda n: ">" * n + "<b>",
    "lists": lambda n: "- " * (n // 2) + "<b>",
    "ampersands": lambda n: "&a" * (n // 2) + "<b>",
    "backslashes": lambda n: "\\" * n + "<b>",
    "spaces": lambda n: "x\n" + " " * n + "\t<b>",
    "references": lambda n: "[a\n" * (n // 3) + "<b>",
    "a long line": lambda n: "word <b> " * (n // 9),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_text_four_times_as_long_takes_about_four_times_as_long(kind: str) -> None:
    """A quadratic one takes sixteen times as long."""
    make = HOSTILE[kind]
    short, long = seconds_of(make(100_000)), seconds_of(make(400_000))
    assert long < 10 * max(short, 0.002), f"{short:.3f} s, then {long:.3f} s"
