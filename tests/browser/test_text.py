"""Text shows as it was written, is copied and edited as it was written, and maths and code are set."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.pages import PATIENCE, Chat

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


def test_code_shows_as_written(chat: Open) -> None:
    page = chat(*([text] for text, _ in BLOCKS))
    shown = [page.say("hi").locator("pre code").inner_text().rstrip("\n") for _ in BLOCKS]
    assert shown == [code for _, code in BLOCKS]


def test_code_is_copied_as_written(chat: Open) -> None:
    page = chat([f"```make\n{CODE}\n```"])
    page.say("hi").get_by_role("button", name="copy", exact=True).click()
    assert page.copied().rstrip("\n") == CODE


def test_messages_are_copied_edited_and_sent_again_as_written(chat: Open) -> None:
    page = chat([EXACT[:20], EXACT[20:33], EXACT[33:]], ["second"], ["third"])
    question = "\tMy <T> &lt;\n\n    indent `a<b>`\n```\n\tx\n```"
    page.say(question)
    assert page.backend.requests[0].messages[-1].content == question
    page.button("Copy message").first.click()
    assert page.copied() == question
    page.button("Copy message").last.click()
    assert page.copied() == EXACT
    page.button("Copy conversation").click()
    assert question in page.copied()
    assert EXACT in page.copied()

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
    page.button("Copy message").last.click()
    assert page.copied() == reply


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
