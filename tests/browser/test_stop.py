"""Stop frees the model at once and keeps what was written; leaving the page ends nothing."""

import time
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import expect

from chatui.chat import ModelStatus, Prompt, ReplyDelta
from chatui.generation_settings import GenerationSettings
from tests.browser.pages import PATIENCE, READING, Chat, Site, wait_until
from tests.fakes import INFO, Hold, Script

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

AT_ONCE = 0.5
"""Seconds."""


def _freed(page: Chat) -> None:
    wait_until(lambda: page.backend.running == 0, what="the backend's release")


def _stop(page: Chat) -> None:
    """Press Stop in a reply that would not end by itself."""
    page.stop.click()
    _freed(page)
    page.usable()
    expect(page.log.get_by_text("Stopped.", exact=True).last).to_be_visible()
    assert page.backend.cancelled >= 1


def _again(page: Chat) -> None:
    """The next turn works, and the model is told nothing of notes."""
    page.backend.replies = [["fine again"]]
    expect(page.say("and now?")).to_have_text("fine again")
    assert not any("Stopped" in m.content for m in page.backend.requests[-1].messages)


def _partial() -> tuple[Hold, Script]:
    hold = Hold()
    return hold, ["Once upon", " a time", hold, " there was more."]


def _retry(page: Chat) -> None:
    page.button("Retry").last.click()


def _edit(page: Chat) -> None:
    page.button("Edit").last.click()
    page.log.get_by_role("textbox").fill("edited")
    page.button("Submit").click()


@pytest.mark.alone
def test_stop_works_at_once(chat: Open) -> None:
    _, script = _partial()
    page = chat(script)

    def delay() -> float:
        """Seconds that stopping takes longer than asking: both are an event and what is shown of it."""
        start = time.monotonic()
        page.ask("tell me")
        expect(page.replies.last).to_have_text("Once upon a time")
        asked = time.monotonic()
        _stop(page)
        return time.monotonic() - asked - (asked - start)

    # The least counts: a machine may stand still for a moment.
    assert any(delay() < AT_ONCE for _ in range(5))


EXHAUSTIVE = pytest.mark.exhaustive
"""Each moment is in every run; each way at each of them is not."""


@pytest.mark.parametrize(
    "way", ["example", *(pytest.param(way, marks=EXHAUSTIVE) for way in ("send", "retry", "edit"))]
)
def test_stop_while_writing_keeps_the_part(chat: Open, way: str) -> None:
    hold, script = _partial()
    page = chat(["whole"], script) if way in ("retry", "edit") else chat(script)
    if way in ("retry", "edit"):
        page.say("first")
    if way == "send":
        page.ask("tell me")
    elif way == "example":
        page.log.locator("button.example").first.click()
    elif way == "retry":
        _retry(page)
    else:
        _edit(page)
    expect(page.log.get_by_text("Once upon a time")).to_be_visible()
    _stop(page)
    hold.release()
    expect(page.log.get_by_text("Once upon a time", exact=True)).to_be_visible()
    assert "there was more" not in page.text()
    _again(page)
    messages = page.backend.requests[-1].messages
    assert [m.content for m in messages[-2:]] == ["Once upon a time", "and now?"]
    assert len(messages) == 4


@pytest.mark.parametrize("way", ["edit", *(pytest.param(way, marks=EXHAUSTIVE) for way in ("send", "retry"))])
def test_stop_while_the_prompt_is_read(chat: Open, way: str) -> None:
    page = chat(["whole"])
    if way != "send":
        page.say("first")
    page.backend.delay_first = 600
    before = len(page.backend.requests)
    if way == "send":
        page.ask("tell me")
    else:
        (_retry if way == "retry" else _edit)(page)
    wait_until(lambda: len(page.backend.requests) > before)
    expect(page.log.get_by_text(READING)).to_be_visible()
    _stop(page)
    expect(page.log.get_by_text(READING)).to_have_count(0)
    page.backend.delay_first = 0
    _again(page)


def test_stop_while_thinking_keeps_the_thought(chat: Open) -> None:
    page = chat([ReplyDelta(reasoning="Half a thought"), Hold(), "never"])
    page.ask("why?")
    expect(page.log.get_by_text("Half a thought")).to_be_visible()
    _stop(page)
    thought = page.log.get_by_role("button", name="Thought, until it was cut off")
    expect(thought).to_be_visible()
    expect(page.log.get_by_text("Half a thought")).to_be_hidden()
    thought.click()
    expect(page.log.get_by_text("Half a thought")).to_be_visible()
    _again(page)


