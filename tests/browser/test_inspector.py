"""The Inspect view: each of its pages for any reply, another token to go on from, and the line about the context."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from chatui.settings import AppSettings
from tests.browser.pages import CONTRASTS, PATIENCE, Chat, Site, wait_until
from tests.fakes import Hold

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]
SHOWN = {
    "Prompt": "Nothing was left out",
    "Tokens": "2 tokens",
    "Time": "queue",
    "Memory": "1,234,567",
    "Ceiling": "10.0 GB/s",
    "Why": "ends a reply",
    "Python": "apply_chat_template",
    "Persona": "Its KV cache",
}
"""The pages, and what each tells of a reply of two words."""


def inspect(page: Chat, number: int = -1) -> Locator:
    page.log.locator(".chat-bar .inspect").nth(number).click()
    view = page.page.locator("#inspector")
    expect(view).to_be_visible(timeout=PATIENCE)
    return view


def turn_to(page: Chat, name: str) -> None:
    page.page.get_by_role("tab", name=name, exact=True).click()


def shown(view: Locator) -> str:
    return re.sub(r"\s+", " ", view.inner_text())


def test_each_page_tells_of_the_reply(chat: Open) -> None:
    page = chat(["Hello", " there", " you"], ["Again", " hello"], fresh=True)
    for text in ("First words", "Second words"):
        page.say(text)
    view = inspect(page)
    expect(view.locator(".token").filter(has_text="F").first).to_be_visible(timeout=PATIENCE)
    for part in ("persona", "earlier user 11", "earlier reply 15", "this message 12"):
        expect(view).to_contain_text(part, use_inner_text=True)
    for name, words in SHOWN.items():
        turn_to(page, name)
        expect(view).to_contain_text(words, timeout=PATIENCE)
    _pictures_come_first_and_their_numbers_one_click_deeper(page, view)
    turn_to(page, "Python")
    with page.page.expect_download() as download:
        view.get_by_role("link", name="Export as notebook").click()
    assert download.value.suggested_filename == "First words.ipynb"
    assert "Second words" in download.value.path().read_text()
    view.get_by_role("button", name="Close").click()
    expect(view).to_be_hidden(timeout=PATIENCE)
    assert page.watch.errors == []


def _pictures_come_first_and_their_numbers_one_click_deeper(page: Chat, view: Locator) -> None:
    turn_to(page, "Memory")
    expect(view.get_by_text(re.compile(r"weights\s5\sMB.*KV\scache")).first).to_be_visible(timeout=PATIENCE)
    expect(view.locator(".chart .column")).to_have_count(2)
    number = view.get_by_text("1,234,567").first
    expect(number).to_be_hidden()
    view.get_by_text("All numbers and their formulas").filter(visible=True).click()
    expect(number).to_be_visible(timeout=PATIENCE)
    turn_to(page, "Ceiling")
    expect(view.locator(".chart .lane").filter(has_text="bfloat16").filter(visible=True)).to_be_visible(
        timeout=PATIENCE
    )
    expect(view.get_by_text(re.compile(r"this reply: .*\stokens/s"))).to_be_visible(timeout=PATIENCE)


@pytest.mark.exhaustive  # test_access.py looks at each page in dark, test_looks.py at the chat in light
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_view_can_be_read(chat: Open, scheme: str) -> None:
    page = chat(["Hello", " there"], color_scheme=scheme, reduced_motion="reduce")
    page.say("First words")
    view = inspect(page)
    expect(view.locator(".token").first).to_be_visible(timeout=PATIENCE)
    texts = []
    for name, words in SHOWN.items():
        turn_to(page, name)
        expect(view).to_contain_text(words, timeout=PATIENCE)
        if name == "Tokens":
            view.locator("#reply-tokens .token").first.click()
            expect(page.page.locator("#alternatives table")).to_be_visible(timeout=PATIENCE)
        for numbers in view.locator(".numbers > summary").filter(visible=True).all():
            numbers.click()
        page.page.wait_for_timeout(300)
        texts += page.page.evaluate(CONTRASTS)
    assert len(texts) > 200
    assert {text["dark"] for text in texts if text["what"].startswith("TD")} == {scheme == "dark"}
    pale = sorted({f"{t['ratio']:.1f} {t['what']} {t['text']!r}" for t in texts if t["ratio"] < 4.5})
    assert pale == []


@pytest.mark.exhaustive  # the tests below inspect before and after one
def test_old_replies_can_be_inspected_after_a_reload(chat: Open) -> None:
    page = chat([f"word{number} " for number in range(20)], rate=20, fresh=True)
    page.say("Count")
    page.page.wait_for_timeout(500)
    page.page.reload()
    view = inspect(page)
    turn_to(page, "Time")
    expect(view).to_contain_text("first text on the screen after", timeout=PATIENCE)
    page.page.keyboard.press("Escape")
    expect(view).to_be_hidden(timeout=PATIENCE)


@pytest.mark.exhaustive  # tests/unit/test_inspector.py, test_runner.py, test_python_script.py have each part
def test_of_a_stopped_reply_all_that_was_written_is_told(chat: Open) -> None:
    page = chat(["One ", "two ", "three ", Hold(), "never"])
    page.ask("Count")
    expect(page.replies.last).to_contain_text("three", timeout=PATIENCE)
    page.stop.click()
    view = inspect(page)
    turn_to(page, "Tokens")
    expect(view).to_contain_text("3 tokens", timeout=PATIENCE)
    tokens = view.locator("#reply-tokens .token")
    expect(tokens).to_have_text(["One·", "two·", "three·"], use_inner_text=True)
    for name, words in (("Time", "3 tokens, 4.0 tokens/s"), ("Why", "It was stopped by hand.")):
        turn_to(page, name)
        expect(view).to_contain_text(words, timeout=PATIENCE)
    turn_to(page, "Python")
    script = view.locator(".cm-scroller").filter(visible=True)

    def has_last_lines() -> bool:
        """Scroll down: the editor renders only the lines that can be seen."""
        script.evaluate("part => part.scrollTo(0, part.scrollHeight)")
        return "ended early, after 3 tokens" in script.inner_text()

    wait_until(has_last_lines, what="the last lines of the script")
    assert page.watch.errors == []


STANDS_STILL = """() => {
  setTimeout(() => { const end = performance.now() + 1000; while (performance.now() < end); });
}"""


def test_the_tab_that_saw_the_reply_tells_its_own_times(chat: Open) -> None:
    hold = Hold()
    page = chat(["One", hold, " two"])
    page.ask("Count")
    expect(page.replies.last).to_have_text("One")
    page.page.evaluate(STANDS_STILL)  # so that the last text comes together with the end
    hold.release()
    page.answered()
    view = inspect(page)
    turn_to(page, "Time")
    expect(view).to_contain_text("first text on the screen after", timeout=PATIENCE)
    found = re.search(r"first text on the screen after ([\d.]+) s, the last after ([\d.]+) s", shown(view))
    assert found
    first, last = map(float, found.groups())
    assert first > 0
    assert last - first > 0.9


def test_a_reply_that_no_tab_saw_has_no_times_of_a_page(chat: Open) -> None:
    hold = Hold()
    page = chat(["One", hold, " two"])
    page.ask("Count")
    expect(page.log).to_contain_text("One", timeout=PATIENCE)
    page.page.reload()
    hold.release()
    page.answered()
    view = inspect(page)
    turn_to(page, "Time")
    expect(view).to_contain_text("no tab saw", timeout=PATIENCE)


def test_resting_on_a_token_shows_what_else_it_could_have_been(chat: Open) -> None:
    page = chat(["One", " two", " three"])
    page.say("Count")
    view = inspect(page)
    turn_to(page, "Tokens")
    tokens = view.locator("#reply-tokens .token")
    tokens.nth(1).hover()
    others = page.page.locator("#alternatives")
    expect(others).to_contain_text("Token 2:", timeout=PATIENCE)
    tokens.nth(2).hover()
    expect(others).to_contain_text("Token 3:", timeout=PATIENCE)
    tokens.nth(0).click()
    expect(others).to_contain_text("Token 1:", timeout=PATIENCE)
    tokens.nth(2).hover()
    page.page.wait_for_timeout(600)
    expect(others).to_contain_text("Token 1:")


def test_another_token_becomes_another_version(chat: Open) -> None:
    page = chat(["One", " two", " three"], [" and", " on"])
    backend = page.backend
    page.say("Count")
    view = inspect(page)
    turn_to(page, "Tokens")
    view.locator(".token:visible").nth(1).click()
    table = page.page.locator("#alternatives table")
    expect(table).to_contain_text("75.00%", timeout=PATIENCE)
    expect(table).to_contain_text("top-p")
    table.get_by_role("link", name="Go on from it").click()
    expect(view).to_be_hidden(timeout=PATIENCE)
    page.answered()
    expect(page.log).to_contain_text("One other and on", timeout=PATIENCE)
    expect(page.log.locator(".chat-bar.answer").last).to_contain_text("2/2", timeout=PATIENCE)
    assert backend.requests[-1].messages[-1].content == "One other"


def test_side_by_side_keeps_nothing(chat: Open) -> None:
    page = chat(["As", " it", " was"], ["As", " it", " is"])
    backend = page.backend
    page.say("Say")
    view = inspect(page)
    turn_to(page, "Persona")
    view.get_by_role("button", name="Ask the same").click()
    expect(view).to_contain_text("As it is", timeout=PATIENCE)
    expect(view).to_contain_text("As it was")
    assert backend.requests[1].settings.seed == backend.requests[0].settings.seed
    assert [m.content for m in backend.requests[1].messages] == [m.content for m in backend.requests[0].messages]
    view.get_by_role("button", name="Close").click()
    expect(page.log.locator(".chat-bar.answer")).to_have_count(1)
    assert "As it is" not in page.log.inner_text()


def test_the_context_is_counted_while_one_types(chat: Open) -> None:
    page = chat()
    line = page.page.locator("#context")
    page.box.press_sequentially("Hello")
    expect(line).to_contain_text("your message 5", timeout=PATIENCE)
    expect(line).to_contain_text("room for the reply 512")
    expect(line).to_contain_text("of 4,096 tokens")
    page.say("Hello")
    expect(line).to_contain_text("history", timeout=PATIENCE)
    expect(line).not_to_contain_text("your message")


def test_without_inspections_replies_say_so(serve: Callable[..., Site], open_chat: Open, tmp_path: Path) -> None:
    page = open_chat(serve(["Hi"], settings=AppSettings(data_dir=tmp_path, inspect=False)))
    page.say("Hello")
    page.log.locator(".chat-bar .inspect").last.click()
    expect(page.page.locator("#inspector")).to_contain_text("was not kept", timeout=PATIENCE)
