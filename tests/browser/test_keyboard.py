"""A whole visit by keyboard alone, what a screen reader says meanwhile, contrast themes, and no motion."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import gradio as gr
import pytest
from playwright.sync_api import Browser, Page, expect

from chatui.chat import ChatRequest
from chatui.settings import AppSettings
from tests.browser.conftest import Serve
from tests.browser.pages import PATIENCE, Site, wait_until
from tests.browser.test_access import ask, opened
from tests.fakes import FakeBackend, Hold, Script

# What has the focus, and whether one sees that it has.
FOCUS = """selector => {
  const at = document.activeElement;
  const ring = at.matches('#message textarea') ? at.closest('.input-container') : at;
  const style = getComputedStyle(ring);
  const shown = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
  return [at.matches(selector), at === document.body, shown,
    `${at.tagName} ${at.id} ${at.className} ${at.ariaLabel || at.textContent.slice(0, 40)}`];
}"""
CHAT = [
    {"title": "brought in", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
]


class Keys:
    """Someone who has a keyboard and nothing else."""

    def __init__(self, page: Page) -> None:
        self.page, self._keys = page, page.keyboard
        self.announcements = page.locator("#heard")

    def to(self, selector: str, key: str = "Tab") -> None:
        """Go there, and see where one is at each stop. The page has no more than 150."""
        for _ in range(150):
            there, nowhere, seen, what = self.page.evaluate(FOCUS, selector)
            assert seen or nowhere, f"nobody sees the focus at {what}"
            if there:
                return
            self._keys.press(key)
        raise AssertionError(f"{selector} is not reached; the focus is at {what}")

    def back_to(self, selector: str) -> None:
        """The same, the other way round."""
        self.to(selector, "Shift+Tab")

    def press(self, *keys: str) -> None:
        for key in keys:
            self._keys.press(key)

    def type(self, text: str) -> None:
        self._keys.type(text)

    def at(self, selector: str) -> None:
        """The focus comes to rest there, and shows."""
        expect(self.page.locator(f"{selector}:focus")).to_be_visible()
        assert self.page.evaluate(FOCUS, selector)[2], f"nobody sees the focus at {selector}"

    def hears(self, text: str) -> None:
        expect(self.announcements).to_contain_text(text, timeout=PATIENCE)

    def button(self, name: str) -> str:
        return f"#chat button[aria-label='{name}']"


BOX = "#message textarea"


@pytest.fixture
def keys(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keys]:
    """The page to log in, and a model that waits within a reply to "wait". Notices stay until they are closed."""
    monkeypatch.setattr(gr, "Info", partial(gr.Info, duration=None))  # one may need longer to come there than they stay
    hold = Hold()

    def answer(request: ChatRequest) -> Script:
        last = request.messages[-1].content
        return ["Half", hold, "whole"] if last == "wait" else [f"answer {len(request.messages)} to {last}"]

    settings = AppSettings(data_dir=tmp_path, allowed_hosts="", auth="ada:secret")
    with (
        Site(FakeBackend(answer), settings) as site,
        opened(browser, site.url, "en", reduced_motion="reduce") as page,
    ):
        yield Keys(page)


def test_a_keyboard_alone_does_everything(keys: Keys) -> None:
    logs_in(keys)
    asks(keys)  # right after the page was loaded
    sets(keys)
    keys.to(BOX)
    changes_what_was_said(keys)
    inspects(keys)
    keeps_house(keys)
    makes_a_persona(keys)
    keys.back_to("#log-out")
    keys.press("Enter")
    keys.at("input[type=text]")


def logs_in(keys: Keys) -> None:
    keys.at("input[type=text]")
    keys.type("ada")
    keys.press("Tab")
    keys.type("secret")
    keys.press("Enter")
    expect(keys.page.locator("#message .submit-button")).to_be_visible(timeout=PATIENCE)
    keys.at(BOX)
    keys.to(".skip")
    keys.press("Enter")
    keys.at(BOX)
    keys.press("Enter")
    keys.hears("Type a message first.")


def sets(keys: Keys) -> None:
    page = keys.page
    toggle = "#settings .toggle-button"
    keys.back_to(toggle)
    if page.locator(toggle).get_attribute("aria-expanded") == "false":
        keys.press("Enter")
    expect(page.locator(toggle)).to_have_attribute("aria-expanded", "true")
    keys.to("#persona input")
    before = page.locator("#persona input").input_value()
    keys.press("ArrowDown", "ArrowDown", "Enter")
    expect(page.locator("#persona input")).not_to_have_value(before)
    keys.at("#persona input")
    expect(page.locator("#persona input")).to_have_attribute("aria-expanded", "false")
    keys.to("#settings .gr-accordion .label-wrap")
    keys.press("Enter")
    expect(page.locator("#setting-temperature")).to_be_visible()
    keys.to("#setting-temperature [data-testid=range-input]")
    keys.press("ArrowRight")
    expect(page.locator("#setting-temperature [data-testid=number-input]")).to_have_value("0.55")


def asks(keys: Keys) -> None:
    page = keys.page
    keys.to(BOX)
    keys.type("one")
    keys.press("Enter")
    keys.hears("answer 2 to one")
    keys.at(BOX)
    keys.type("wait")
    keys.press("Enter")
    expect(page.locator("#chat").get_by_text("Half")).to_be_visible()
    keys.to("#message .stop-button")
    keys.press("Enter")
    keys.hears("Half Stopped.")
    keys.at(BOX)
    keys.type("two")
    keys.press("Tab")
    keys.at("#message .submit-button")
    keys.press("Enter")
    keys.hears("answer 6 to two")
    keys.at(BOX)


def changes_what_was_said(keys: Keys) -> None:
    page = keys.page
    keys.back_to(keys.button("Retry"))
    keys.press("Enter")
    assert page.evaluate(FOCUS, BOX)[0], "the focus stays on a button that Gradio replaces at some time"
    expect(page.locator("#chat .chat-bar.answer").last).to_contain_text("2/2")
    keys.at(BOX)
    keys.back_to("#chat a[title='Previous version']")
    keys.press("Enter")
    keys.at("#chat a[title='Next version']")
    keys.press("Enter")
    keys.at("#chat a[title='Previous version']")
    keys.to(BOX)
    keys.back_to(keys.button("Edit"))
    keys.press("Enter")
    keys.at("#chat textarea")
    keys.to(keys.button("Cancel"))
    keys.press("Enter")
    keys.at(keys.button("Edit"))
    keys.press("Enter")
    keys.at("#chat textarea")
    keys.press("End")
    keys.type("!")
    keys.to(keys.button("Submit"))
    keys.press("Enter")
    keys.hears("answer 6 to two!")
    expect(page.locator("#chat .chat-bar.question").last).to_contain_text("2/2")
    keys.to(BOX)
    keys.back_to(keys.button("Copy message"))
    keys.press("Enter")
    keys.hears("Copied.")
    keys.to(keys.button("Like"))
    keys.press("Enter")
    keys.back_to("#chat .annotate")
    keys.press("Enter")
    keys.at(".written-here")
    keys.type("good")
    keys.press("Enter")
    expect(page.locator("#chat .annotate")).to_have_text("Note: good")
    keys.at("#chat .annotate")


def inspects(keys: Keys) -> None:
    keys.to(BOX)
    keys.back_to("#chat .inspect")
    keys.press("Enter")
    keys.at("#inspector")
    keys.to("#inspector [role=tab]")
    names = []
    for _ in range(8):
        names.append(keys.page.evaluate("document.activeElement.textContent.trim()"))
        expect(keys.page.locator("#inspector [role=tab]:focus")).to_have_attribute("aria-selected", "true")
        keys.press("ArrowRight")
    assert len(set(names)) == 8
    keys.press("Escape")
    keys.at("#chat .inspect")


def chooses(keys: Keys, entry: str) -> None:
    """From the menu of the chat that is open."""
    keys.back_to("#chats .chat-row.current summary")
    keys.press("Enter")
    keys.to(f"#chats .chat-menu[open] .{entry}")
    keys.press("Enter")


def keeps_house(keys: Keys) -> None:
    page = keys.page
    chooses(keys, "rename")
    keys.at(".written-here")
    keys.type("My own")
    keys.press("Enter")
    expect(page.locator("#chats .chat-link")).to_have_text(["My own"])
    keys.at("#chats .chat-link")
    keys.to("#chats summary")
    chooses(keys, "pin")
    expect(page.locator("#chats .chat-row.pinned")).to_be_visible()
    keys.at("#chats summary")
    chooses(keys, "delete")
    keys.at("#chats .chat-list-top a")
    keys.hears("Deleted.")
    keys.press("Enter")
    keys.at("#chats .chat-link")
    keys.back_to("#search input")
    keys.type("half")
    keys.hears("Found: 1")
    keys.press("Control+a", "Delete")
    expect(page.locator("#chats mark")).to_have_count(0)
    keys.to("#bring")
    picker = page.locator("#conversations input[type=file]")
    picker.evaluate("box => box.addEventListener('click', () => box.dataset.opened = 'yes')")
    keys.press("Enter")
    expect(picker).to_have_attribute("data-opened", "yes")
    picker.set_input_files({"name": "x.json", "mimeType": "application/json", "buffer": json.dumps(CHAT).encode()})
    keys.hears("Conversations imported: 1.")
    keys.at("#bring")
    keys.to("[data-testid=toast-close]")
    keys.press("Enter")
    expect(page.get_by_test_id("toast-body")).to_have_count(0)
    keys.at(BOX)
    keys.back_to("#new-chat")
    keys.press("Enter")
    expect(page.locator("#chat .example").first).to_be_visible()
    keys.at(BOX)


def makes_a_persona(keys: Keys) -> None:
    keys.back_to("#persona input")
    keys.press("Escape")
    keys.to("#persona-chooser .persona-actions button")
    keys.press("Enter")
    keys.at("#persona-editor .persona-name input")
    keys.type("Mine")
    keys.to("#persona-editor .persona-end button")
    keys.press("Enter")
    expect(keys.page.locator("#persona input")).to_have_value(re.compile("Mine"))
    keys.at("#persona-chooser button")


def _note_announcements(page: Page) -> None:
    page.evaluate(
        """() => {
          const heard = document.getElementById('heard');
          window.said = [];
          const note = () => said.push(heard.textContent);
          new MutationObserver(note).observe(heard, { childList: true, subtree: true });
        }"""
    )


def test_examples_are_a_list_and_a_reply_is_said_once(browser: Browser, serve: Serve) -> None:
    hold = Hold()
    with opened(browser, serve(["First", hold, " and last."]).url, "en") as page:
        shown = page.locator("#chat .placeholder-content")
        expected = re.compile(r'- list "Examples":\n\s+- listitem:\n\s+- button "')
        wait_until(lambda: expected.search(shown.aria_snapshot()), what="the list of examples")
        _note_announcements(page)
        page.locator("#message textarea").fill("hello")
        page.keyboard.press("Enter")
        expect(page.locator("#chat [role=log]")).to_contain_text("First")
        hold.release()
        expect(page.locator("#heard")).to_have_text("Reply: First and last.", timeout=PATIENCE)
        assert [text for text in page.evaluate("said") if "First" in text] == ["Reply: First and last."]


def test_quick_replies_of_one_text_are_each_said(browser: Browser, serve: Serve) -> None:
    with opened(browser, serve(["Same"], rate=5000).url, "en") as page:
        _note_announcements(page)
        expect(page.locator("html.at-rest")).to_be_attached(timeout=PATIENCE)
        page.wait_for_timeout(1500)  # what is shown soon after a chat is opened is not announced
        for number in range(1, 5):
            if number == 2:
                # The page is looked at every 150 ms; on a busy machine that is so late that no reply is seen running.
                page.evaluate(
                    "late = setTimeout;setTimeout = (act, ms, ...more) => late(act, ms === 150 ? 1500 : ms, ...more)"
                )
            if number == 4:
                page.get_by_role("button", name="New chat", exact=True).click()
                expect(page.locator("#chat [data-testid=user]")).to_have_count(0)
                page.wait_for_timeout(4000)
            ask(page)
            all_said = partial(page.evaluate, f"said.filter(text => text === 'Reply: Same').length === {number}")
            wait_until(all_said, what=f"announcement {number}")


def test_contrast_themes_and_no_motion(browser: Browser, serve: Serve) -> None:
    with opened(browser, serve().url, "en", forced_colors="active", reduced_motion="reduce") as page:
        ask(page)
        ring = page.locator("#message .input-container")
        expect(page.locator("#message textarea")).to_be_focused()
        assert ring.evaluate("box => getComputedStyle(box).outlineStyle") == "solid"
        flat = """all => all.filter(one => one.checkVisibility({visibilityProperty: true})
          && getComputedStyle(one).borderStyle === 'none').map(one => one.outerHTML.slice(0, 80))"""
        assert page.locator("#message button, #new-chat, #bring").evaluate_all(flat) == []
        page.locator("#chat .inspect").last.click()
        page.locator("#inspector [role=tab]").nth(3).click()
        parts = page.locator("#inspector .chart .track .part").filter(visible=True)
        expect(parts.first).to_be_visible()
        grounds = set(parts.evaluate_all("all => all.map(one => getComputedStyle(one).background)"))
        assert len(grounds) > 1  # else a bar would be all of one colour
        moves = "document.getAnimations().filter(one => one.effect.getTiming().duration > 0).length"
        assert page.evaluate(moves) == 0
