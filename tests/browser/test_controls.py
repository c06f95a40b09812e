"""All controls of the main views, in every language and on screens of all kinds: each can be seen whole and hit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from chatui.i18n import LANGUAGES
from tests.browser.conftest import Serve
from tests.browser.pages import PATIENCE

pytestmark = pytest.mark.browser

CHECK = (Path(__file__).parent / "controls.js").read_text(encoding="utf-8")
SIZES = [(320, 640), (820, 1180), (1366, 768)]
QUICK = {("de", 320)}
"""The longest words on the narrowest screen; test_layout.py and test_access.py have a page from right to left."""
CASES = [
    pytest.param(language, size, marks=[] if (language, size[0]) in QUICK else pytest.mark.exhaustive)
    for language in LANGUAGES
    for size in SIZES
]
LONG = "A sentence of the reply that is long enough to fill a line of the column on most screens. " * 4


def check(page: Page, scope: str = "body") -> tuple[int, list[str]]:
    found: dict[str, Any] = page.evaluate(CHECK, scope)
    return found["seen"], found["wrong"]


def bar(page: Page, name: str, opened: bool) -> None:
    side = page.locator(f"#{name}")
    if ("open" in (side.get_attribute("class") or "").split()) != opened:
        side.locator(".toggle-button").click()
    expect(page.locator(f"#{name}.open")).to_have_count(int(opened))


def views(page: Page) -> Iterator[tuple[str, str]]:
    """Turns to each view, and says its name and below what its controls are. Knows no word of any language."""
    yield "empty", "body"
    page.locator("#message textarea").fill("hi")
    page.locator("#message textarea").press("Enter")
    inspect = page.locator("#chat .chat-bar .inspect")
    expect(inspect).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#message .submit-button")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#message .stop-button")).to_have_count(0)  # both are there for a moment
    yield "chat", "body"
    inspect.click()
    expect(page.locator("#inspector .token").first).to_be_visible(timeout=PATIENCE)
    yield "inspect", "#inspector"
    page.locator("#inspector-close").click()
    expect(page.locator("#inspector")).to_be_hidden(timeout=PATIENCE)
    bar(page, "settings", opened=True)
    page.evaluate("document.querySelectorAll('#settings .label-wrap:not(.open)').forEach(part => part.click())")
    expect(page.locator("#setting-temperature")).to_be_visible()
    yield "settings", "#settings"
    page.locator("#settings .persona-actions button").first.click()
    expect(page.locator("#persona-editor")).to_be_visible(timeout=PATIENCE)
    yield "persona", "#settings"
    page.locator("#persona-editor .persona-end button").last.click()
    expect(page.locator("#persona-editor")).to_be_hidden(timeout=PATIENCE)
    bar(page, "settings", opened=False)
    bar(page, "conversations", opened=True)
    yield "chats", "#conversations"
    page.locator("#chats .chat-menu summary").first.click()
    expect(page.locator("#chats .chat-menu[open] a").first).to_be_visible()
    yield "menu", "#chats .chat-menu[open]"


@pytest.mark.parametrize(("language", "size"), CASES)
def test_every_control_can_be_seen_whole_and_hit(
    serve: Serve, browser: Browser, language: str, size: tuple[int, int]
) -> None:
    window: Any = {"width": size[0], "height": size[1]}
    with browser.new_context(locale=language, viewport=window, reduced_motion="reduce") as context:
        page = context.new_page()
        page.goto(serve([LONG]).url)
        page.locator("html.at-rest").wait_for(state="attached", timeout=PATIENCE)
        found = {}
        for name, scope in views(page):
            seen, wrong = check(page, scope)
            assert seen > 3, name
            if wrong:
                found[name] = wrong
        assert found == {}


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("#message .submit-button { margin-inline-start: -8rem !important }", " is over "),
        ("#message .submit-button { translate: 50vw }", " beside the screen"),
        (
            "#message .input-container { overflow: hidden; width: 8rem } #message textarea { min-width: 9rem }",
            " cut off ",
        ),
        ("#status { position: fixed; inset: 0; z-index: 9999 }", " covered by "),
        ("#message .submit-button { height: 1rem !important }", " px"),
        ("#message .submit-button { max-width: 2.5rem; min-width: 0 !important; overflow: hidden }", " no room "),
    ],
)
def test_what_is_wrong_is_found(pool: Any, style: str, message: str) -> None:
    chat = pool.take([[LONG]], 200.0)
    assert not any(message in wrong for wrong in check(chat.page, "#message")[1])
    tag = chat.page.add_style_tag(content=style)
    wrong = check(chat.page, "#message")[1]
    tag.evaluate("tag => tag.remove()")
    assert any(message in one for one in wrong), wrong
