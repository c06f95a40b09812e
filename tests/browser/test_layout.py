"""Where things stand on screens of all sizes, measured as one looks at them."""

from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser, FloatRect, Locator, expect

from tests.browser.conftest import BOTH_PANELS, EXECUTABLE, FLAGS, Serve, new_chat
from tests.browser.pages import PATIENCE, Chat, wait_until

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

SIZES = {
    **{"phone": (320, 640), "side": (844, 390), "tablet": (820, 1180), "laptop": (1280, 800), "desk": (2560, 1440)},
    **{"200 %": (640, 400), "400 %": (320, 256)},
}
QUICK = ("phone", "desk", "400 %")
LONG = ["A sentence of the reply that is long enough to fill a line of the column on most screens. " * 4]


def _box(part: Locator) -> FloatRect:
    box = part.bounding_box()
    assert box is not None
    return box


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=[] if size in QUICK else pytest.mark.exhaustive) for size in SIZES]
)
def test_the_chat_can_be_used_at_any_size(chat: Open, size: str) -> None:
    width, height = SIZES[size]
    page = chat(LONG, viewport={"width": width, "height": height}, reduced_motion="reduce")
    page.say("hi")
    assert page.page.evaluate("document.scrollingElement.scrollWidth") <= width
    log = _box(page.log)
    assert log["width"] >= min(width - 24, 640), log
    assert log["height"] >= min(height * 0.4, 400), log
    assert _box(page.header)["height"] <= 72
    page.send.scroll_into_view_if_needed()
    expect(page.send).to_be_in_viewport(ratio=1)
    for part in (page.log.get_by_role("link", name="Inspect"), page.button("Copy message").last):
        box = _box(part)
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    page.sidebar("settings", opened=True)
    panel = _box(page.page.locator("#settings"))
    assert panel["x"] >= 0
    assert panel["x"] + panel["width"] <= width + 1


def test_actions_stand_in_one_line_with_the_text(chat: Open) -> None:
    page = chat(LONG, LONG)
    page.say("hi")
    page.button("Retry").click()
    page.page.get_by_text("2/2").wait_for()
    page.answered()
    text = _box(page.replies.last.locator("p").first)
    parts = [
        page.log.get_by_role("link", name="Previous version"),
        *(page.log.get_by_role("link", name=name).last for name in ("Inspect", "Branch")),
        page.log.locator(".took").last,
        *(page.button(name).last for name in ("Copy message", "Retry", "Undo", "Dislike", "Like")),
    ]
    boxes = [_box(part) for part in parts]
    assert abs(boxes[0]["x"] - text["x"]) <= 10, "in line with the text"
    middles = [box["y"] + box["height"] / 2 for box in boxes]
    assert max(middles) - min(middles) <= 6, "in one line"
    assert sorted(box["x"] for box in boxes) == [box["x"] for box in boxes]
    assert all(later["x"] - one["x"] - one["width"] <= 72 for one, later in pairwise(boxes)), "in one place"


def test_panels_are_as_they_were_left(chat: Open) -> None:
    page = chat(fresh=True)

    def opened() -> dict[str, bool]:
        page.page.locator("html.settled").wait_for()
        classes = {name: page.page.locator(f"#{name}").get_attribute("class") or "" for name in names}
        return {name: "open" in found.split() for name, found in classes.items()}

    names = ("conversations", "settings")
    page.sidebar("settings", opened=False)
    page.page.reload()
    assert opened() == {"conversations": True, "settings": False}
    page.sidebar("conversations", opened=False)
    page.sidebar("settings", opened=True)
    page.page.reload()
    assert opened() == {"conversations": False, "settings": True}
    page.page.set_viewport_size({"width": 820, "height": 1180})
    expect(page.page.locator("#settings.open")).to_have_count(0)  # it would cover the chat
    page.page.set_viewport_size({"width": 1280, "height": 860})
    expect(page.page.locator("#settings.open")).to_have_count(1)


