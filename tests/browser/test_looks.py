"""The page in light, dark and on a phone, by eye and by keyboard, as far as it can be measured."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from chatui.chat import ReplyDelta
from chatui.errors import GenerationError
from tests.browser.pages import CONTRASTS, Chat, wait_until

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
REPLY = [
    ReplyDelta(reasoning="Let me think."),
    "# Head\n\nText with `code` and a [link](http://localhost/).\n\n```python\nx = 1  # note\n```\n\n$$x^2$$",
]
WIDE = "| " + " | ".join("wide column" for _ in range(20)) + " |\n" + "|---" * 20 + "|\n\n" + "unbroken" * 60
FAILURE = GenerationError("It failed.", "Try again.")


def _check_header(page: Chat) -> None:
    """A full chat must not squeeze the header."""
    line, frame = page.header.locator(".status").bounding_box(), page.header.bounding_box()
    assert line is not None
    assert frame is not None
    assert line["y"] >= frame["y"] - 1
    assert line["y"] + line["height"] <= frame["y"] + frame["height"] + 1


def _fill_with_everything(page: Chat) -> None:
    page.say("A question with `code`")
    page.log.get_by_role("button", name="Thought for").click()
    page.say("fail")
    expect(page.cards).to_be_visible()
    page.say("empty")


# In dark axe looks at the contrasts of every view: test_access.py.
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.exhaustive)])
def test_every_text_can_be_read(chat: Open, scheme: str) -> None:
    page = chat(REPLY, ["part", FAILURE], [], fresh=True, color_scheme=scheme, reduced_motion="reduce")
    empty = page.page.evaluate(CONTRASTS)
    _fill_with_everything(page)
    texts = empty + page.page.evaluate(CONTRASTS)
    assert len(texts) > 60
    assert {text["dark"] for text in texts if text["what"].startswith("H")} == {scheme == "dark"}
    pale = sorted({f"{t['ratio']:.1f} {t['what']} {t['text']!r}" for t in texts if t["ratio"] < 4.5})
    assert pale == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.exhaustive)])
def test_phone(chat: Open, scheme: str) -> None:
    page = chat(REPLY, [WIDE], fresh=True, color_scheme=scheme, **PHONE)

    def fits() -> None:
        scroll = page.page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        assert scroll[0] <= scroll[1] == 390

    for bar in ("conversations", "settings"):
        expect(page.page.locator(f"#{bar}")).not_to_have_class("open")
    expect(page.box).to_be_in_viewport(ratio=1)
    expect(page.send).to_be_in_viewport(ratio=1)
    expect(page.setting("Temperature")).not_to_be_in_viewport()
    for example in page.log.locator("button.example").all():
        expect(example).to_be_in_viewport(ratio=0.9)
    fits()
    page.say("hi")
    page.say("wide")
    fits()
    expect(page.box).to_be_in_viewport(ratio=1)
    expect(page.header).to_be_in_viewport()
    _check_header(page)
    name = page.header.locator(".model-name").bounding_box()
    for button in page.page.get_by_role("button", name="Show or hide").all():
        other = button.bounding_box()
        assert name is not None
        assert other is not None
        apart = other["x"] + other["width"] <= name["x"] or name["x"] + name["width"] <= other["x"]
        assert apart or other["y"] + other["height"] <= name["y"] or name["y"] + name["height"] <= other["y"]

    page.sidebar("settings", opened=True)
    expect(page.setting("Temperature")).to_be_in_viewport()
    fits()
    page.sidebar("settings", opened=False)
    expect(page.setting("Temperature")).not_to_be_in_viewport()
    page.start_new_chat()
    expect(page.questions).to_have_count(0)
    page.sidebar("conversations", opened=False)
    page.say("once more")


@pytest.mark.parametrize("size", [(320, 568), (1024, 600), (768, 1024), (1920, 1080)])
@pytest.mark.exhaustive  # test_layout.py has a page at other sizes in every run
def test_other_sizes(chat: Open, size: tuple[int, int]) -> None:
    page = chat([WIDE], fresh=True, viewport={"width": size[0], "height": size[1]})
    page.say("wide")
    assert page.page.evaluate("document.scrollingElement.scrollWidth") <= size[0]
    expect(page.box).to_be_in_viewport(ratio=1)
    expect(page.send).to_be_in_viewport(ratio=1)
    box = page.box.bounding_box()
    assert box is not None
    assert box["width"] >= 150


def test_long_chat_scrolls_inside_and_follows_the_reply(chat: Open) -> None:
    page = chat([f"line {number}\n\n" for number in range(150)], rate=100)
    page.ask("long")
    page.answered()
    expect(page.log.get_by_text("line 149", exact=True)).to_be_in_viewport()
    expect(page.box).to_be_in_viewport(ratio=1)
    assert page.page.evaluate("document.scrollingElement.scrollTop") == 0
    _check_header(page)
    page.log.evaluate("log => log.scrollTop = 0")
    page.ask("again")  # whoever sends wants to see the answer, wherever the chat was scrolled to
    page.answered()
    expect(page.questions.last).to_have_text("again")
    expect(page.log.get_by_text("line 149", exact=True).last).to_be_in_viewport()


# --- By keyboard and screen reader ---

FOCUSED = """() => {
  const looks = element => {
    const parts = [];
    for (let e = element, depth = 0; e && depth < 4; e = e.parentElement, depth++) {
      const s = getComputedStyle(e);
      parts.push(s.outlineStyle === 'none' ? '' : s.outline, s.boxShadow, s.borderColor, s.backgroundColor);
    }
    return parts.join('|');
  };
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const box = element.getBoundingClientRect(), focused = looks(element);
  element.blur();
  const plain = looks(element);
  element.focus();
  return {
    what: element.tagName + '#' + (element.closest('[id]')?.id ?? '') + ' ' + (element.ariaLabel ?? element.innerText),
    visible: focused !== plain,
    seen: box.right > 0 && box.left < innerWidth && box.width > 0,
    name: element.ariaLabel || element.innerText || '',
    place: element.closest('#message, #settings, #conversations, #chat')?.id ?? '',
  };
}"""


@pytest.mark.exhaustive  # as part of test_keyboard.py in every run
def test_all_can_be_reached_with_the_tab_key(chat: Open) -> None:
    page = chat([*REPLY], fresh=True, reduced_motion="reduce")
    page.setting("Temperature")
    page.say("hi")
    page.box.focus()
    stops: list[dict[str, Any]] = []
    for _ in range(80):
        page.page.keyboard.press("Tab")
        stop = page.page.evaluate(FOCUSED)
        if stop is None:
            continue
        stops.append(stop)
        if stop["name"] == "Message":
            break
    names = [stop["name"].strip() for stop in stops]
    panels = ("Show or hide the chats", "Show or hide the settings")
    for name in ("Send", "New chat", *panels, "Copy message", "Edit", "Retry", "Undo"):
        assert name in names, names
    assert "Reset to the model's defaults" in names
    assert sum("#range_id" in stop["what"] for stop in stops) == 8
    assert [stop["what"] for stop in stops if not stop["visible"]] == []
    assert [stop["what"] for stop in stops if not stop["seen"]] == []


@pytest.mark.exhaustive  # as part of test_keyboard.py in every run
def test_a_turn_by_keyboard_alone(chat: Open) -> None:
    page = chat(["first"], ["second"], fresh=True)
    keyboard = page.page.keyboard
    expect(page.box).to_be_focused()
    keyboard.type("hello")
    keyboard.press("Tab")
    expect(page.send).to_be_focused()
    keyboard.press("Enter")
    expect(page.log.get_by_text("first", exact=True)).to_be_visible()
    page.answered()
    page.box.focus()
    keyboard.type("again")
    keyboard.press("Enter")
    expect(page.log.get_by_text("second", exact=True)).to_be_visible()
    page.answered()
    expect(page.box).to_be_focused()
    assert len(page.backend.requests) == 2


def test_closed_sidebars_take_no_focus(chat: Open) -> None:
    page = chat(reduced_motion="no-preference")
    for bar in ("conversations", "settings"):
        page.sidebar(bar, opened=False)
    moving = "document.getAnimations().some(animation => animation instanceof CSSTransition)"
    wait_until(lambda: not page.page.evaluate(moving), what="the end of the movement")
    page.box.focus()
    unseen = []
    for _ in range(15):
        page.page.keyboard.press("Tab")
        stop = page.page.evaluate(FOCUSED)
        if stop and not stop["seen"]:
            unseen.append(stop["what"])
    assert unseen == []


INTERACTIVE = {
    "button",
    "textbox",
    "slider",
    "spinbutton",
    "combobox",
    "link",
    "checkbox",
    "radio",
    "option",
    "listbox",
}


@pytest.mark.exhaustive  # axe looks at names, too
def test_everything_has_a_name(chat: Open) -> None:
    page = chat(REPLY, ["part", FAILURE], [], fresh=True)
    page.setting("Temperature")
    session = page.page.context.new_cdp_session(page.page)

    def nameless() -> list[str]:
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        shown = [node for node in nodes if not node["ignored"]]
        roles = [(node["role"]["value"], node.get("name", {}).get("value", "").strip()) for node in shown]
        assert ("log", "Conversation") in roles
        assert ("textbox", "Message") in roles
        assert sum(role in INTERACTIVE for role, _ in roles) > 20
        return [role for role, name in roles if role in INTERACTIVE and not name]

    assert nameless() == []
    _fill_with_everything(page)
    page.button("Edit").first.click()
    assert nameless() == []
    page.button("Cancel").click()
    page.page.get_by_role("combobox", name="Persona").click()
    assert nameless() == []


def test_document_has_language_title_and_log(chat: Open) -> None:
    page = chat()
    assert page.page.title() == "chatui"
    assert page.page.evaluate("document.documentElement.lang")
    assert page.log.get_attribute("aria-live") == "off"  # each token would be said
    assert page.page.locator("#heard[role=status]").get_attribute("aria-live") == "polite"
    expect(page.log).to_have_count(1)
