"""What goes wrong is said in the chat with its remedy, and the page goes on."""

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatui.chat import ModelStatus, ReplyDelta
from chatui.errors import GenerationError, ModelError, OverloadError, StoreError
from chatui.generation_settings import GenerationSettings
from chatui.store.store import Store
from chatui.ui.chat.page_events import PageEvents
from chatui.ui.chat.turn_events import TurnEvents
from chatui.ui.gradio_compat import page_blocks
from chatui.ui.shared.updates import ComponentUpdates, PageUpdates
from tests.browser.pages import PATIENCE, Chat, Site, wait_until
from tests.fakes import INFO, FakeBackend, Hold

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

FAILURE = GenerationError("The graphics card is out of memory.", "Ask for a shorter reply.")


def _goes_on(page: Chat, *asked: str) -> None:
    """The next turn works, and the model never hears of the card."""
    page.usable()
    page.backend.replies = [["fine again"]]
    expect(page.say("and now?")).to_have_text("fine again")
    assert [m.content for m in page.backend.requests[-1].messages[1:]] == [*asked, "and now?"]


@pytest.mark.parametrize(
    "way", ["retry", *(pytest.param(way, marks=pytest.mark.exhaustive) for way in ("send", "example"))]
)
def test_error_before_the_first_piece(chat: Open, way: str) -> None:
    page = chat(["whole"], [FAILURE]) if way == "retry" else chat([FAILURE])
    question = "tell me"
    if way == "send":
        page.ask(question)
    elif way == "retry":
        page.say(question)
        page.button("Retry").click()
    else:
        example = page.log.locator("button.example").first
        question = example.inner_text()
        example.click()
    expect(page.cards).to_have_count(1, timeout=PATIENCE)
    expect(page.cards).to_contain_text(FAILURE.message)
    expect(page.cards).to_contain_text(FAILURE.remedy)
    expect(page.questions.last).to_have_text(question)
    _goes_on(page, question)


def test_error_in_mid_reply_keeps_the_part(chat: Open) -> None:
    page = chat([ReplyDelta(reasoning="hm"), "Half", " a reply", FAILURE])
    page.ask("tell me")
    expect(page.cards).to_contain_text(FAILURE.message, timeout=PATIENCE)
    expect(page.log.get_by_text("Half a reply", exact=True)).to_be_visible()
    _goes_on(page, "tell me", "Half a reply")


def test_error_can_be_retried(chat: Open) -> None:
    page = chat(["Half", FAILURE], ["whole"])
    page.ask("tell me")
    expect(page.cards).to_have_count(1, timeout=PATIENCE)
    page.button("Retry").last.click()
    expect(page.cards).to_have_count(0, timeout=PATIENCE)
    expect(page.answered()).to_have_text("whole")
    assert [m.content for m in page.backend.requests[1].messages[1:]] == ["tell me"]


@pytest.mark.parametrize(
    "pieces",
    [pytest.param([], id="before", marks=pytest.mark.exhaustive), pytest.param(["Half a reply"], id="in mid-reply")],
)
def test_an_unforeseen_error_is_a_card_without_insides(chat: Open, pieces: list[str]) -> None:
    page = chat([*pieces, RuntimeError("secret inside")])
    page.ask("tell me")
    expect(page.cards).to_have_count(1, timeout=PATIENCE)
    assert "secret inside" not in page.page.locator("body").inner_text()
    _goes_on(page, "tell me", *pieces)


def test_error_text_is_no_markup(chat: Open) -> None:
    page = chat([GenerationError("No <b>tags</b> & `code` $$x$$ *here*.", "[link](javascript:1) <img src=x>")])
    page.ask("tell me")
    expect(page.cards).to_contain_text("No <b>tags</b> & `code` $$x$$ *here*.", timeout=PATIENCE)
    expect(page.cards).to_contain_text("[link](javascript:1) <img src=x>")
    expect(page.cards.locator("b, img, a, .katex, code, em")).to_have_count(0)


def test_who_is_turned_away_keeps_what_was_typed_and_nothing_else_is_left(chat: Open) -> None:
    page = chat(["whole"])
    full = OverloadError("64 requests are waiting already.", "Try again in a while.", retry_after=10)
    page.backend.full = full
    page.fill("tell me")
    page.send.click()
    expect(page.cards).to_have_count(1, timeout=PATIENCE)
    expect(page.cards).to_contain_text(full.message)
    expect(page.cards).to_contain_text(full.remedy)
    expect(page.box).to_have_value("tell me")
    expect(page.questions).to_have_count(0)
    page.backend.full = None
    page.ask("tell me")
    expect(page.answered()).to_have_text("whole")
    expect(page.cards).to_have_count(0)
    page.backend.full = full
    page.fill("a draft")
    expect(page.page.locator("#draft textarea")).to_have_value("a draft")  # which is told when typing pauses
    page.button("Edit").first.click()
    page.log.get_by_role("textbox").fill("tell me more")
    page.button("Submit").click()
    expect(page.cards).to_have_count(1, timeout=PATIENCE)
    expect(page.box).to_have_value("a draft\n\ntell me more")
    expect(page.questions.last).to_have_text("tell me")
    page.backend.full = None
    page.fill("")
    _goes_on(page, "tell me", "whole")


