"""The guided tour: its seven steps open and mark parts of the page, and it goes on where it was left."""

from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import OpenChat
from tests.browser.pages import PATIENCE, Chat, wait_until

pytestmark = pytest.mark.browser
PHONE = {"width": 390, "height": 844}


def steps(chat: Chat) -> Locator:
    return chat.page.get_by_role("region", name="Guided tour")


def turn(chat: Chat, name: str, number: int) -> None:
    steps(chat).get_by_role("button", name=name, exact=True).click()
    expect(steps(chat)).to_contain_text(f"Step {number} of 7", timeout=PATIENCE)


def expect_marked(chat: Chat, part: str) -> None:
    """The ring is around a part of the page, above the tour."""
    element, ring = chat.page.locator(part).filter(visible=True).first, chat.page.locator("#tour-ring")

    def is_marked() -> bool:
        inner, outer, below = (each.bounding_box() for each in (element, ring, steps(chat)))
        if inner is None or outer is None or below is None:
            return False
        starts = abs(outer["x"] + 4 - inner["x"]) < 3
        above = outer["y"] + outer["height"] <= below["y"] + 5
        return starts and above and outer["y"] + outer["height"] > inner["y"]

    wait_until(is_marked, what=f"the mark around {part}")


@pytest.mark.parametrize("viewport", [None, pytest.param(PHONE, marks=pytest.mark.exhaustive)])
def test_seven_steps_are_left_and_taken_up(chat: OpenChat, viewport: Any) -> None:
    page = chat(["Fine", "."], reduced_motion="no-preference", **({"viewport": viewport} if viewport else {}))
    page.page.get_by_role("link", name="Take the guided tour").click()
    expect(steps(page)).to_be_focused()
    expect_marked(page, "#message .input-container")
    steps(page).get_by_role("button", name="Send “Hey, can you tell me").click()
    expect(steps(page)).to_contain_text("This is a reply of your model", timeout=PATIENCE)
    expect_marked(page, "#chat .chat-bar.answer")
    turn(page, "Next", 2)
    expect_marked(page, "#system-prompt")
    prompt = page.page.locator("#system-prompt textarea")
    before = prompt.input_value()
    steps(page).get_by_role("button", name="Write “You are a sassy").click()
    expect(prompt).to_have_value("You are a sassy, wise-cracking robot as imagined by Hollywood circa 1986.")
    steps(page).get_by_role("button", name="Take it back").click()
    expect(prompt).to_have_value(before)
    turn(page, "Next", 3)
    expect_marked(page, "#context .context-bar")
    page.page.keyboard.press("Escape")
    expect(steps(page)).to_be_hidden()

    page.page.reload()
    expect(page.replies).to_have_count(1, timeout=PATIENCE)
    page.wait_idle()
    page.sidebar("conversations", opened=True)
    page.page.get_by_role("link", name="Guided tour", exact=True).click()
    expect(steps(page)).to_contain_text("Step 3 of 7", timeout=PATIENCE)
    turn(page, "Next", 4)
    expect(page.page.locator("#models")).to_contain_text("fake/echo", timeout=PATIENCE)
    expect_marked(page, "#models :is(.model-recommended, .model-row)")
    turn(page, "Next", 5)
    inspector = page.page.locator("#inspector")
    for name, part in (("Prompt", ".textfield"), ("Tokens", ".textfield"), ("Python", ".codemirror-wrapper")):
        steps(page).get_by_role("button", name=name, exact=True).click()
        expect_marked(page, f"#inspector {part}")
    expect(inspector).to_contain_text("AutoTokenizer.from_pretrained", timeout=PATIENCE)
    turn(page, "Next", 6)
    expect(inspector).to_contain_text("KV cache", timeout=PATIENCE)
    expect_marked(page, "#inspector .chart")
    turn(page, "Next", 7)
    expect(inspector).to_contain_text("The highest possible speed", timeout=PATIENCE)
    expect_marked(page, "#inspector .chart")
    expect(steps(page).get_by_role("button", name="Finish")).to_be_focused()
    page.page.keyboard.press("Tab")
    expect(steps(page).get_by_role("button", name="Leave the tour")).to_be_focused()
    page.page.keyboard.press("Tab")
    expect(inspector.get_by_role("button", name="Close")).to_be_focused()
    steps(page).get_by_role("button", name="Finish").click()
    expect(steps(page)).to_be_hidden()
    expect(inspector).to_be_hidden(timeout=PATIENCE)
    assert page.watch.errors == []
