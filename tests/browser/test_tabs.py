"""Many tabs of one browser, which has six connections for a site over HTTP/1.1."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, BrowserContext, expect
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.browser.conftest import OpenChat, Serve
from tests.browser.pages import PATIENCE, Chat, Site, Watch, wait_until
from tests.fakes import Hold

pytestmark = pytest.mark.browser

TABS = 12
Tabs = Callable[[Site], list[Chat]]


@pytest.fixture
def tabs(browser: Browser) -> Iterator[Tabs]:
    """`tabs(site)`: the page twelve times in one browser."""
    with ExitStack() as stack:

        def opened(context: BrowserContext, site: Site) -> Chat:
            page = context.new_page()
            return Chat(page, site, Watch()).open()

        def start(site: Site) -> list[Chat]:
            context = browser.new_context(viewport={"width": 1280, "height": 860})
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE)
            return [opened(context, site) for _ in range(TABS)]

        yield start


def test_twelve_tabs_can_all_be_used(serve: Serve, tabs: Tabs) -> None:
    hold = Hold()
    site = serve(["One ", hold, "two."])
    opened = tabs(site)
    for number, tab in enumerate(opened[:9]):
        tab.ask(f"question {number}")
        expect(tab.replies.last).to_have_text("One", timeout=PATIENCE)
    assert site.backend.running == 9
    for left, tab in enumerate(opened[7:9]):
        tab.stop.click()
        wait_until(lambda left=left: site.backend.running == 8 - left, 5, "the end of the stopped reply")  # type: ignore[misc]
    expect(opened[7].log.get_by_text("Stopped.")).to_be_visible()
    hold.release()
    for tab in opened[:7]:
        expect(tab.answered()).to_have_text("One two.")
    for tab in opened:
        expect(tab.say("and now?")).to_have_text("One two.")


def test_an_idle_tab_holds_no_connection_and_says_when_it_closes(serve: Serve, open_chat: OpenChat) -> None:
    asked: list[Scope] = []
    ended: list[Scope] = []

    def noting(app: ASGIApp) -> ASGIApp:
        async def noted(scope: Scope, receive: Receive, send: Send) -> None:
            asked.append(scope)
            try:
                await app(scope, receive, send)
            finally:
                ended.append(scope)

        return noted

    tab = open_chat(serve(["Hello."], wire=noting))
    tab.say("hi")
    tab.at_rest()
    wait_until(lambda: len(ended) == len([scope for scope in asked if scope["type"] == "http"]), 5, "all answers' ends")
    tab.page.close()
    wait_until(lambda: b"closed=1" in asked[-1]["query_string"], 5, "the farewell")
