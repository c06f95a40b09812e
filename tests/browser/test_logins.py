"""One person at this computer whatever the browser, who then turns logins on, takes the chats over, and logs out."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from chatui.settings import AppSettings
from tests.browser.conftest import new_chat
from tests.browser.pages import PATIENCE, Site, wait_until
from tests.fakes import FakeBackend

pytestmark = pytest.mark.browser


def log_in(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_label("username").fill("ada")
    page.get_by_label("password").fill("secret")
    page.get_by_role("button", name="Login").click()
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible(timeout=PATIENCE)


def test_chats_are_there_in_every_browser_and_go_along_to_the_login(browser: Browser, tmp_path: Path) -> None:
    with ExitStack() as stack:
        with Site(FakeBackend(["fine"]), AppSettings(data_dir=tmp_path, allowed_hosts="")) as site:
            new_chat(stack, browser, site).say("said before logins")
            other = new_chat(stack, browser, site)
            other.page.goto(site.url.replace("127.0.0.1", "localhost"))
            expect(other.page.locator("#chats .chat-link")).to_have_text(["said before logins"], timeout=PATIENCE)
            context = other.page.context
        site = stack.enter_context(
            Site(FakeBackend(["fine"]), AppSettings(data_dir=tmp_path, allowed_hosts="", auth="ada:secret"))
        )
        page = context.new_page()
        log_in(page, site.url)
        expect(page.get_by_text("1 chat was made here before there were logins.")).to_be_visible()
        expect(page.locator("#chats .chat-link")).to_have_count(0)
        page.get_by_role("link", name="Yes, they are mine").click()
        expect(page.locator("#chats .chat-link")).to_have_text(["said before logins"])
        expect(page.locator("#chats .offer")).to_have_count(0)
        site.stop()
        page.goto("about:blank")  # the page would load itself when the server is back, and abort our loading
        site.start()
        page.goto(site.url)
        expect(page.locator("#chats .chat-link")).to_have_text(["said before logins"], timeout=PATIENCE)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("password")).to_be_visible(timeout=PATIENCE)
        wait_until(lambda: not any(cookie["name"].startswith("access-token") for cookie in context.cookies()))
