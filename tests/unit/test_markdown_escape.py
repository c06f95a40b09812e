import html
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from chatui.ui.markdown.markdown_escape import CLOSE, OPEN, escape, unescape

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
    *("$", "$$", "\\[", "\\]", "\\(", "\\)", "x^2", "{", "}", "%%%LATEX_BLOCK_0%%%", "[^1]", "[^1]: ", "<br>", "<pre>"),
    *("\u2063", "\u2064", "\u2062", "\u2061", "\u2063<", ">\u2064", "\r\n", "\r", "</pre>", "~~~\n", "```mermaid\n"),
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


def seconds_of(text: str, enough: float = 0.0) -> float:
    """The fastest of three times; one that is below `enough` needs no other."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        escape(text)
        best = min(best, time.process_time() - start)
        if best < enough:
            break
    return best


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
    "dollars apart": lambda n: "$x " * (n // 3) + "<b>",
    "formulas": lambda n: "$x$ " * (n // 4) + "<b>",
    "dollars in pairs": lambda n: "$$ a\n" * (n // 5),
    "paragraphs of dollars": lambda n: "$$\n\n" * (n // 4),
    "brackets of formulas": lambda n: "\\[" * (n // 4) + "x" + "\\]" * (n // 4),
    "parentheses of formulas": lambda n: "\\(x" * (n // 3) + "\\)",
    "braces": lambda n: "$" + "{" * n + "$",
    "scripts": lambda n: "$$" + "_{" * (n // 2) + "$$",
    "words in a formula": lambda n: "$$ " + "ab + " * (n // 5) + "$$",
    "tags of code": lambda n: "<pre>" * (n // 10) + "</pre>" * (n // 10) + "`x`" * (n // 20),
    "code and formulas": lambda n: "`a` $x$ " * (n // 8),
    "footnotes": lambda n: "[^a] " * (n // 5) + "\n\n[^a]: x",
    "definitions": lambda n: "".join(f"[^{k}]: x [^{k}]\n" for k in range(n // 16)),
    "empty lines of code": lambda n: "```\n" + "\n" * n + "```",
    "code in lists": lambda n: "- ```\n  \tx\n\n  ```\n" * (n // 19),
    "marks of ours": lambda n: "\u2063<" * (n // 2) + "\u2064",
    "numbers": lambda n: "$1" + ", 2" * (n // 3) + " a$",
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
    short = seconds_of(make(12_000))
    most = 10 * max(short, 0.002)
    long = seconds_of(make(48_000), most)
    assert long < most, f"{short:.3f} s, then {long:.3f} s"


def formulas_in(text: str) -> list[str]:
    return re.findall(rf"{OPEN}([$\\\\].*?){CLOSE}", escape(text), re.DOTALL)


@pytest.mark.parametrize(
    "text",
    [
        "```sql\nAS $$\nBEGIN x^2; END;\n$$ y\n```",
        "~~~\n\\[ x \\] and \\(y\\) and $z$\n~~~",
        "Use $$ for the pid.\n\n```sh\necho $$\n```",
        "Its pid is $x\n\n    echo $y$ and $$z$$\n\nend$",
        "`$x$` and `a $$b$$`, \\[ `c` \\] $`d`$ and $$ `e` $$",
        "<pre>$x$ and $$y$$</pre> <code>\\(z\\)</code> $$a <code>b</code> c$$",
        "- item\n\n  ```\n  $x$\n  $$\n  ```\n\n  more $$\n",
        "> ```\n> \\[ x \\]\n> ```\n> `\\(y\\)`",
        "cut off:\n```sh\nkill $$\nkill $x$",
        "%%%LATEX_BLOCK_0%%% `%%%LATEX_BLOCK_1%%%`",
    ],
)
def test_no_formula_reaches_into_code_or_across_it(text: str) -> None:
    assert formulas_in(text) == []
    assert "%%%LATEX_BLOCK_" not in escape(text)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.",
        "US$5, A$6, R$ 7 or $5-$10, ~$5 and -$6, $5/$10",
        "**$5** or **5$**, _$5_ and _6$_; [$5](x) or 6$",
        "from $1,000 to 2,000$ a year, between 5$ and 10$",
        "costs 5 $ and 6 $, or $5M–$10M",
        "Pay $20 now.\nThe other $20 later, in US$.",
        "$HOME and $PATH, $HOME/bin:$PATH, ${A}/${B}, $(a)/$(b), $1 and $2, $? or $!",
        "echo $$ and kill $$, AS $$ BEGIN RETURN 1; END; $$ LANGUAGE sql",
        "the regular expression ^$|^#$, C$ and d$, $$$ fast $$$",
        "$AAPL rose, $MSFT fell; the $-sign and the €-sign cost 5$",
        "\\$5 and \\$6, \\\\(no\\\\)",
        "\\[1\\] and \\[not a link\\] and \\[x\\](y), \\(not math here\\)",
        "价格是$5到$10，或者$5，以及更多$",
        "https://a.b/?x=$y$&z=$w$ <https://a.b/$c$>",
        "| $5 | 6$ |\n|---|---|\n| $7 | 8$ |",
        "lost $$ in the first\n\nand $$ in the second paragraph",
    ],
)
def test_prices_variables_and_words_are_no_formulas(text: str) -> None:
    assert formulas_in(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so $x^2$, and $n$th, $k$-th, ($y$), **$z$**", ["$x^2$", "$n$", "$k$", "$y$", "$z$"]),
        ("$5 and $x$, $5$ apples, $1, 2, 3$, $2x + 1$", ["$x$", "$5$", "$1, 2, 3$", "$2x + 1$"]),
        ("设$x$为, $f(x)$는, ($\\frac{1}{2}$)", ["$x$", "$f(x)$", "$\\frac{1}{2}$"]),
        ("$\\sin x$ and $sin x$ and $force = mass$", ["$\\sin x$", "$sin x$", "$force = mass$"]),
        ("$$a\n= b$$ and \\(a <\nb\\)", ["$$a\n= b$$", "\\(a <\nb\\)"]),
        ("$$\nx = 1\n\n- y\n$$", ["$$\nx = 1\n\n- y\n$$"]),
        ("\\[\n\\text{speed of light}\n\\]", ["\\[\n\\text{speed of light}\n\\]"]),
        ("- a\n\n  $$\n  x\n  $$", ["$$\n  x\n  $$"]),
        ("`code` then $x$ then `$y$`, ```$z$``` $w$", ["$x$", "$w$"]),
        ("| $|x|$ | $y$ |\n|---|---|\n| $5 | $z$ |", ["$|x|$", "$y$", "$z$"]),
    ],
)
def test_formulas_are_found(text: str, found: list[str]) -> None:
    assert formulas_in(text) == found


@pytest.mark.parametrize(
    "code",
    ["\tx", "  x\n\ty", "\n\nx", "x\n\n", "x\n\n\n", " \tx", "&#0060; &lt;", "\u2063$x$\u2064", "%%%LATEX_BLOCK_0%%%"],
)
@pytest.mark.parametrize("around", ["{}", "- a\n\n  {}", "1. a\n   {}\n   b", "> {}", "> - a\n>   {}", "- > {}"])
def test_code_is_what_it_was_wherever_it_is(code: str, around: str) -> None:
    """The page's Markdown turns tabs at a line's start into spaces, and drops an empty last line of code."""
    before, _, after = around.partition("{}")
    indent = re.sub(r"[^>\n]", " ", before.rpartition("\n")[2])
    fenced = f"```\n{code}\n```".replace("\n", f"\n{indent}").replace(f"\n{indent}\n", f"\n{indent.rstrip()}\n")
    text = before + fenced + after
    assert unescape(escape(text)) == text
    (fence,) = [token for token in markdown.parse(escape(text)) if token.type == "fence"]
    assert unescape(fence.content) == code + "\n"
    assert not re.search(r"(?m)^ *\t|\n\n\Z", fence.content)


def test_breaks_stay_in_cells_alone() -> None:
    assert escape("| a<br>b<BR/> <b> `<br>` |\n|---|\n| c<br />d |\n\n<br>").count("<br") == 3


def test_footnotes_are_linked_where_they_are_defined() -> None:
    shown = escape("One[^a], two[^b], none[^c], `[^a]`.\n\n[^b]: second\n[^a]: first `[^b]`\n[^d]: unused")
    tags = re.findall(rf"{OPEN}<(\w+) class=\"(footnote[\w-]*) note-(\d)\">{CLOSE}(\[\^\w\]:?)", shown)
    assert tags == [
        ("sup", "footnote-reference", "1", "[^a]"),
        ("sup", "footnote-reference", "2", "[^b]"),
        ("span", "footnote", "2", "[^b]:"),
        ("span", "footnote", "1", "[^a]:"),
    ]
