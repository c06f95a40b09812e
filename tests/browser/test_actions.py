"""Every button and setting does what it says."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Route, expect

from chatui import personas
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from tests.browser.pages import PATIENCE, Chat, wait_until
from tests.fakes import INFO

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

SLOW = 90_000
"""Milliseconds that Chromium may take for a megabyte in a text area on a busy machine."""


def _settings(page: Chat, number: int) -> GenerationSettings:
    """Without the seed, which is drawn for each reply where there is none."""
    return page.backend.requests[number].settings.model_copy(update={"seed": None})


def _reset_settings(page: Chat) -> None:
    """Also leaves the page to the next test as it was."""
    page.button("Reset to the model's defaults").click()
    expect(page.setting("Temperature")).to_have_value("0.5")
    expect(page.setting("Seed")).to_have_value("")


def _asked(page: Chat, number: int = -1) -> list[str]:
    return [m.content for m in page.backend.requests[number].messages[1:]]


def test_retry_asks_the_same_again(chat: Open) -> None:
    page = chat(["first"], ["second"], ["third"])
    page.say("one")
    page.say("two")
    page.button("Retry").last.click()
    expect(page.replies.last).to_have_text("third", timeout=PATIENCE)
    expect(page.answered()).to_have_text("third")
    assert _asked(page, 2) == ["one", "first", "two"]
    expect(page.questions).to_have_count(2)
    expect(page.replies).to_have_count(2)


def test_undo_takes_the_last_turn_back(chat: Open) -> None:
    page = chat(["first"], ["second"], ["third"])
    page.say("one")
    page.say("two")
    page.button("Undo").last.click()
    expect(page.box).to_have_value("two")
    expect(page.box).to_be_focused()
    expect(page.questions).to_have_count(1)
    expect(page.send).to_be_visible()
    page.say("three")
    assert _asked(page) == ["one", "first", "three"]


def test_edit_answers_anew_from_there(chat: Open) -> None:
    page = chat(["first"], ["second"], ["third"])
    page.say("one")
    page.say("two")
    page.button("Edit").first.click()
    page.log.get_by_role("textbox").fill("uno")
    page.button("Submit").click()
    expect(page.replies).to_have_count(1, timeout=PATIENCE)
    expect(page.answered()).to_have_text("third")
    expect(page.questions).to_have_text(["uno"])
    assert _asked(page) == ["uno"]


def test_edit_can_be_given_up(chat: Open) -> None:
    page = chat(["first"])
    page.say("one <T>")
    page.button("Edit").first.click()
    page.log.get_by_role("textbox").fill("uno")
    page.button("Cancel").click()
    expect(page.questions).to_have_text(["one <T>"])
    expect(page.replies).to_have_text(["first"])
    assert len(page.backend.requests) == 1


def test_the_chat_can_be_emptied(chat: Open) -> None:
    page = chat(["first"], ["second"])
    page.say("one")
    page.start_new_chat()
    expect(page.questions).to_have_count(0)
    expect(page.log.get_by_role("heading", name=PRESETS[0].greeting)).to_be_visible()
    page.say("two")
    assert _asked(page) == ["two"]


def test_new_chat_keeps_the_draft_and_the_settings(chat: Open) -> None:
    page = chat(["first"])
    page.setting("Temperature").fill("1.2")
    page.say("one")
    page.fill("a draft")
    page.start_new_chat()
    expect(page.questions).to_have_count(0)
    expect(page.box).to_have_value("a draft")
    expect(page.setting("Temperature")).to_have_value("1.2")
    _reset_settings(page)


def test_copy_conversation(chat: Open) -> None:
    page = chat(["first <A>"], ["second"])
    page.say("one")
    page.say("two")
    copied = page.copied_by(page.button("Copy conversation"))
    places = [copied.find(part) for part in ("one", "first <A>", "two", "second")]
    assert -1 not in places
    assert places == sorted(places)


def test_example_is_sent(chat: Open) -> None:
    page = chat(["answer"])
    page.fill("a draft")
    page.log.locator("button.example").nth(1).click()
    expect(page.replies).to_have_text(["answer"], timeout=PATIENCE)
    page.answered()
    assert _asked(page) == [PRESETS[0].examples[1]]
    expect(page.box).to_have_value("a draft")


def test_a_message_sent_before_the_chosen_persona_has_arrived_is_answered_by_it(chat: Open) -> None:
    robot = PRESETS[1]
    page = chat(fresh=True)
    held: list[Route] = []

    def hold(route: Route) -> None:
        data = (route.request.post_data_json or {}).get("data") if route.request.method == "POST" else None
        if data and data[:2] == [personas.key(robot), personas.key(PRESETS[0])]:
            held.append(route)
        else:
            route.continue_()

    page.page.route("**/gradio_api/**", hold)
    page.page.get_by_role("combobox", name="Persona").click()
    page.page.get_by_role("option", name=robot.label).click()
    # evaluate() lets Playwright call hold(), which a plain wait would not.
    wait_until(lambda: page.page.evaluate("1") and held, what="the choice's request")
    page.box.fill("hi")
    page.box.press("Enter")
    wait_until(lambda: page.page.evaluate("1") and page.backend.requests, what="the message's request")
    assert page.backend.requests[0].messages[0].content == robot.system_prompt
    for route in held:
        route.continue_()
    expect(page.page.get_by_role("textbox", name=re.compile("^System prompt"))).to_have_value(robot.system_prompt)


@pytest.mark.exhaustive  # test_personas.py has the same of a new persona
def test_persona_changes_prompt_greeting_examples_and_request(chat: Open) -> None:
    robot = PRESETS[1]
    page = chat(fresh=True)
    prompt = page.page.get_by_role("textbox", name=re.compile("^System prompt"))
    expect(prompt).to_have_value(PRESETS[0].system_prompt)
    choice = page.page.get_by_role("combobox", name="Persona")
    choice.click()
    page.page.get_by_role("option", name=robot.label).click()
    expect(prompt).to_have_value(robot.system_prompt)
    expect(page.log.get_by_role("heading", name=robot.greeting)).to_be_visible()
    for example in robot.examples:
        expect(page.log.get_by_text(example, exact=True)).to_be_visible()
    page.log.get_by_text(robot.examples[0], exact=True).click()
    page.log.get_by_text("Hello from the fake.").wait_for()
    page.answered()
    first = page.backend.requests[0].messages
    assert (first[0].role, first[0].content) == ("system", robot.system_prompt)
    assert first[1].content == robot.examples[0]
    prompt.fill("  Be <brief> &lt;\n\tnow.  ")
    page.say("hi")
    assert page.backend.requests[1].messages[0].content == "Be <brief> &lt;\n\tnow."
    prompt.fill("")
    page.say("hi")
    assert page.backend.requests[2].messages[0].content == ""
    page.start_new_chat()
    expect(page.log.get_by_role("heading", name=robot.greeting)).to_be_visible()


def test_settings_reach_the_request_and_can_be_reset(chat: Open) -> None:
    page = chat()
    expect(page.setting("Temperature")).to_have_value("0.5")
    page.say("defaults")
    assert _settings(page, 0) == INFO.defaults
    typed = {
        "Max new tokens": "77",
        "Temperature": "1.35",
        "Top-p": "0.8",
        "Top-k": "40",
        "Min-p": "0.05",
        "Repetition penalty": "1.1",
        "Seed": "42",
        "Stop strings": "END\n\n two words ",
    }
    for title, value in typed.items():
        page.setting(title).fill(value)
        page.setting(title).blur()
    page.say("mine")
    assert page.backend.requests[1].settings == GenerationSettings(
        max_new_tokens=77,
        temperature=1.35,
        top_p=0.8,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        seed=42,
        stop=("END", " two words "),
    )
    slider = page.page.get_by_role("slider", name="Temperature", exact=True)
    slider.press("ArrowRight")
    expect(page.setting("Temperature")).to_have_value("1.4")
    _reset_settings(page)
    expect(page.setting("Stop strings")).to_have_value("")
    expect(page.setting("Seed")).to_have_value("")
    page.say("defaults again")
    assert _settings(page, 2) == INFO.defaults


def test_each_slider_has_its_own_reset(chat: Open) -> None:
    page = chat()
    page.setting("Top-p").fill("0.3")
    page.setting("Top-p").blur()
    page.page.locator("#setting-top_p").get_by_test_id("reset-button").click()
    expect(page.setting("Top-p")).to_have_value("0.95")


# One page for all: (title, what is typed, what the page must say).
WRONG = [
    ("Top-k", "2.5", r"integer|whole number"),
    ("Seed", "-1", r"greater than or equal to 0"),
    ("Seed", "99999999999", r"less than or equal to 4294967295"),
    ("Stop strings", "x" * 201, r"200"),
    ("Stop strings", "\n".join("abcdefghijklmnopq"), r"16"),
]


def test_wrong_values_are_refused_beside_the_setting(chat: Open) -> None:
    page = chat()
    for title, value, message in WRONG:
        before = page.setting(title).input_value()
        page.setting(title).fill(value)
        page.fill("my question")
        page.box.press("Enter")
        expect(page.page.get_by_text(re.compile(message)).first, f"{title} = {value!r}").to_be_in_viewport()
        assert page.backend.requests == [], (title, value)
        expect(page.box).to_have_value("my question")
        page.usable()
        page.setting(title).fill(before)
        page.setting(title).blur()
    page.say("my question")
    assert _settings(page, 0) == INFO.defaults
    expect(page.page.locator("#settings").get_by_text(re.compile("less than or equal"))).to_have_count(0)


# Gradio's sliders bring a number that is out of range back into it as soon as the box is left.
BEYOND = [("Temperature", "temperature", "5"), ("Max new tokens", "max_new_tokens", "-1"), ("Top-p", "top_p", "-1")]


def test_sliders_show_the_values_that_are_sent(chat: Open) -> None:
    page = chat()
    for title, name, value in BEYOND:
        page.setting(title).fill(value)
        page.say("hi")
        sent = getattr(page.backend.requests[-1].settings, name)
        assert float(page.setting(title).input_value()) == sent != float(value)
    _reset_settings(page)


def test_wrong_values_stop_retry_edit_and_examples_too(chat: Open) -> None:
    page = chat(["first"])
    error = page.page.locator("#message-problem").get_by_text("greater than or equal to 0")
    page.setting("Seed").fill("-1")
    page.log.locator("button.example").first.click()
    expect(error).to_be_visible()
    page.usable()
    assert page.backend.requests == []
    page.setting("Seed").fill("1")
    page.say("one")
    expect(error).to_be_hidden()
    for way in ("Retry", "Edit"):
        page.setting("Seed").fill("-1")
        page.button(way).click()
        if way == "Edit":
            page.log.get_by_role("textbox").fill("uno")
            page.button("Submit").click()
        expect(error).to_be_visible()
        page.usable()
        page.setting("Seed").fill("1")
    assert len(page.backend.requests) == 1
    page.say("two")
    assert _asked(page)[-1] == "two"
    assert "first" in _asked(page)
    _reset_settings(page)


def test_an_empty_message_is_not_sent(chat: Open) -> None:
    page = chat()
    refusal = page.page.locator("#message-problem").get_by_text("Type a message first.")
    for number, text in enumerate(("", "   ", "\n\n")):
        page.fill(text)
        page.send.click()
        expect(refusal).to_be_visible()
        page.usable()
        assert len(page.backend.requests) == number
        expect(page.questions).to_have_count(number)
        page.say("now something")
        expect(refusal).to_have_count(0)


def test_send_in_another_chat_is_not_taken_for_a_double_click(chat: Open) -> None:
    page = chat(fresh=True)
    page.page.evaluate("performance.now = (now => () => now() / 100)(performance.now.bind(performance))")
    page.say("one")
    page.start_new_chat()
    expect(page.questions).to_have_count(0)
    page.send.click()
    expect(page.page.locator("#message-problem")).to_have_text("Type a message first.")
    assert len(page.backend.requests) == 1


def test_a_reason_outlives_other_events(chat: Open) -> None:
    page = chat()
    held: list[Route] = []
    page.page.route("**/run/predict", lambda route: held.append(route))
    page.page.reload()
    wait_until(lambda: page.page.evaluate("1") and held, what="an event of the page's start")
    page.box.press("Enter")
    problem = page.page.locator("#message-problem")
    expect(problem).to_have_text("Type a message first.", timeout=PATIENCE)
    page.page.unroute("**/run/predict")  # which lets them go on
    expect(page.page.locator("#chats .hint, #chats .chat-row").first).to_be_visible(timeout=PATIENCE)
    page.page.wait_for_timeout(500)
    expect(problem).to_be_visible()
    expect(page.page.locator("#heard")).to_have_text("Type a message first.")
    expect(page.box).to_have_accessible_description("Type a message first.")
    page.box.press("a")
    expect(problem).to_have_count(0)


@pytest.mark.parametrize("words", [20_000, pytest.param(80_000, marks=pytest.mark.exhaustive)])
def test_a_message_that_is_far_too_long_is_refused_and_kept(chat: Open, words: int) -> None:
    page = chat()
    text = "long <words> " * words
    page.box.fill(text, timeout=SLOW)
    # The count of its tokens begins when typing pauses. It must not hide the reason.
    draft = page.page.locator("#draft textarea")
    wait_until(lambda: len(draft.input_value()) > 200_000, SLOW / 1000, "the draft's count")
    page.box.press("Enter", timeout=SLOW)
    error = page.page.locator("#message-problem").get_by_text(f"{len(text):,} characters")
    expect(error).to_be_in_viewport(timeout=SLOW)
    assert page.box.input_value() == text
    page.usable()
    assert page.backend.requests == []
    page.say("short")


@pytest.mark.parametrize("lines", [500, pytest.param(5_000, marks=pytest.mark.exhaustive)])
def test_a_long_message_is_sent_whole(chat: Open, lines: int) -> None:
    page = chat(["ok"])
    text = "".join(f"line {number} <b> &lt;\n" for number in range(lines)).strip()
    # Pasted, because Chromium takes a minute to type as many lines into any text area.
    page.page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.box.focus()
    page.page.keyboard.press("Control+V")
    expect(page.box).to_have_value(text, timeout=PATIENCE)
    page.box.press("Enter")
    expect(page.replies.last).to_have_text("ok", timeout=PATIENCE)
    page.answered()
    assert page.backend.requests[0].messages[-1].content == text