def test_a_panel_over_the_chat_closes_when_one_goes_on(chat: Open) -> None:
    sizes: dict[str, Any] = {"viewport": {"width": 820, "height": 1180}, "reduced_motion": "no-preference"}
    page = chat(**sizes)
    bar = page.page.locator("#settings.open")
    page.sidebar("settings", opened=True)
    page.box.click()
    expect(bar).to_have_count(0)
    page.sidebar("settings", opened=True)
    page.page.keyboard.press("Escape")
    expect(bar).to_have_count(0)


def test_escape_closes_a_menu_before_the_panel_it_is_in(chat: Open) -> None:
    page = chat(viewport={"width": 820, "height": 1180}, reduced_motion="no-preference")
    page.say("hi")
    page.sidebar("conversations", opened=True)
    page.page.locator("#chats .chat-menu summary").click()
    menu, panel = page.page.locator("#chats .chat-menu[open]"), page.page.locator("#conversations.open")
    expect(menu).to_have_count(1)
    page.page.keyboard.press("Escape")
    expect(menu).to_have_count(0)
    expect(panel).to_have_count(1)
    page.page.keyboard.press("Escape")
    expect(panel).to_have_count(0)


def test_settings_are_folded_and_explained_on_demand(chat: Open) -> None:
    page = chat(fresh=True)
    slider = page.page.get_by_role("slider", name="Temperature", exact=True)
    expect(slider).to_be_hidden()
    page.button("Sampling ▼").click()
    expect(slider).to_be_visible()
    info = page.page.locator("#setting-temperature .info-text")
    expect(info).to_be_hidden()
    page.button("Temperature ?").click()
    expect(info).to_be_visible()
    page.button("Temperature ?").click()
    expect(info).to_be_hidden()


@pytest.mark.parametrize(
    "width", [320, *(pytest.param(each, marks=pytest.mark.exhaustive) for each in (820, 1024, 1280))]
)
def test_nothing_stands_over_the_words_of_a_chat(chat: Open, width: int) -> None:
    page = chat(LONG * 40, viewport={"width": width, "height": 700})
    page.say("hi")
    log = _box(page.log)
    button = _box(page.button("Copy conversation"))
    text = _box(page.replies.last)
    beside = button["x"] >= text["x"] + text["width"] or button["x"] + button["width"] <= text["x"]
    assert beside or button["y"] + button["height"] <= log["y"]
    name = _box(page.header.locator(".model-name"))
    assert button["x"] >= name["x"] + name["width"] or button["y"] >= name["y"] + name["height"]


def test_a_table_breaks_no_word(chat: Open) -> None:
    table = (
        "| Parameters | Precision | Memory | Another column |\n|---|---|---|---|\n| many | bfloat16 | much | words |\n"
    )
    page = chat([table], viewport={"width": 320, "height": 640})
    page.say("hi")
    head = page.replies.last.get_by_role("columnheader", name="Parameters")
    alone = (
        "head => { const r = document.createRange(); r.selectNodeContents(head); return r.getClientRects().length; }"
    )
    assert head.evaluate(alone) == 1


@pytest.mark.parametrize(
    "locale", [pytest.param(each, marks=pytest.mark.exhaustive) for each in ("de-DE", "fr-FR", "es-ES")]
)
def test_the_help_of_a_setting_is_beside_its_box(serve: Serve, browser: Browser, locale: str) -> None:
    with browser.new_context(locale=locale, viewport={"width": 1366, "height": 1000}) as context:
        context.add_init_script(BOTH_PANELS)
        page = context.new_page()
        page.goto(serve().url)
        page.locator("html.at-rest").wait_for(state="attached", timeout=PATIENCE)
        page.evaluate("document.querySelectorAll('#settings .label-wrap:not(.open)').forEach(part => part.click())")
        heads = page.locator("#settings .head")
        expect(heads.last).to_be_visible(timeout=PATIENCE)
        assert heads.count() > 3
        for head in heads.all():
            help, box = _box(head.locator(".help")), _box(head.locator(".tab-like-container"))
            assert help["x"] + help["width"] <= box["x"], head.inner_text()


