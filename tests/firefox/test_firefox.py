"""The main ways of the page in Firefox, driven through Marionette, which Debian's build has on board."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from marionette_driver import By, Wait, keys
from marionette_driver.marionette import Marionette

from tests.browser.pages import Site, wait_until
from tests.fakes import FakeBackend, Hold, Reply
from tests.ports import reserved_port

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
PATIENCE = 60
PREFERENCES = {
    # No request leaves this computer.
    "app.update.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
    "services.settings.server": "http://127.0.0.1:9",
    "dom.disable_beforeunload": True,
}
BOX = "#message textarea"
BOTS = "#chat [data-testid=bot]:not(:has(.chat-bar))"

pytestmark = [pytest.mark.browser, pytest.mark.skipif(FIREFOX is None, reason="Firefox is not installed")]


class Firefox:
    """A running Firefox, and what a person does in it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.navigate(url)
        self.wait(lambda: self.js("return !!document.querySelector('#message textarea:not([disabled])')"))

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, script_args=arguments)

    def wait(self, true: Callable[[], object]) -> None:
        Wait(self.driver, timeout=PATIENCE, interval=0.05).until(lambda _: true())

    def find(self, selector: str) -> Any:
        self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector))
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def ask(self, text: str) -> None:
        self.find(BOX).send_keys(text, keys.Keys.ENTER)

    def last_reply(self) -> str:
        return str(self.js(f"return [...document.querySelectorAll('{BOTS}')].at(-1)?.innerText ?? ''"))

    def read(self, words: str) -> None:
        self.wait(lambda: words in self.last_reply())

    def wait_idle(self) -> None:
        self.wait(lambda: not self.js("return !!document.querySelector('#message .stop-button')"))


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    log = tmp_path_factory.mktemp("firefox") / "log"  # a file of its own: Marionette removes the one that is there
    with reserved_port() as port:
        yield from _running(port, log)


def _running(port: int, log: Path) -> Iterator[Firefox]:
    driver: Any = Marionette(
        host="127.0.0.1",
        port=port,
        bin=FIREFOX,
        headless=True,
        prefs=PREFERENCES,
        gecko_log=str(log),
        startup_timeout=120,
    )
    driver.start_session()
    driver.timeout.script = driver.timeout.page_load = PATIENCE
    yield Firefox(driver)
    driver.cleanup()
    if driver.instance is not None:
        driver.instance.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    with ExitStack() as stack:

        def start(*replies: Reply, rate: float = 200.0) -> Site:
            return stack.enter_context(Site(FakeBackend(*replies, rate=rate)))

        yield start


def test_a_question_is_answered_and_is_there_after_a_reload(firefox: Firefox, serve: Callable[..., Site]) -> None:
    site = serve(["Hello", " **there**,", " `x < 1`\n\n```python\n\tprint(1)\n```\n"], ["Again"])
    firefox.open(site.url)
    firefox.ask("First question")
    firefox.read("print(1)")
    firefox.wait_idle()
    assert "x < 1" in firefox.last_reply()
    firefox.driver.refresh()
    firefox.read("print(1)")
    assert "?chat=" in firefox.driver.get_url()
    firefox.ask("Second question")
    firefox.read("Again")
    assert len(site.backend.requests) == 2


@pytest.mark.exhaustive
def test_stop_keeps_what_was_written(firefox: Firefox, serve: Callable[..., Site]) -> None:
    site = serve(["One ", "two ", Hold(), "never"])
    firefox.open(site.url)
    firefox.ask("Count")
    firefox.read("two")
    wait_until(lambda: site.backend.requests, PATIENCE)
    firefox.js("setTimeout(() => document.querySelector('#message .stop-button').click(), 600)")
    firefox.wait_idle()
    text = firefox.js("return document.querySelector('#chat').innerText")
    assert "One two" in text
    assert "Stopped" in text
    assert "never" not in text


@pytest.mark.exhaustive  # test_tabs.py has the same in Chromium
def test_enter_pressed_four_times_asks_once(firefox: Firefox, serve: Callable[..., Site]) -> None:
    site = serve(["Hello"], ["Twice"])
    firefox.open(site.url)
    firefox.find(BOX).send_keys("Hi", *[keys.Keys.ENTER] * 4)
    firefox.read("Hello")
    firefox.wait_idle()
    assert len(site.backend.requests) == 1


def test_inspect_opens_as_a_dialog_and_escape_closes_it(firefox: Firefox, serve: Callable[..., Site]) -> None:
    firefox.open(serve(["Hello", " there"]).url)
    firefox.ask("Hi")
    firefox.wait_idle()
    firefox.find("#chat .inspect")
    firefox.js("document.querySelector('#chat .inspect').click()")
    firefox.wait(lambda: firefox.js("return document.querySelector('#inspector .token')?.checkVisibility() ?? false"))
    firefox.driver.find_element(By.CSS_SELECTOR, "body").send_keys(keys.Keys.ESCAPE)
    firefox.wait(lambda: not firefox.js("return document.querySelector('#inspector')?.checkVisibility() ?? false"))


@pytest.mark.exhaustive
def test_ten_tabs_are_usable_at_once(firefox: Firefox, serve: Callable[..., Site]) -> None:
    """Firefox, too, has six connections to a host."""
    site = serve(["Hello"])
    firefox.open(site.url)
    first = firefox.driver.current_window_handle
    opened = []
    try:
        for _ in range(9):
            handle = firefox.driver.open(type="tab")["handle"]
            opened.append(handle)
            firefox.driver.switch_to_window(handle)
            firefox.open(site.url)
        firefox.ask("From the tenth")
        firefox.read("Hello")
        firefox.driver.switch_to_window(first)
        firefox.ask("From the first")
        firefox.read("Hello")
    finally:
        for handle in opened:
            firefox.driver.switch_to_window(handle)
            firefox.driver.close()
        firefox.driver.switch_to_window(first)
    assert len(site.backend.requests) == 2


@pytest.mark.exhaustive
@pytest.mark.parametrize(("width", "height"), [(500, 844), (844, 450), (1280, 800)])
def test_the_page_fits_its_window(firefox: Firefox, serve: Callable[..., Site], width: int, height: int) -> None:
    firefox.driver.set_window_rect(width=width, height=height)
    firefox.open(serve(["Hello"]).url)
    firefox.ask("Hi")
    firefox.read("Hello")
    across, chat = firefox.js(
        "return [document.documentElement.scrollWidth - innerWidth, document.querySelector('#chat').clientHeight]"
    )
    assert across <= 0
    assert chat > 80
