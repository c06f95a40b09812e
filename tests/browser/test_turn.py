"""One turn as the user sees it: sending, streaming, thinking, the header's numbers, and how far the page lags."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from chatui.chat import Finish, Prompt, ReplyDelta
from chatui.thinking_controls import ThinkingControls
from tests.browser.pages import PATIENCE, READING, Chat, wait_until
from tests.fakes import INFO, Hold

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

WORDS = [f"word{number} " for number in range(60)]


def _think(text: str) -> ReplyDelta:
    return ReplyDelta(reasoning=text, tokens=1)


@pytest.mark.parametrize("way", [pytest.param("Enter", marks=pytest.mark.exhaustive), "Send"])
def test_turn_streams_and_frees_the_box(chat: Open, way: str) -> None:
    holds = [Hold() for _ in range(6)]
    page = chat(
        [piece for number, hold in enumerate(holds) for piece in (*WORDS[10 * number : 10 * number + 10], hold)]
    )
    page.fill("Hello there")
    if way == "Enter":
        page.box.press("Enter")
    else:
        page.send.click()
    expect(page.questions.last).to_have_text("Hello there", timeout=PATIENCE)
    expect(page.box).to_have_value("")
    expect(page.stop).to_be_visible()
    expect(page.send).to_be_hidden()
    page.box.press_sequentially("next")
    expect(page.box).to_have_value("next")
    for number, hold in enumerate(holds, 1):
        expect(page.replies.last).to_have_text("".join(WORDS[: 10 * number]).strip(), timeout=PATIENCE)
        expect(page.stop).to_be_visible()
        hold.release()
    expect(page.answered()).to_have_text("".join(WORDS).strip())
    expect(page.box).to_have_value("next")  # what was typed meanwhile stays
    page.usable()
    assert [(m.role, m.content) for m in page.backend.requests[0].messages[1:]] == [("user", "Hello there")]


def test_shift_enter_is_a_new_line(chat: Open) -> None:
    page = chat()
    page.box.press_sequentially("one")
    page.box.press("Shift+Enter")
    page.box.press_sequentially("two")
    expect(page.box).to_have_value("one\ntwo")
    assert page.backend.requests == []
    page.box.press("Enter")
    page.answered()
    expect(page.questions.last).to_have_text(re.compile(r"one\s*two"))
    assert page.backend.requests[0].messages[-1].content == "one\ntwo"


def test_header_tells_model_and_speed(chat: Open) -> None:
    page = chat(["a"] * 20, rate=50)
    for fact in ("fake/echo", "float32", "1M parameters", "5 MB", "cpu"):
        expect(page.header).to_contain_text(fact)
    expect(page.header).not_to_contain_text("tokens/s")
    page.backend.delay_first = 0.5
    asked_at = time.monotonic()
    page.say("hi")
    took, shown = time.monotonic() - asked_at, page.header.inner_text()
    speed, first = re.search(r"([\d.]+) tokens/s", shown), re.search(r"first after ([\d.]+) s", shown)
    assert "20 tokens" in shown
    assert speed is not None
    assert first is not None
    assert float(speed[1]) == pytest.approx(page.backend.finishes[-1].tokens_per_second, abs=0.06)
    assert 0.5 <= float(first[1]) <= took
    for fact in ("fake/echo", "float32", "1M parameters"):
        expect(page.header).to_contain_text(fact)


def test_header_tells_what_was_remembered(chat: Open) -> None:
    finish = Finish("stop_token", 1024, 2, 0, 0.0, 0.1, 0.5, cached_tokens=900)
    page = chat(["a", "b", ReplyDelta(finish=finish)], ["c"])
    page.say("hi")
    expect(page.header).to_contain_text("1,024 tokens in, 900 cached · 2 tokens · 2.0 tokens/s · first after ")
    page.say("again")
    expect(page.header).not_to_contain_text("cached")


@pytest.mark.exhaustive  # test_chats.py and test_actions.py have conversations of several turns
def test_turns_follow_each_other(chat: Open) -> None:
    page = chat(["first answer"], ["second answer"], ["third answer"])
    for number in ("first", "second", "third"):
        expect(page.say(f"{number} question")).to_have_text(f"{number} answer")
    assert [(m.role, m.content) for m in page.backend.requests[2].messages[1:]] == [
        ("user", "first question"),
        ("assistant", "first answer"),
        ("user", "second question"),
        ("assistant", "second answer"),
        ("user", "third question"),
    ]


def test_thinking_is_live_then_folds(chat: Open) -> None:
    more, answer = Hold(), Hold()
    page = chat([_think("Let me "), more, _think("see now."), answer, "The ", "answer."], ["again"])
    page.ask("why?")
    thought = page.log.get_by_role("button", name=re.compile("^Thinking"))
    expect(thought).to_be_visible(timeout=PATIENCE)
    expect(page.log.get_by_text("Let me", exact=True)).to_be_visible()
    more.release()
    expect(page.log.get_by_text("Let me see now.", exact=True)).to_be_visible()
    answer.release()
    folded = page.log.get_by_role("button", name=re.compile(r"^Thought for \d"))
    expect(folded).to_be_visible()
    expect(page.log.get_by_text("Let me see now.", exact=True)).to_be_hidden()
    expect(page.answered()).to_have_text("The answer.")
    folded.click()
    expect(page.log.get_by_text("Let me see now.", exact=True)).to_be_visible()
    folded.click()
    expect(page.log.get_by_text("Let me see now.", exact=True)).to_be_hidden()
    page.say("and?")
    assert [m.content for m in page.backend.requests[1].messages[1:]] == ["why?", "The answer.", "and?"]


def test_thinking_is_chosen_limited_and_ended_from_the_page(chat: Open) -> None:
    page = chat([_think("Let me "), Hold(), _think("never come to this."), "The ", "answer."])
    budget = page.setting("Thinking budget")
    expect(budget).to_have_value("0")
    expect(page.page.locator("#setting-thinking")).to_have_count(0)  # this model has no choice
    template = INFO.template
    assert template is not None
    controls = ThinkingControls("enable_thinking", "reasoning_effort", ("low", "high"), closes=True)
    known = replace(INFO, template=replace(template, controls=controls))
    page.backend.status = replace(page.backend.status, info=known)
    page.open()
    page.sidebar("settings", opened=True)
    page.setting("Thinking budget").fill("64")
    choice = page.page.locator("#setting-thinking input")
    choice.click()
    options = page.page.get_by_role("option")
    expect(options).to_have_text([re.compile(name) for name in ("The model's default", "Off", "On", "Low", "High")])
    options.filter(has_text="Low").click()
    expect(choice).to_have_value("Low")
    page.ask("why?")
    settings = page.backend.requests[0].settings
    assert (settings.thinking, settings.thinking_budget) == ("low", 64)
    answer_now = page.log.get_by_role("link", name="Answer now")
    answer_now.click()
    expect(page.answered()).to_have_text("The answer.")
    expect(answer_now).to_have_count(0)
    expect(page.log.get_by_role("button", name=re.compile(r"^Thought for \d.* 1 token"))).to_be_visible()
    assert "never come to this" not in page.text()
    assert len(page.backend.answered_now) == 1


@pytest.mark.exhaustive  # as part of test_stop.py in every run, and counted below
def test_reading_the_prompt_is_shown(chat: Open) -> None:
    page, hold = chat(), Hold()
    page.backend.before = [ReplyDelta(prompt=Prompt("p", tuple(range(9)))), hold]
    page.ask("hi")
    expect(page.log.get_by_text(READING)).to_be_visible()
    hold.release()
    expect(page.answered()).to_have_text("Hello from the fake.")
    expect(page.log.get_by_text(READING)).to_have_count(0)


# What the line above the reply said, one after the other, and the elements that it and its spinner were drawn in.
PHASES = """() => {
  window.phases = []; window.drawn = new Set();
  new MutationObserver(() => {
    const line = document.querySelector('#chat .thought-group');
    if (!line) return;
    window.drawn.add(line).add(line.querySelector('.loading-spinner'));
    const said = line.innerText.trim();
    if (window.phases.at(-1) !== said) window.phases.push(said);
  }).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true});
}"""


def test_waiting_and_reading_are_counted_in_one_line(chat: Open) -> None:
    second, next_up, some, most = Hold(), Hold(), Hold(), Hold()
    prompt = Prompt("p", tuple(range(1024)))
    page = chat(["Hello."])
    waiting: list[ReplyDelta | Hold] = [
        ReplyDelta(queue_position=3),
        second,
        ReplyDelta(queue_position=2),
        ReplyDelta(queue_position=1),
        next_up,
    ]
    reading: list[ReplyDelta | Hold] = [
        ReplyDelta(prompt=prompt, prefilled_tokens=128),
        some,
        ReplyDelta(prefilled_tokens=1000),
        most,
    ]
    page.backend.before = [*waiting, *reading]
    page.page.evaluate(PHASES)
    page.ask("hi")
    expected = {
        "In the queue: position 3 …": second,
        "In the queue: next …": next_up,
        "Reading 128 of 1,024 tokens …": some,
        "Reading 1,000 of 1,024 tokens …": most,
    }
    for status, hold in expected.items():
        expect(page.log.get_by_text(status, exact=True)).to_be_visible()
        expect(page.log.locator(".thought-group")).to_have_count(1)
        page.page.wait_for_timeout(600)  # heartbeats pass, and change nothing
        hold.release()
    expect(page.answered()).to_have_text("Hello.")
    expect(page.log.locator(".thought-group")).to_have_count(0)
    phases = [phase for phase in page.page.evaluate("window.phases") if phase]
    # On a busy machine the first line may be drawn only when it tells more already.
    assert phases[phases[0] == "In the queue …" :] == list(expected)
    assert page.page.evaluate("window.drawn.size") == 2


# --- Speed ---

SPEED_TOKENS, SPEED_RATE, MAX_LAG = 4000, 200.0, 0.5
IN_EVERY_RUN = 1000
"""Tokens; an exhaustive run has SPEED_TOKENS."""
MARKS, MARK_EVERY = [f"MARK{number}" for number in range(5)], 100
"""The last words; the tokens from one to the next."""
TIMER = """marks => {
  window.seen = {};
  new MutationObserver(() => {
    const text = document.querySelector('#chat').textContent;
    for (const mark of marks) if (!window.seen[mark] && text.includes(mark)) window.seen[mark] = Date.now() / 1000;
  }).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true});
}"""


def _long_markdown(count: int = SPEED_TOKENS) -> list[str]:
    """So many tokens of about five characters: paragraphs, lists, emphasis and code."""
    block = (
        "## Part\n\nSome **bold** words and `code` in a plain paragraph of text.\n\n- one item\n- two items\n\n"
        "```python\nfor i in range(10):\n    print(i)\n```\n\n"
    )
    text = (block * 200)[: count * 5]
    tokens = [text[start : start + 5] for start in range(0, len(text), 5)]
    end = [token for mark in MARKS for token in (*["word "] * (MARK_EVERY - 1), f"{mark} ")]
    return [*tokens[: count - len(end) - 1], "\n```\n\n", *end]


def _lag(page: Chat, count: int = SPEED_TOKENS) -> float:
    """Seconds from a mark's being written to its being there: the least, for a machine may stand still for a moment.

    A page that falls behind is further behind at each mark.
    """
    page.page.evaluate(TIMER, MARKS)
    page.ask("write")
    page.page.wait_for_timeout(count / SPEED_RATE * 1000)
    wait_until(lambda: page.page.evaluate("Object.keys(window.seen).length") == len(MARKS), what="the whole reply")
    seen: dict[str, float] = page.page.evaluate("window.seen")
    written = page.backend.piece_times[::-MARK_EVERY][: len(MARKS)]
    lags = [seen[mark] - at for mark, at in zip(reversed(MARKS), written, strict=True)]
    expect(page.send).to_be_visible(timeout=PATIENCE)
    ready = time.time() - page.backend.last_piece_at
    assert sys.__stderr__ is not None
    sys.__stderr__.write(
        f"\npage complete {lags[0]:.3f} s after the last of {count} tokens; Send back after {ready:.3f} s\n"
    )
    assert len(page.replies.last.inner_text()) > 2.5 * count
    return min(lags)


@pytest.mark.alone
@pytest.mark.parametrize("count", [IN_EVERY_RUN, pytest.param(SPEED_TOKENS, marks=pytest.mark.exhaustive)])
def test_page_keeps_up_with_200_tokens_a_second(chat: Open, count: int) -> None:
    assert _lag(chat(_long_markdown(count), rate=SPEED_RATE), count) < MAX_LAG


@pytest.mark.alone
@pytest.mark.exhaustive
def test_page_keeps_up_after_20_old_answers(chat: Open) -> None:
    page = chat(*([["An old answer. " * 136]] * 20), _long_markdown(), rate=SPEED_RATE)
    for number in range(20):
        page.say(f"question {number}")
    assert _lag(page) < MAX_LAG