@pytest.mark.parametrize("size", [pytest.param((1366, 768), marks=pytest.mark.exhaustive), (390, 844)])
def test_a_browser_with_a_large_font(serve: Serve, browser: Browser, size: tuple[int, int]) -> None:
    width, height = size
    flags = [*FLAGS, "--blink-settings=defaultFontSize=24"]
    with ExitStack() as stack:
        large = browser.browser_type.launch(executable_path=EXECUTABLE, args=flags)
        stack.callback(large.close)
        page = new_chat(stack, large, serve(LONG), viewport={"width": width, "height": height})
        assert page.page.evaluate("getComputedStyle(document.documentElement).fontSize") == "24px"
        assert page.page.evaluate("getComputedStyle(document.querySelector('#message textarea')).fontSize") == "22.5px"
        page.say("hi")
        assert page.page.evaluate("document.scrollingElement.scrollWidth") <= width
        expect(page.send).to_be_in_viewport(ratio=1)
        expect(page.log.get_by_role("link", name="Inspect")).to_be_in_viewport(ratio=1)
        assert _box(page.log)["height"] >= height * 0.4
        assert _box(page.header)["height"] <= height * 0.2


def test_an_arabic_page_runs_from_right_to_left(serve: Serve, browser: Browser) -> None:
    site = serve()
    with browser.new_context(locale="ar", viewport={"width": 1280, "height": 860}) as context:
        context.add_init_script(BOTH_PANELS)
        page = context.new_page()
        page.goto(site.url)
        page.locator("html.settled").wait_for(state="attached", timeout=PATIENCE)
        facts = page.locator("#status .model-facts")
        expect(facts).to_contain_text("\u2068float32\u2069 · ", timeout=PATIENCE)
        assert facts.evaluate("facts => getComputedStyle(facts).direction") == "rtl"
        page.evaluate("document.querySelectorAll('#settings .label-wrap:not(.open)').forEach(part => part.click())")
        slider = page.locator("#setting-temperature")
        expect(slider).to_be_visible(timeout=PATIENCE)

        def name_comes_first() -> bool:
            name, number = _box(slider.locator("[data-testid=block-info]")), _box(slider.locator("input[type=number]"))
            return name["x"] > number["x"] + number["width"]

        wait_until(name_comes_first, what="the name where one begins to read")


# From `window.looks = new Map()` on, what is to happen after 50 ms waits there, until it is an ordinary window again.
HELD_LOOKS = """
    const set = window.setTimeout, clear = window.clearTimeout;
    let count = 0;
    window.setTimeout = (work, wait, ...rest) => {
      if (wait !== 50 || !window.looks) return set(work, wait, ...rest);
      window.looks.set(--count, () => work(...rest));
      return count;
    };
    window.clearTimeout = (look) => { window.looks?.delete(look); clear(look); };
"""
LET_LOOK = "const held = [...looks.values()]; window.looks = null; held.forEach(look => look())"


def test_a_panel_opened_while_the_screen_turns_stays_open(serve: Serve, browser: Browser) -> None:
    with browser.new_context(viewport={"width": 1600, "height": 900}) as context:
        context.add_init_script(BOTH_PANELS)
        context.add_init_script(HELD_LOOKS)
        page = context.new_page()
        page.goto(serve().url)
        page.locator("html.at-rest").wait_for(state="attached", timeout=PATIENCE)
        page.evaluate("window.looks = new Map()")
        page.set_viewport_size({"width": 390, "height": 800})
        expect(page.locator(".sidebar.open")).to_have_count(0)
        page.locator("#settings .toggle-button").click()
        expect(page.locator("#settings.open")).to_be_visible()
        assert page.evaluate("window.looks.size") > 0, "it is still looked whether the panels stand as they should"
        page.evaluate(f"() => {{ {LET_LOOK} }}")
        page.wait_for_timeout(300)  # it looks again, and finds all as it should be
        expect(page.locator("#settings.open")).to_be_visible()