def test_stop_while_the_model_loads(chat: Open) -> None:
    page = chat()
    page.backend.status = ModelStatus(INFO.name, "loading", "reading weights")
    page.ask("hello?")
    expect(page.log.get_by_text("reading weights")).to_be_visible()
    _stop(page)
    page.backend.status = ModelStatus(INFO.name, "ready", info=INFO)
    _again(page)


@pytest.mark.parametrize(
    ("way", "moment"),
    [("close", "reading"), *(pytest.param(way, "writing", marks=EXHAUSTIVE) for way in ("reload", "leave"))],
)
@pytest.mark.exhaustive  # test_reload.py closes a tab within a reply
def test_leaving_the_page_does_not_end_the_reply(chat: Open, way: str, moment: str) -> None:
    reading, hold = Hold(), Hold()
    page = chat(["Once upon", " a time", hold, " there was more."], fresh=True)
    if moment != "writing":
        page.backend.before = [ReplyDelta(prompt=Prompt("p", tuple(range(9)))), reading]
    page.ask("tell me")
    waited_for = "Once upon a time" if moment == "writing" else READING
    expect(page.log.get_by_text(waited_for)).to_be_visible()
    link = page.page.url
    context = page.page.context
    if way == "close":
        page.page.close()
    elif way == "reload":
        page.page.reload(wait_until="commit")
    else:
        page.page.goto("about:blank")
    back = Chat(context.new_page(), page.site, page.watch)
    reading.release()
    back.page.goto(link)
    expect(back.log.get_by_text("Once upon a time")).to_be_visible(timeout=PATIENCE)
    hold.release()
    expect(back.log.get_by_text("Once upon a time there was more.", exact=True)).to_be_visible(timeout=PATIENCE)
    back.answered()
    assert page.backend.cancelled == 0
    assert len(page.backend.requests) == 1


@pytest.mark.exhaustive  # test_reload.py reloads at any moment, and has the whole reply afterwards
def test_page_works_after_a_reload_in_mid_reply(chat: Open) -> None:
    hold = Hold()
    page = chat(["Once", hold], fresh=True)
    page.ask("tell me")
    expect(page.log.get_by_text("Once", exact=True)).to_be_visible()
    page.page.reload()
    expect(page.log.get_by_text("Once", exact=True)).to_be_visible(timeout=PATIENCE)
    hold.release()
    page.answered()
    _again(page)


def test_a_reply_goes_on_behind_a_new_chat(chat: Open) -> None:
    hold, script = _partial()
    page = chat(script, fresh=True)
    page.ask("tell me")
    expect(page.log.get_by_text("Once upon a time")).to_be_visible()
    page.start_new_chat()
    expect(page.send).to_be_visible(timeout=PATIENCE)
    expect(page.replies).to_have_count(0)
    hold.release()
    _freed(page)
    assert page.backend.cancelled == 0
    _again(page)
    assert len(page.backend.requests[-1].messages) == 2
    assert "Once upon" not in page.text()
    page.page.get_by_role("link", name="tell me", exact=True).click()
    expect(page.log.get_by_text("Once upon a time there was more.", exact=True)).to_be_visible()


def test_undo_in_mid_reply_frees_the_model(chat: Open) -> None:
    _, script = _partial()
    page = chat(["whole"], script)
    page.say("first")
    page.ask("second")
    expect(page.log.get_by_text("Once upon a time")).to_be_visible()
    undo = page.button("Undo").last
    if not undo.is_enabled():  # it is not offered, which is as well
        return
    undo.click()
    _freed(page)
    expect(page.send).to_be_visible(timeout=PATIENCE)
    expect(page.box).to_have_value("second")


def test_sending_in_mid_reply_takes_over(chat: Open) -> None:
    hold, script = _partial()
    page = chat(script, ["second answer"])
    page.ask("one")
    expect(page.log.get_by_text("Once upon a time")).to_be_visible()
    page.ask("two")
    hold.release()
    expect(page.questions).to_have_text(["one", "two"])
    expect(page.answered()).to_have_text("second answer")
    contents = [m.content for m in page.backend.requests[-1].messages[1:]]
    assert contents == ["one", "Once upon a time", "two"], "the part that was written stays"
    assert len(page.backend.requests) == 2


def test_a_reply_that_nobody_listens_to_ends(serve: Callable[..., Site]) -> None:
    site = serve(["word "] * 6000, rate=100)
    inputs = ["hi", None, *[None for _ in GenerationSettings.model_fields], None]
    # Asked for, but the stream of its events is never opened: as when a tab is closed at the wrong moment.
    response = httpx.post(f"{site.url}/gradio_api/call/chat", json={"data": inputs})
    assert response.status_code == 200
    wait_until(lambda: site.backend.running == 1, what="the reply's start")
    wait_until(lambda: site.backend.running == 0, 30, "the reply's end")
    assert site.backend.cancelled == 1