def test_an_empty_reply_says_so(chat: Open) -> None:
    page = chat([])
    page.ask("tell me")
    expect(page.log.get_by_text("without writing anything")).to_be_visible(timeout=PATIENCE)
    _goes_on(page, "tell me")


@pytest.mark.exhaustive  # tests/unit/test_transcript.py says so, test_chats.py has a server that comes back
def test_server_gone_in_mid_reply(serve: Callable[..., object], open_chat: Open) -> None:
    """After a restart what was written is there, and the page works again."""
    page = open_chat(serve(["Half", Hold()]))
    page.ask("tell me")
    expect(page.log.get_by_text("Half")).to_be_visible()
    page.backend.replies = [["fine again"]]
    page.restart_server()
    expect(page.log.get_by_text("Half", exact=True)).to_be_visible(timeout=PATIENCE)
    expect(page.log.get_by_text("Interrupted: the server ended")).to_be_visible()
    expect(page.send).to_be_visible(timeout=PATIENCE)
    expect(page.say("hi")).to_have_text("fine again")
    assert [m.content for m in page.backend.requests[-1].messages[1:]] == ["tell me", "Half", "hi"]


def test_what_is_not_saved_yet_is_said_until_it_is(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is written, and when it has ended; then the note goes, and the page was ready all the while."""

    def full(*_: object) -> None:
        raise StoreError("The disk is full.", "Free some space.")

    hold = Hold()
    page = chat(["Half ", hold, "and half"], fresh=True)
    note = page.log.get_by_text("Not saved yet: The disk is full.")
    with monkeypatch.context() as broken:
        broken.setattr(Store, "update_replies", full)
        page.ask("tell me")
        expect(note).to_be_visible(timeout=PATIENCE)
        hold.release()
        expect(page.log.get_by_text("Half and half", exact=True)).to_be_visible(timeout=PATIENCE)
        expect(page.send).to_be_visible(timeout=PATIENCE)
        expect(note).to_be_visible()
        expect(page.cards).to_have_count(0)
    expect(note).to_have_count(0, timeout=PATIENCE)
    _goes_on(page, "tell me", "Half and half")


def test_what_is_sent_before_a_page_has_its_values_stays(chat: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy server sends the page without them; they come later, and are then those of before."""
    values, asked, go_on = PageEvents.initial_values, threading.Event(), threading.Event()

    async def late(events: PageEvents) -> ComponentUpdates:
        asked.set()
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return await values(events)

    page = chat(["fine"], fresh=True)
    monkeypatch.setattr(page_blocks, "MAX_PREFILL_SECONDS", 0.0)
    monkeypatch.setattr(PageEvents, "initial_values", late)
    page.page.reload()
    wait_until(asked.is_set, what="the page's question for its values")
    page.say("early")
    go_on.set()
    page.wait_idle()
    expect(page.questions).to_have_text(["early"])
    page.say("again")
    assert [m.content for m in page.backend.requests[-1].messages[1:]] == ["early", "fine", "again"]


# --- The model's state ---


def test_loading_is_shown_and_the_message_answered_afterwards(serve: Callable[..., object], open_chat: Open) -> None:
    backend = FakeBackend(["here I am"])
    backend.status = ModelStatus("fake/echo", "loading", "reading weights 40%")
    page = open_chat(serve(backend=backend))
    expect(page.header).to_contain_text("fake/echo")
    expect(page.header).to_contain_text("reading weights 40%")
    backend.status = ModelStatus("fake/echo", "loading", "warming up")
    expect(page.header).to_contain_text("warming up")
    page.ask("are you there?")
    expect(page.log.get_by_text("Waiting for the model")).to_be_visible()
    expect(page.log.get_by_text("warming up")).to_be_visible()
    backend.status = ModelStatus("fake/echo", "ready", info=INFO)
    expect(page.answered()).to_have_text("here I am")
    expect(page.header).to_contain_text("1M parameters")
    expect(page.header).not_to_contain_text("warming up")
    expect(page.setting("Temperature")).to_have_value("0.5")  # the model's own default


def test_what_is_set_while_the_model_loads_stays(serve: Callable[..., object], open_chat: Open) -> None:
    backend = FakeBackend(["here I am"])
    backend.status = ModelStatus("fake/echo", "loading", "reading weights")
    page = open_chat(serve(backend=backend))
    expect(page.header).to_contain_text("reading weights")
    expect(page.setting("Seed")).to_have_value("")
    page.setting("Top-k").fill("40")
    page.setting("Top-k").blur()
    page.ask("are you there?")
    asked = backend.requests[0].settings
    assert asked == GenerationSettings(top_k=40, seed=asked.seed)
    backend.status = ModelStatus("fake/echo", "ready", info=INFO)
    page.answered()
    expect(page.setting("Temperature")).to_have_value("0.5")
    expect(page.setting("Top-k")).to_have_value("40")


def test_failed_model_is_explained(serve: Callable[..., object], open_chat: Open) -> None:
    backend = FakeBackend()
    error = ModelError("The model fake/echo is not on this computer.", "Download it, or choose another with --model.")
    backend.status = ModelStatus("fake/echo", "loading", "looking")
    page = open_chat(serve(backend=backend))
    expect(page.header).to_contain_text("looking")
    backend.status = ModelStatus("fake/echo", "failed", error=error)
    expect(page.header).to_contain_text(error.message)
    expect(page.header).to_contain_text(error.remedy)
    page.ask("hello?")
    expect(page.cards).to_contain_text(error.message, timeout=PATIENCE)
    expect(page.cards).to_contain_text(error.remedy)
    expect(page.send).to_be_visible()


class SlowEnd:
    """A wire on which the end of a stream of events takes its time, and nothing else does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if b"close_stream" in message.get("body", b""):
                await asyncio.sleep(0.3)
            await send(message)

        await self._app(scope, receive, sent)


def test_no_event_is_lost_while_the_stream_of_the_last_one_ends(serve: Callable[..., Site], open_chat: Open) -> None:
    page = open_chat(serve(["fine"], wire=SlowEnd))
    for number in range(4):
        page.ask(f"question {number}")
        expect(page.questions).to_have_count(number + 1, timeout=PATIENCE)
        expect(page.send).to_be_visible(timeout=PATIENCE)


@pytest.mark.parametrize(
    ("temporary", "empty"),
    [
        (False, False),
        (False, True),
        *(pytest.param(True, each, marks=pytest.mark.exhaustive) for each in (False, True)),
    ],
)
def test_what_is_sent_before_a_new_chat_is_there_goes_to_the_new_chat(
    serve: Callable[..., Site], open_chat: Open, monkeypatch: pytest.MonkeyPatch, temporary: bool, empty: bool
) -> None:
    name = "new_temporary_chat" if temporary else "new_chat"
    opened = getattr(TurnEvents, name)

    @functools.wraps(opened)
    async def late(events: TurnEvents, *inputs: Any) -> PageUpdates:
        await asyncio.sleep(0.5)
        async for update in opened(events, *inputs):
            yield update

    monkeypatch.setattr(TurnEvents, name, late)
    page = open_chat(serve(["fine"]))
    if not empty:
        page.say("first")
    if temporary:
        page.page.locator("#temporary-chat").click()
    else:
        page.start_new_chat()
    page.ask("second")
    expect(page.log.get_by_text("first", exact=True)).to_have_count(0, timeout=PATIENCE)
    expect(page.questions).to_have_text(["second"], timeout=PATIENCE)
    page.answered()
    page.wait_idle()
    expect(page.questions).to_have_text(["second"])
    expect(page.box).to_have_value("")
    assert [message.content for message in page.backend.requests[-1].messages if message.role == "user"] == ["second"]


def test_a_draft_is_not_sent_by_a_new_chat_that_is_there_too_late(
    serve: Callable[..., Site], open_chat: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, may_open = TurnEvents.new_chat, threading.Event()

    @functools.wraps(opened)
    async def late(events: TurnEvents, *inputs: Any) -> PageUpdates:
        await asyncio.to_thread(may_open.wait)
        async for update in opened(events, *inputs):
            yield update

    monkeypatch.setattr(TurnEvents, "new_chat", late)
    page = open_chat(serve(["fine"]))
    page.say("first")
    page.start_new_chat()
    page.box.fill("second")
    page.page.evaluate(
        "const later = setTimeout; setTimeout = (call, ms, ...rest) => later(call, Math.min(ms, 300), ...rest)"
    )
    page.box.press("Enter")
    expect(page.page.locator("#message-problem")).to_contain_text("your message was not sent")
    page.box.fill("not finis")
    page.page.evaluate("const now = performance.now.bind(performance); performance.now = () => now() + 6000")
    may_open.set()
    expect(page.log.get_by_text("first", exact=True)).to_have_count(0, timeout=PATIENCE)
    page.wait_idle()
    expect(page.box).to_have_value("not finis")
    expect(page.questions).to_have_count(0)


def test_what_is_sent_before_a_chosen_chat_has_opened_goes_to_that_chat(
    serve: Callable[..., Site], open_chat: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = TurnEvents.follow_link

    @functools.wraps(followed)
    async def late(events: TurnEvents, *inputs: Any) -> PageUpdates:
        await asyncio.sleep(0.5)
        async for update in followed(events, *inputs):
            yield update

    monkeypatch.setattr(TurnEvents, "follow_link", late)
    page = open_chat(serve(["fine"]))
    page.say("first")
    page.start_new_chat()
    expect(page.questions).to_have_count(0)
    page.say("second")
    page.page.locator("#chats .chat-link", has_text="first").click()
    page.ask("third")
    expect(page.questions).to_have_text(["first", "third"], timeout=PATIENCE)
    page.answered()
    assert [message.content for message in page.backend.requests[-1].messages if message.role == "user"] == [
        "first",
        "third",
    ]
