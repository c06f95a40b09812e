"""Text shows as it was written, is copied and edited as it was written, and maths and code are set."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.pages import FOREIGN_HOST, PATIENCE, Chat, Site, wait_until

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

# Each a paragraph of its own: (as the model writes it, as it is read).
PROSE = [
    ("Vec<String> and Map<K, V>", "Vec<String> and Map<K, V>"),
    ("a < b and b > a", "a < b and b > a"),
    ("a<b and c>d", "a<b and c>d"),
    ("<div>hello</div>", "<div>hello</div>"),
    ("see &lt; &amp; &#60; &copy; &nbsp;.", "see &lt; &amp; &#60; &copy; &nbsp;."),
    ("</think> <|im_end|> <!-- note -->", "</think> <|im_end|> <!-- note -->"),
    ("<!DOCTYPE html> <?php echo ?>", "<!DOCTYPE html> <?php echo ?>"),
    ("R&D, AT&T & co, 1<2, I <3 you, x <- y", "R&D, AT&T & co, 1<2, I <3 you, x <- y"),
    ("inline `<b>` and `&lt;` and ``a ` <i>`` end", "inline <b> and &lt; and a ` <i> end"),
    ("**bold <T>** and *it <U>*", "bold <T> and it <U>"),
    ("an open ` backtick <b>x</b>", "an open ` backtick <b>x</b>"),
    ("<b>`code`</b> <summary>", "<b>code</b> <summary>"),
    ("C:\\path <p> and \\<b\\>", "C:\\path <p> and <b>"),
]

CODE = "all: main.o\n\tcc -o all <main.o> Vec<T> &lt; a < b\n\n    four &amp;\n\tend"
BLOCKS = [
    (f"Look:\n\n```make\n{CODE}\n```\n\nend", CODE),
    (f"~~~\n{CODE}\n~~~", CODE),  # tildes
    ("text\n\n    <b>x</b> &lt;\n    \tdeep\n\nend", "<b>x</b> &lt;\n\tdeep"),  # indented
    ("- item\n\n  ```html\n  <b>hi</b> &amp;\n  ```\n", "<b>hi</b> &amp;"),  # in a list
    ("> ```\n> <b>q</b> &amp;\n> ```\n", "<b>q</b> &amp;"),  # in a quotation
    ("````\n```\n<b>\n```\n````", "```\n<b>\n```"),  # a fence in a fence
    ("<div>\n\n```\n<i>\n```\n\n</div>", "<i>"),  # after an open tag
    ("cut off:\n\n```html\n<p>never closed &lt;", "<p>never closed &lt;"),  # never closed
]

EXACT = "\n\n\tEdge <T>  two spaces &lt;\n    four `x<y>`\n\n```\n\tx <b>\n```\n&#38; $$a<b$$ \\(c<d\\)\n\n"


@pytest.mark.parametrize("side", ["reply", "question"])
def test_prose_shows_as_written(chat: Open, side: str) -> None:
    text = "\n\n".join(written for written, _ in PROSE)
    page = chat([text] if side == "reply" else ["ok"])
    page.say("hi" if side == "reply" else text)
    message = (page.replies if side == "reply" else page.questions).last
    shown = [" ".join(line.split()) for line in message.locator("p").all_inner_texts()]
    assert shown == [read for _, read in PROSE]
    if side == "question":
        assert page.backend.requests[0].messages[-1].content == text


def test_tables_and_lists_show_tags_as_written(chat: Open) -> None:
    page = chat(
        ["| a <T> | b |\n|---|---|\n| <U> &lt; | `Vec<T>` |\n\n- item <V>\n- `<W>`\n\n> quote <X>\n\n# Head <Y>"]
    )
    shown = page.say("hi").inner_text()
    for part in ("a <T>", "<U> &lt;", "Vec<T>", "item <V>", "<W>", "quote <X>", "Head <Y>"):
        assert part in shown
    expect(page.replies.last.locator("td")).to_have_count(2)
    expect(page.replies.last.locator("li")).to_have_count(2)


# tests/unit/test_markdown_escape.py has blocks of every kind.
@pytest.mark.parametrize("blocks", [BLOCKS[::3], pytest.param(BLOCKS, marks=pytest.mark.exhaustive)], ids=len)
def test_code_shows_as_written(chat: Open, blocks: list[tuple[str, str]]) -> None:
    page = chat(*([text] for text, _ in blocks))
    shown = [page.say("hi").locator("pre code").inner_text().rstrip("\n") for _ in blocks]
    assert shown == [code for _, code in blocks]


def test_code_is_copied_as_written(chat: Open) -> None:
    page = chat([f"```make\n{CODE}\n```"])
    button = page.say("hi").get_by_role("button", name="Copy code", exact=True)
    assert page.copied_by(button).rstrip("\n") == CODE


def test_messages_are_copied_edited_and_sent_again_as_written(chat: Open) -> None:
    page = chat([EXACT[:20], EXACT[20:33], EXACT[33:]], ["second"], ["third"])
    question = "\tMy <T> &lt;\n\n    indent `a<b>`\n```\n\tx\n```"
    page.say(question)
    assert page.backend.requests[0].messages[-1].content == question
    assert page.copied_by(page.button("Copy message").first) == question
    assert page.copied_by(page.button("Copy message").last) == EXACT
    whole = page.copied_by(page.button("Copy conversation"))
    assert question in whole
    assert EXACT in whole

    page.say("more")
    assert [m.content for m in page.backend.requests[1].messages[1:]] == [question, EXACT, "more"]

    page.button("Edit").first.click()
    editor = page.log.get_by_role("textbox")
    expect(editor).to_have_value(question)
    editor.fill(question + "\n<U>&amp;")
    page.button("Submit").click()
    expect(page.replies).to_have_count(1, timeout=PATIENCE)
    expect(page.answered()).to_have_text("third")
    assert [m.content for m in page.backend.requests[2].messages[1:]] == [question + "\n<U>&amp;"]


@pytest.mark.exhaustive  # test_hostile.py has a text back from Undo
def test_undo_gives_the_text_back_as_written(chat: Open) -> None:
    page = chat()
    page.say("\ta <T> &lt;\n    b")
    page.button("Undo").click()
    expect(page.box).to_have_value("\ta <T> &lt;\n    b")


def test_maths_is_set_and_money_is_not(chat: Open) -> None:
    aligned = "\\begin{aligned}c_1 &= d\\end{aligned}"
    reply = f"Sum $$x^2 < y$$ inline \\(a<b\\) and\n\n\\[{aligned}\\]\n\nIt costs $5 and $6, `$$no$$`."
    page = chat([reply])
    shown = page.say("hi")
    expect(shown.locator(".katex")).to_have_count(3)
    sources = shown.locator("annotation").all_text_contents()
    assert [source.strip() for source in sources] == ["x^2 < y", "a<b", aligned]
    assert "It costs $5 and $6, $$no$$." in shown.inner_text()
    assert page.copied_by(page.button("Copy message").last) == reply


def test_code_block_has_colours_and_a_copy_button(chat: Open) -> None:
    page = chat(["```python\ndef f():\n    return 1\n```"])
    shown = page.say("hi")
    expect(shown.locator("pre .token.keyword").first).to_have_text("def")
    plain, keyword = (
        shown.locator(selector).first.evaluate("e => getComputedStyle(e).color")
        for selector in ("pre code", ".keyword")
    )
    assert plain != keyword
    expect(shown.get_by_role("button", name=re.compile("copy", re.IGNORECASE))).to_be_visible()


def test_emoji_and_other_scripts(chat: Open) -> None:
    text = "👩‍👩‍👧‍👦 Ünïcödé 中文字 עברית हिन्दी 🇩🇪"
    page = chat(list(text))
    expect(page.say(text)).to_have_text(text)
    assert page.backend.requests[0].messages[-1].content == text


SHOWN_CODE = """element => {
  const code = element.querySelector("pre code");
  return [code.textContent, /[\\u2061-\\u2064]/.test(element.textContent)];
}"""


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.exhaustive)])
def test_texts_of_both_directions_lists_tables_and_footnotes(chat: Open, scheme: str) -> None:
    reply = (
        "# عنوان\n\nفقرة with `x = 1` و $x^2$.\n\nEnglish costs $5.\n\n- عنصر\n- one\n  - two\n\n"
        "1. first\n\n   second\n\n- [x] done\n- [ ] open\n\n"
        "| اسم | b |\n|---|---|\n| واحد<br>اثنان | <br> |\n\nSee[^n].\n\n[^n]: the note"
    )
    page = chat([reply], fresh=True, color_scheme=scheme)
    shown = page.say("سؤال")
    directions = """all => all.map(e => [getComputedStyle(e).direction, getComputedStyle(e).textAlign])"""
    right, left = ["rtl", "start"], ["ltr", "start"]
    expect(shown.locator(".katex")).to_have_count(1)
    assert shown.locator("h1, :not(li) > p").evaluate_all(directions)[:3] == [right, right, left]
    assert shown.locator("ul").first.locator("li").evaluate_all(directions) == [right, left, left]
    assert shown.locator("table").evaluate("e => e.dir") == "rtl"
    assert shown.locator("td").evaluate_all(directions)[0] == right
    assert page.questions.last.locator("p").evaluate_all(directions) == [right]
    assert page.page.locator("#chats .chat-link").first.evaluate("e => getComputedStyle(e).direction") == "rtl"
    page.box.fill("سلام")
    assert page.box.evaluate("e => getComputedStyle(e).direction") == "rtl"

    sizes = shown.locator("li").evaluate_all("all => all.map(e => getComputedStyle(e).fontSize)")
    assert len(set(sizes)) == 1
    first, second = shown.locator("li > p").evaluate_all("all => all.map(e => e.getBoundingClientRect())")
    assert second["top"] > first["bottom"] + 4
    boxes = shown.get_by_role("checkbox")
    assert [box.is_checked() for box in boxes.all()] == [True, False]
    looks = boxes.evaluate_all("all => all.map(e => [e.style, getComputedStyle(e)].map(s => s.backgroundColor)[1])")
    assert looks[0] != looks[1]
    assert shown.locator("td br").count() == 2
    assert "<br>" not in shown.locator("table").inner_text()

    assert "[^n]" not in shown.inner_text()
    shown.get_by_role("link", name="1").click()
    expect(shown.locator("p:has(.footnote)")).to_have_text("1. the note")
    expect(shown.locator(".footnote")).to_be_focused()
    assert page.copied_by(page.button("Copy message").last) == reply


def test_formulas_are_outside_code_alone(chat: Open) -> None:
    sql = "\tCREATE FUNCTION f() AS $$\nBEGIN x; END;\n$$ -- %%%LATEX_BLOCK_0%%%\n\n"
    reply = (
        f"The pid is $$ here, $HOME, $5 and $6.\n\n```sql\n{sql}\n```\n\nthen `echo $$`, %%%LATEX_BLOCK_0%%% and $y_1$"
        "\n\n> $$\n> \\frac{a}{b} < c\n> $$\n\n$$\nx = 1\n\n- z\n$$"
    )
    page = chat([reply])
    shown = page.say("hi")
    expect(shown.locator(".katex")).to_have_count(3)
    sources = [" ".join(text.split()) for text in shown.locator("annotation").all_text_contents()]
    assert sources == ["y_1", "\\frac{a}{b} < c", "x = 1 - z"]
    assert shown.evaluate(SHOWN_CODE) == [sql + "\n", False]
    text = shown.inner_text()
    assert "The pid is $$ here, $HOME, $5 and $6." in text
    assert "%%%LATEX_BLOCK_0%%% and" in text
    assert page.copied_by(shown.get_by_role("button", name="Copy code", exact=True)) == sql
    assert page.copied_by(page.button("Copy message").last) == reply


def test_all_is_copied_as_written_over_plain_http(serve: Callable[..., Site], open_chat: Open) -> None:
    """On a network without https a page has no clipboard of its own."""
    code = "\t<b>\n  $$ &lt;\n\n"
    reply = f"Costs $5, $x^2$ and <T> &amp;\n\n```\n{code}\n```"
    page = open_chat(serve([reply], name=FOREIGN_HOST))
    assert page.page.evaluate("isSecureContext") is False
    page.say("\tmy <T> &lt;")

    def pasted() -> str:
        page.box.fill("")
        page.box.focus()
        page.page.keyboard.press("Control+V")
        text = page.box.input_value()
        page.box.fill("")
        return text

    def copied_by(button: Locator) -> str:
        before = pasted()
        button.click()
        wait_until(lambda: pasted() != before, what="the copy")
        return pasted()

    assert copied_by(page.button("Copy message").first) == "\tmy <T> &lt;"
    assert copied_by(page.button("Copy message").last) == reply
    assert copied_by(page.replies.last.get_by_role("button", name="Copy code", exact=True)) == code
    whole = copied_by(page.button("Copy conversation"))
    assert "\tmy <T> &lt;" in whole
    assert reply in whole
    page.log.get_by_role("link", name="Inspect").click()
    page.page.get_by_text("Token ids").click()
    copied = copied_by(page.page.locator("#inspector").get_by_role("button", name="Copy").first)
    assert copied.strip().startswith(("[", "<", "{", "'"))
