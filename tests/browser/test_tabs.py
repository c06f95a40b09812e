"""Many tabs of one browser, which has six connections for a site over HTTP/1.1."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, BrowserContext, expect
from starlette.types import ASGIApp, Receive, Scope, Send

from chatui.uvicorn_protocol import WAIT_PATH
from tests.browser.conftest import OpenChat, Serve
from tests.browser.pages import PATIENCE, Chat, Site, Watch, wait_until
from tests.fakes import Hold

pytestmark = pytest.mark.browser

Tabs = Callable[[Site, int], list[Chat]]


EARLIER_DRAFT = """() => addEventListener("pagehide", () => sessionStorage.setItem(
    "chatui-draft", JSON.stringify([location.href, gradio_config.username, "an earlier draft"])))"""
"""What an earlier version leaves when it is reloaded: a draft without the id of a turn."""

LOSE_ONE_REFRESH = """() => document.addEventListener(
    "chatui:act", (event) => event.stopImmediatePropagation(), { capture: true, once: true })"""


@pytest.fixture
def tabs(browser: Browser) -> Iterator[Tabs]:
    """`tabs(site, count)`: the page so many times in one browser."""
    with ExitStack() as stack:

        def opened(context: BrowserContext, site: Site) -> Chat:
            page = context.new_page()
            return Chat(page, site, Watch()).open()

        def start(site: Site, count: int) -> list[Chat]:
            context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE)
            return [opened(context, site) for _ in range(count)]

        yield start


@pytest.mark.parametrize(("count", "writing"), [(7, 6), pytest.param(12, 9, marks=pytest.mark.exhaustive)])
def test_many_tabs_can_all_be_used(serve: Serve, tabs: Tabs, count: int, writing: int) -> None:
    """A browser opens six connections to a host, and more tabs than those get a reply at once."""
    hold = Hold()
    site = serve(["One ", hold, "two."])
    opened = tabs(site, count)
    for number, tab in enumerate(opened[:writing]):
        tab.ask(f"question {number}")
        expect(tab.replies.last).to_have_text("One", timeout=PATIENCE)
    assert site.backend.running == writing
    stopped = opened[writing - 2 : writing]
    for left, tab in enumerate(stopped, 1):
        tab.stop.click()
        wait_until(lambda left=left: site.backend.running == writing - left, what="the end of the stopped reply")  # type: ignore[misc]
    expect(stopped[0].log.get_by_text("Stopped.")).to_be_visible()
    hold.release()
    for tab in opened[: writing - 2]:
        expect(tab.answered()).to_have_text("One two.")
    for tab in (stopped[0], opened[0], opened[-1]):  # one that was stopped, one that was answered, one that was idle
        expect(tab.say("and now?")).to_have_text("One two.")


def test_an_idle_tab_rests_and_says_when_it_closes(serve: Serve, open_chat: OpenChat) -> None:
    asked: list[Scope] = []
    waiting: list[Scope] = []
    ended: list[Scope] = []

    def noting(app: ASGIApp) -> ASGIApp:
        async def noted(scope: Scope, receive: Receive, send: Send) -> None:
            waits = scope["type"] == "http" and scope["path"] == WAIT_PATH
            (waiting if waits else asked).append(scope)
            try:
                await app(scope, receive, send)
            finally:
                ended.append(scope)

        return noted

    tab = open_chat(serve(["Hello."], wire=noting), reduced_motion="no-preference")
    tab.say("hi")
    tab.wait_idle()
    wait_until(lambda: all(scope in ended for scope in asked if scope["type"] == "http"), what="all answers' ends")
    before = len(waiting)
    assert sum(scope not in ended for scope in waiting) == 1
    wait_until(lambda: _frames_requested(tab, 300) == 0, what="the end of all animation")
    assert len(waiting) == before
    tab.page.close()
    wait_until(lambda: b"closed=1" in asked[-1]["query_string"], what="the farewell")
    wait_until(lambda: all(scope in ended for scope in waiting), what="the end of its waiting")


def test_an_idle_tab_shows_what_another_tab_changes(serve: Serve, tabs: Tabs) -> None:
    hold = Hold()
    site = serve(["One ", hold, "two."])
    acting, idle = tabs(site, 2)
    chats = idle.page.locator("#chats .chat-link")
    acting.ask("the first question")
    expect(chats).to_have_text(["the first question"])
    expect(idle.questions).to_have_count(0)
    chats.click()
    expect(idle.replies.last).to_have_text("One")
    hold.release()
    for tab in (acting, idle):
        expect(tab.answered()).to_have_text("One two.")
    idle.fill("a draft")
    idle.page.evaluate(LOSE_ONE_REFRESH)  # it is asked for again
    site.backend.replies = [["Three."]]
    acting.ask("the second question")
    expect(idle.questions).to_have_text(["the first question", "the second question"])
    expect(idle.answered()).to_have_text("Three.")
    expect(idle.box).to_have_value("a draft")
    acting.answered()
    menu = idle.page.locator("#chats .chat-menu")
    menu.locator("summary").click()
    expect(menu.get_by_text("Rename")).to_be_visible()
    _act(acting, "rename={chat}=Another name")
    expect(acting.page.locator("#chats .chat-link")).to_have_text(["Another name"])
    idle.page.wait_for_timeout(1000)
    expect(menu.get_by_text("Rename")).to_be_visible()  # nothing changes under the user's hands
    idle.page.keyboard.press("Escape")
    expect(chats).to_have_text(["Another name"])
    _act(acting, "delete={chat}")
    expect(chats).to_have_count(0)
    expect(idle.cards).to_contain_text("There is no such conversation.")
    expect(idle.box).to_have_value("a draft")


def test_a_question_that_a_page_sends_again_after_a_reload_is_asked_once(chat: Callable[..., Chat]) -> None:
    tab = chat(["One."])
    lost = """() => {
      const fetched = window.fetch;
      window.fetch = async (what, options) => {
        const answer = await fetched(what, options);
        if (!String(what.url ?? what).includes("queue/join")) return answer;
        location.reload();  // before it knows that the server has it
        return new Promise(() => {});
      };
    }"""
    tab.page.evaluate(lost)
    with tab.page.expect_navigation():
        tab.ask("asked before")
    expect(tab.box).to_have_value("asked before", timeout=PATIENCE)
    tab.box.press("Enter")
    expect(tab.questions).to_have_text(["asked before"], timeout=PATIENCE)
    expect(tab.answered()).to_have_text("One.")
    expect(tab.page.locator("#chats .chat-row", has_text="asked before")).to_have_count(1)
    assert len(tab.backend.requests) == 1
    tab.say("and now?")
    assert len(tab.backend.requests) == 2
    tab.page.evaluate(EARLIER_DRAFT)
    tab.page.reload()
    expect(tab.box).to_have_value("an earlier draft", timeout=PATIENCE)


def _act(tab: Chat, action: str) -> None:
    """Do what a link of the list does, with the tab's own conversation."""
    tab.page.evaluate(
        """action => document.dispatchEvent(new CustomEvent("chatui:act", {
          detail: action.replace("{chat}", new URLSearchParams(location.search).get("chat")) }))""",
        action,
    )


