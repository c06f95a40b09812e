"""The page in other languages, and for those who listen to it or have no mouse."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from chatui import i18n
from chatui.i18n import gettext
from tests.browser.conftest import Serve
from tests.browser.pages import PATIENCE

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
FAULTS = """async () => (await axe.run()).violations.map(each => `${each.id}: ${each.nodes[0].html.slice(0, 120)}`)"""
REPLY = [
    '# Title\n\nSome `code` and [a link](https://example.org).\n\n```python\ndef f():\n    return "text", 1\n```\n\n'
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n- [x] one\n- [ ] two\n"
]


@contextmanager
def opened(browser: Browser, url: str, locale: str, **options: Any) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1600, "height": 900}, locale=locale, **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#message .submit-button")).to_be_visible(timeout=PATIENCE)
    yield page
    context.close()


def ask(page: Page) -> None:
    page.locator("#message textarea").fill("Hello <b>you</b>")
    page.keyboard.press("Enter")
    expect(page.locator("#chat .inspect").last).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#message .submit-button")).to_be_visible(timeout=PATIENCE)


def faults(page: Page) -> list[str]:
    page.wait_for_timeout(700)
    page.evaluate(AXE)
    found: list[str] = page.evaluate(FAULTS)
    return found


@pytest.mark.parametrize(
    ("locale", "scheme"),
    [
        ("en", "light"),
        ("ar", "dark"),
        *(
            pytest.param(*each, marks=pytest.mark.exhaustive)
            for each in (("en", "dark"), ("de", "light"), ("de", "dark"))
        ),
        pytest.param("ar", "light", marks=pytest.mark.exhaustive),
    ],
)
def test_axe_finds_nothing(browser: Browser, serve: Serve, locale: str, scheme: str) -> None:
    with opened(browser, serve(REPLY).url, locale, color_scheme=scheme) as page:
        assert faults(page) == []
        ask(page)
        page.locator("#chats .chat-menu summary").first.focus()
        page.keyboard.press("Enter")
        assert faults(page) == []
        page.keyboard.press("Escape")
        assert page.locator("#chats .chat-menu summary").first.evaluate("menu => menu === document.activeElement")
        page.locator("#chat .inspect").last.click()
        expect(page.get_by_role("dialog")).to_be_visible(timeout=PATIENCE)
        tabs = page.locator("#inspector [role=tab]")
        expect(tabs).to_have_count(8)
        for number in range(8):
            tabs.nth(number).click()
            assert faults(page) == [], number
        page.keyboard.press("Escape")
        page.locator("#settings .persona-actions button").first.click()
        expect(page.locator("#persona-editor")).to_be_visible()
        assert faults(page) == []


def test_inspect_holds_the_focus_and_gives_it_back(browser: Browser, serve: Serve) -> None:
    with opened(browser, serve(REPLY).url, "en") as page:
        ask(page)
        assert "<" not in "".join(page.locator("#chat [aria-label]").evaluate_all("all => all.map(x => x.ariaLabel)"))
        assert page.locator("h1").evaluate_all(
            "all => all.filter(one => !one.ariaLevel).map(one => one.clientHeight)"
        ) == [1]
        page.locator("#chat .inspect").last.focus()
        page.keyboard.press("Enter")
        box = page.get_by_role("dialog")
        expect(box).to_have_attribute("aria-modal", "true")
        for key in ("Tab", "Shift+Tab"):
            for _ in range(25):
                page.keyboard.press(key)
                assert box.evaluate("box => box.contains(document.activeElement)")
        page.keyboard.press("Escape")
        expect(page.locator("#chat .inspect").last).to_be_focused()


@pytest.mark.parametrize("locale", ["de-DE", "zh-CN", "ar", "pt-BR"])
def test_the_page_is_in_the_language_of_the_browser(browser: Browser, serve: Serve, locale: str) -> None:
    spoken = i18n.negotiated(locale)
    with i18n.speaking(spoken), opened(browser, serve(REPLY).url, locale) as page:
        html = page.locator("html")
        expect(page.get_by_role("button", name=gettext("Send"), exact=True)).to_be_visible()
        expect(page.get_by_role("button", name=gettext("New chat"), exact=True)).to_be_visible()
        expect(page.locator("#chat .greeting")).to_contain_text(gettext("Hello! What are you curious about?"))
        ask(page)
        expect(html).to_have_attribute("lang", spoken)
        expect(html).to_have_attribute("dir", i18n.direction())
        expect(page.locator("#chats")).to_contain_text(gettext("Today"))
        expect(page.locator("#chat .inspect").last).to_have_text(gettext("Inspect"))
        shown = page.locator("#chat .top-panel button").filter(visible=True)
        assert {
            block.get_attribute("dir")
            for block in page.locator(".block[dir]:not(:has(input[type=range]), #persona)").all()
        } == {i18n.direction()}
        expect(shown).to_have_count(1)  # Copy conversation; Gradio's Clear empties the screen alone
