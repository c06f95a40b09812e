"""Two page servers on one PostgreSQL: a tab shows what either writes, and goes to the other when its own dies."""

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import STILL
from tests.browser.pages import PATIENCE
from tests.crash.page_servers import NGINX, Nginx, PageServers, whole_reply
from tests.databases import Server
from tests.ports import reserved_port

pytest_plugins = ("tests.databases",)
pytestmark = pytest.mark.browser


class Installation:
    """Both servers and the proxy before them."""

    def __init__(self, stack: ExitStack, folder: Path, database: Server) -> None:
        ports = [stack.enter_context(reserved_port()) for _ in range(3)]
        url = database.migrated()
        self.servers = PageServers(ports[1:], folder, data_dir=str(folder), database_url=url, allowed_hosts="*")
        stack.callback(self.servers.close)
        nginx = Nginx(ports[0], ports[1:], folder)
        stack.callback(nginx.kill)
        self.url = nginx.url

    def direct(self, number: int, page: Page) -> str:
        """The address of what a page shows, past the proxy; cookies are the same on all ports."""
        return f"http://127.0.0.1:{self.servers.ports[number]}/?{page.url.partition('?')[2]}"


@pytest.fixture(scope="module")
def installation(postgresql: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    if NGINX is None:
        pytest.skip("nginx is not installed")
    with ExitStack() as stack:
        yield Installation(stack, tmp_path_factory.mktemp("servers"), postgresql)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(**STILL)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def box(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message", exact=True)


def say(page: Page, text: str) -> None:
    box(page).fill(text)
    box(page).press("Enter")


def expect_text(page: Page, text: str) -> None:
    expect(page.get_by_role("log")).to_contain_text(text, timeout=PATIENCE)


def words(page: Page) -> int:
    """How many words of replies are shown."""
    return len(re.findall(r"-\d+", page.get_by_role("log").inner_text()))


def test_an_idle_tab_shows_what_is_sent_on_another_server_and_can_stop_it(
    installation: Installation, page: Page
) -> None:
    page.goto(installation.direct(0, page))
    say(page, "short=2")
    expect_text(page, whole_reply("short=2").strip())
    other = page.context.new_page()
    other.goto(installation.direct(1, page))
    expect_text(other, whole_reply("short=2").strip())
    say(page, "long=5000")
    expect_text(other, "long-3")
    expect_text(other, f"long-{words(other) + 20}")
    other.get_by_role("button", name="Stop", exact=True).press("Enter")
    for each in (other, page):
        expect_text(each, "Stopped.")
    assert words(other) == words(page)
    page.get_by_role("button", name="New chat").click()
    say(page, "third=1")
    expect(other.locator("#chats .chat-link")).to_have_count(2, timeout=PATIENCE)


@pytest.mark.exhaustive
def test_a_tab_goes_to_the_other_server_when_its_own_dies(installation: Installation, page: Page) -> None:
    page.goto(installation.url)
    say(page, "cut=5000")
    expect_text(page, "cut-3")
    box(page).fill("what I am typing")
    (own,) = installation.servers.connected()
    installation.servers.end(own, signal.SIGKILL)
    expect_text(page, "Interrupted: the server ended before this reply did.")
    assert words(page) > 3
    expect(box(page)).to_have_value("what I am typing")
    say(page, "next=9")
    expect_text(page, whole_reply("next=9").strip())
    installation.servers.start(own)
