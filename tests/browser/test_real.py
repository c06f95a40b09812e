"""The tutorial's conversation and what a new user tries, in a real browser with the real default model."""

import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import new_chat
from tests.browser.pages import PATIENCE, Chat, Site, wait_until
from tests.browser.running_app import running_app

pytestmark = [pytest.mark.real, pytest.mark.browser]

SLOW = 120_000
"""Milliseconds that a reply may take on two busy cores."""

NEW_YORK = "Hey, can you tell me any fun things to do in New York?"
SOAP_CANS = "Wait, what's so wild about soap cans?"
STREAMING = """() => { window.lengths = []; new MutationObserver(() => window.lengths.push(
    [...document.querySelectorAll('[data-testid=bot]')].pop()?.innerText.length ?? 0
)).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true}); }"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_app() as site:
        yield site


@pytest.fixture
def chat(browser: Browser, site: Site) -> Iterator[Chat]:
    with ExitStack() as stack:
        chat = new_chat(stack, browser, site)
        chat.page.set_default_timeout(SLOW)
        expect(chat.setting("Temperature")).to_have_value("0.2")
        yield chat


def choose(chat: Chat, persona: str) -> None:
    chat.page.get_by_role("combobox", name="Persona").click()
    chat.page.get_by_role("option", name=re.compile(persona)).click()


def limit(chat: Chat, tokens: int, temperature: float | None = None) -> None:
    chat.setting("Max new tokens").fill(str(tokens))
    chat.setting("Max new tokens").press("Tab")
    if temperature is not None:
        chat.setting("Temperature").fill(str(temperature))
        chat.setting("Temperature").press("Tab")


def say(chat: Chat, text: str) -> str:
    before = inspect_link(chat)
    chat.box.fill(text)
    chat.box.press("Enter")
    return finished(chat, before)


def inspect_link(chat: Chat) -> str | None:
    """Where the last finished reply is inspected; None where there is no such reply."""
    links = chat.log.locator(".inspect")
    return links.last.get_attribute("href") if links.count() else None


def finished(chat: Chat, before: str | None = None) -> str:
    """The reply, when it is finished; `before` is the inspect link of the reply before it."""
    # Not the Stop button: a short reply may have come and gone before it is looked for.
    wait_until(lambda: inspect_link(chat) not in (None, before), SLOW / 1000, "the end of the reply")
    expect(chat.send).to_be_visible(timeout=SLOW)
    return chat.replies.first.inner_text() if chat.replies.count() == 1 else reply_text(chat)


def reply_text(chat: Chat) -> str:
    """The text of the last reply, without the notes below it."""
    texts = [text for text in chat.replies.all_inner_texts() if "longest length" not in text]
    return texts[-1]


def test_the_tutorials_conversation(chat: Chat) -> None:
    choose(chat, "Sassy robot")
    expect(chat.page.locator("#system-prompt textarea")).to_have_value(re.compile("sassy, wise-cracking robot"))
    expect(chat.page.get_by_role("heading", name=re.compile("BZZT"))).to_be_visible()
    limit(chat, 40)
    chat.page.evaluate(STREAMING)
    assert len(say(chat, NEW_YORK)) > 20
    growth = [length for length in chat.page.evaluate("window.lengths") if length]
    assert len(set(growth)) >= 5, f"the text did not grow step by step: {growth}"
    expect(chat.header).to_contain_text("tokens/s")
    expect(chat.header).to_contain_text("Q4_1")
    say(chat, SOAP_CANS)
    expect(chat.questions).to_have_text([NEW_YORK, SOAP_CANS])
    assert not chat.watch.foreign(chat.site)
    assert not chat.watch.errors


@pytest.mark.exhaustive  # tests/real shows what greedy replies are, test_actions.py that settings arrive
def test_temperature_zero_repeats_and_a_persona_changes_the_reply(chat: Chat) -> None:
    limit(chat, 24, temperature=0)
    first = say(chat, NEW_YORK)
    chat.start_new_chat()
    expect(chat.questions).to_have_count(0)
    assert say(chat, NEW_YORK) == first
    chat.start_new_chat()
    choose(chat, "Pirate")
    assert say(chat, NEW_YORK) != first


@pytest.mark.exhaustive  # so does tests/unit/test_batch.py with a small model
def test_a_seed_repeats_and_another_does_not(chat: Chat) -> None:
    limit(chat, 24, temperature=1.5)
    replies = []
    for seed in ("7", "7", "8"):
        chat.setting("Seed").fill(seed)
        chat.setting("Seed").press("Tab")
        replies.append(say(chat, "Tell me a story."))
        chat.start_new_chat()
        expect(chat.questions).to_have_count(0)
    assert replies[0] == replies[1] != replies[2]


@pytest.mark.exhaustive  # test_stop.py and test_actions.py have each with a scripted backend
def test_stop_retry_and_edit(chat: Chat) -> None:
    limit(chat, 400, temperature=1)
    chat.box.fill("Write a long story about the sea.")
    chat.box.press("Enter")
    expect(chat.replies.first).to_contain_text(re.compile(r"\w+ \w+ \w+"), timeout=SLOW)
    chat.stop.click()
    expect(chat.send).to_be_visible(timeout=5_000)
    expect(chat.log).to_contain_text("Stopped", timeout=SLOW)
    partial = chat.replies.first.inner_text()
    limit(chat, 16)
    before = inspect_link(chat)
    chat.button("Retry").click()
    assert finished(chat, before) != partial
    before = inspect_link(chat)
    chat.questions.last.hover()
    chat.button("Edit").last.click()
    chat.log.get_by_role("textbox").fill("Say hello.")
    chat.button("Submit").click()
    finished(chat, before)
    expect(chat.questions).to_have_text(["Say hello."])


@pytest.mark.exhaustive  # so does tests/unit/test_engine.py with a small model
def test_the_model_is_free_again_after_a_stop_while_reading(chat: Chat) -> None:
    limit(chat, 8)
    chat.box.fill("word " * 3000)
    chat.box.press("Enter")
    expect(chat.log).to_contain_text(re.compile(r"Reading ([\d,]+ of )?3,0\d\d tokens"), timeout=SLOW)
    chat.stop.click()
    expect(chat.send).to_be_visible(timeout=5_000)
    chat.start_new_chat()
    expect(chat.questions).to_have_count(0)
    # Reading the 3,000 tokens to the end would take far longer than this short reply.
    chat.box.fill("Hi")
    chat.send.click()
    expect(chat.log).not_to_contain_text("In the queue", timeout=3_000)
    finished(chat)


@pytest.mark.exhaustive  # tests/unit/test_prompt.py has what is left out, test_actions.py a message that is too long
def test_a_conversation_beyond_the_context_says_what_it_leaves_out(chat: Chat) -> None:
    limit(chat, 4)
    chat.box.fill("word " * 9000)
    chat.send.click()
    expect(chat.cards).to_contain_text(re.compile(r"take 9,\d\d\d tokens"), timeout=SLOW)
    expect(chat.send).to_be_visible()


INSPECTED = {
    "Prompt": ("<|im_start|>", "persona", "this message", "generation prompt", "Nothing was left out"),
    "Tokens": ("<|im_end|>", "of them were the model's likeliest"),
    "Time": ("chat template", "prefill", "decode", "Milliseconds for each token"),
    "Memory": ("134,515,008", "158 MB", "KV cache, predicted", "float32"),
    "Ceiling": ("GB/s", "Share of the ceiling", "int4, one reply", "8 replies at once"),
    "Why": ("which ends a reply", "system role is its own"),
    "Python": ("import torch",),
    "Persona": ("Its KV cache", "Its part of the context"),
}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="light", marks=pytest.mark.exhaustive),
        pytest.param({"color_scheme": "dark"}, id="dark", marks=pytest.mark.exhaustive),
        pytest.param({"viewport": {"width": 390, "height": 800}}, id="phone", marks=pytest.mark.exhaustive),
    ],
)
def test_every_page_of_the_inspect_view(browser: Browser, site: Site, options: dict[str, object]) -> None:
    with ExitStack() as stack:
        chat = new_chat(stack, browser, site, **options)
        chat.page.set_default_timeout(SLOW)
        say(chat, "What is the capital of France? Answer with its name.")
        chat.log.locator(".chat-bar .inspect").last.click()
        view = chat.page.locator("#inspector")
        expect(view).to_be_visible(timeout=SLOW)
        expect(view.get_by_role("tab", name="Prompt", exact=True)).to_be_visible(timeout=SLOW)
        for name, words in INSPECTED.items():
            tab = chat.page.get_by_role("tab", name=name, exact=True)
            if not tab.is_visible():
                chat.page.locator("#inspector-tabs .overflow-menu button").first.click()
                tab = chat.page.locator("#inspector-tabs .overflow-dropdown").get_by_text(name, exact=True)
            tab.click()
            for word in words:
                expect(view).to_contain_text(word, timeout=PATIENCE)
            assert chat.page.evaluate("document.querySelector('#inspector').scrollWidth <= window.innerWidth")
        share = re.search(r"Share of the ceiling\s*([\d.]+)%", view.text_content() or "")
        assert share
        assert 0 < float(share[1]) <= 100
        assert chat.watch.errors == []


@pytest.mark.exhaustive  # test_looks.py has them with a scripted backend
@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}])
def test_dark_and_phone(browser: Browser, site: Site, options: dict[str, object]) -> None:
    with ExitStack() as stack:
        chat = new_chat(stack, browser, site, **options)
        chat.box.fill("Hi")
        chat.send.click()
        expect(chat.replies.first).to_contain_text(re.compile(r"\w"), timeout=SLOW)
        expect(chat.stop.or_(chat.send).first).to_be_in_viewport()