def _frames_requested(tab: Chat, milliseconds: int) -> int:
    """How many animation frames the page's scripts ask for in this time."""
    before = tab.page.evaluate("framesRequested")
    tab.page.wait_for_timeout(milliseconds)
    return int(tab.page.evaluate("framesRequested") - before)


def _twice(tab: Chat) -> None:
    tab.send.dblclick()


def _four_times(tab: Chat) -> None:
    for _ in range(4):
        tab.page.keyboard.press("Enter")


def _both(tab: Chat) -> None:
    tab.send.click()
    tab.page.locator("#message textarea").press("Enter")


def _held_down(tab: Chat) -> None:
    for _ in range(5):
        tab.page.keyboard.down("Enter")
    tab.page.keyboard.up("Enter")


@pytest.mark.parametrize(
    "way", [_four_times, _both, *(pytest.param(way, marks=pytest.mark.exhaustive) for way in (_twice, _held_down))]
)
def test_one_question_is_asked_once(chat: Callable[..., Chat], way: Callable[[Chat], None]) -> None:
    hold = Hold()
    tab = chat(["One ", hold, "two."])
    tab.fill("a question")
    way(tab)
    expect(tab.replies.last).to_have_text("One", timeout=PATIENCE)
    tab.page.wait_for_timeout(500)
    expect(tab.stop).to_be_visible()
    hold.release()
    expect(tab.answered()).to_have_text("One two.")
    expect(tab.questions).to_have_count(1)
    assert [request.messages[-1].content for request in tab.backend.requests] == ["a question"]
    tab.wait_idle()


def test_a_question_that_the_browser_sends_again_is_asked_once(chat: Callable[..., Chat]) -> None:
    tab = chat(["One."])
    again = """async () => {
      const fetched = window.fetch;
      window.fetch = async (what, options) => {
        const url = String(what.url ?? what);
        if (url.includes("queue/join") && String(options?.body).includes("asked twice")) await fetched(what, options);
        return fetched(what, options);
      };
    }"""
    tab.page.evaluate(again)
    tab.say("asked twice")
    tab.page.reload()
    expect(tab.questions).to_have_text(["asked twice"], timeout=PATIENCE)
    # Not all that are listed: those of other tests may fill the list.
    expect(tab.page.locator("#chats .chat-row", has_text="asked twice")).to_have_count(1)
    assert len(tab.backend.requests) == 1
