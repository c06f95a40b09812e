"""A real Chromium, and the real application around a scripted backend."""

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from scripts.benchmark.page import CHROMIUM
from tests.browser.failures import LATEST_REQUESTS, events, note_events, subprocesses, threads
from tests.browser.pages import FOREIGN_HOST, PATIENCE, Chat, Listener, Site, Watch, wait_until
from tests.fakes import FakeBackend, Reply
from tests.ports import reserved_port

FLAGS = (*CHROMIUM, f"--host-resolver-rules=MAP {FOREIGN_HOST} 127.0.0.1")

# The shell has no windows of its own, which saves an eighth of the CPU time of these tests.
EXECUTABLE = shutil.which("chromium-headless-shell") or shutil.which("chromium")

BOTH_PANELS = """try {
  if (!localStorage['chatui-panels']) localStorage['chatui-panels'] = '{"settings":true}';
} catch { /* a document that may keep nothing */ }"""
"""At the size of a laptop the right one is closed at first."""

COUNT_FRAMES = """{ const request = window.requestAnimationFrame.bind(window);
  window.framesRequested = 0;
  window.requestAnimationFrame = callback => { window.framesRequested++; return request(callback); }; }"""

expect.set_options(timeout=PATIENCE)

LAPTOP = {"width": 1280, "height": 860}
STILL = {"reduced_motion": "reduce"}
"""Movement takes CPU time: tests ask for it where the page moves, and the others do without."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.when == "call":
        report.sections += [
            ("Latest requests", f"now: {time.time():.3f}\n{LATEST_REQUESTS.report()}"),
            ("Events of the pages", events()),
            ("Subprocesses", subprocesses()),
            ("Threads", threads()),
        ]
    return report


Serve = Callable[..., Site]
OpenChat = Callable[..., Chat]


def new_chat(stack: ExitStack, browser: Browser, site: Site, **options: Any) -> Chat:
    """The page in a new browser context, closed with `stack`. It moves nothing unless `reduced_motion` says so."""
    context = browser.new_context(**{"viewport": LAPTOP, **STILL, **options})
    stack.callback(context.close)
    context.set_default_timeout(PATIENCE)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(BOTH_PANELS)
    context.add_init_script(COUNT_FRAMES)
    watch = Watch()
    watch.attach(context)
    note_events(context)
    return Chat(context.new_page(), site, watch).open()


# Not session: Playwright keeps an event loop running in this thread, where other folders' async tests need their own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def port() -> Iterator[int]:
    """The port of the first application of each test: the tab has Gradio's scripts compiled for its address."""
    with reserved_port() as port:
        yield port


@pytest.fixture
def serve(port: int) -> Iterator[Serve]:
    """`serve(*replies, rate=200)`: a running application around a FakeBackend, stopped after the test."""
    ports = [port]
    with ExitStack() as stack:

        def start(*replies: Reply, rate: float = 200.0, backend: FakeBackend | None = None, **options: Any) -> Site:
            site = Site(backend or FakeBackend(*replies, rate=rate), port=ports.pop() if ports else 0, **options)
            return stack.enter_context(site)

        yield start


@pytest.fixture
def open_chat(serve: Serve, browser: Browser, own_tab: "Tab") -> Iterator[OpenChat]:
    """`open_chat(site, **context)`: the page as a new user sees it; each in a test is another user's."""
    with ExitStack() as stack:

        def start(site: Site, **options: Any) -> Chat:
            if not own_tab.taken and options.keys() <= Tab.OPTIONS:
                return own_tab.show(site, **options)
            return new_chat(stack, browser, site, **options)

        yield start


class Pool:
    """One page that tests take in turn: loading Gradio's page takes longer than most tests."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._stack = ExitStack()
        self._chat: Chat | None = None

    def take(self, replies: Sequence[Reply], rate: float) -> Chat:
        """The page with an empty chat, as it would be if it had just been loaded."""
        if self._chat is None or not self._chat.reset():
            self.drop()
            site = self._stack.enter_context(Site(FakeBackend()))
            self._chat = new_chat(self._stack, self._browser, site)
        self._chat.backend.replies = list(replies) or [["Hello", " from", " the", " fake."]]
        self._chat.backend.rate = rate
        return self._chat

    def drop(self) -> None:
        """Give the next test a new page, and a new application."""
        self._chat = None
        self._stack.close()


@pytest.fixture(scope="package")
def pool(browser: Browser) -> Iterator[Pool]:
    pool = Pool(browser)
    yield pool
    pool.drop()


class Tab:
    """One tab that is a new user's for each test that wants a fresh page, before an application of its own or another.

    Addresses stay the same, so that the browser keeps Gradio's scripts compiled: a page in a new browser context
    takes three times the CPU time. Cookies and storage are emptied for each, and the backend begins anew.
    """

    OPTIONS = frozenset(("viewport", "color_scheme", "reduced_motion"))
    """Options of a browser context that a tab can change later."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._stack = ExitStack()
        self._own: Site | None = None
        self._page: Page | None = None
        self._watch = Watch()
        self._site: Site | None = None
        """The application that it shows."""
        self.taken = False
        """Whether a test is using the tab."""

    def open(self, *replies: Reply, rate: float, **options: Any) -> Chat:
        """The tab as a new user sees it, with these replies of an application of its own, until `leave`."""
        if self._own is None:
            self._own = self._stack.enter_context(Site(FakeBackend(*replies, rate=rate)))
        self._own.backend.reset(*replies, rate=rate)
        return self.show(self._own, **options)

    def show(self, site: Site, **options: Any) -> Chat:
        """The tab as a new user sees it before this application, until `leave`."""
        self.taken, self._site = True, site
        viewport = options.pop("viewport", LAPTOP)
        media = {"color_scheme": "light", **STILL, **options}
        if self._page is not None:
            self._renew(self._page, site, viewport, media)
            return Chat(self._page, site, self._watch).open()
        chat = new_chat(self._stack, self._browser, site, viewport=viewport, **media)
        self._page, self._watch = chat.page, chat.watch
        return chat

    def _renew(self, page: Page, site: Site, viewport: Any, media: dict[str, Any]) -> None:
        """Make the tab like that of a new user."""
        page.set_viewport_size(viewport)
        page.emulate_media(**media)
        page.goto(f"{site.url}/livez")
        page.context.clear_cookies()
        page.evaluate("localStorage.clear(); sessionStorage.clear()")
        self._watch.clear()

    def leave(self) -> None:
        """Bring the tab to rest; where that does not work the next test gets a new one."""
        self.taken = False
        site = self._site
        if site is None or self._page is None:
            return
        try:
            for other in self._page.context.pages:
                if other is not self._page:
                    other.close()
            self._page.unroute_all()
            self._page.mouse.move(0, 0)
            self._page.goto("about:blank")
            # The answer to the page's farewell may set a cookie.
            wait_until(lambda: site.backend.running == 0 and site.requests == 0, 2)
        except (AssertionError, PlaywrightError):
            self.drop()

    def drop(self) -> None:
        """Close the tab and its application; the next test gets new ones."""
        self.taken = False
        self._page = self._site = self._own = None
        self._stack.close()


@pytest.fixture(scope="package")
def tab(browser: Browser) -> Iterator[Tab]:
    tab = Tab(browser)
    yield tab
    tab.drop()


@pytest.fixture
def own_tab(tab: Tab, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """The tab for one test."""
    failed_before = request.session.testsfailed
    yield tab
    if tab.taken:
        (tab.drop if request.session.testsfailed > failed_before else tab.leave)()


@pytest.fixture
def chat(
    serve: Serve, open_chat: OpenChat, pool: Pool, own_tab: Tab, request: pytest.FixtureRequest
) -> Iterator[OpenChat]:
    """`chat(*replies, rate=200)`: one user's page before a backend with these replies.

    With `fresh=True` or options of the browser context it is a page that has just been loaded by a new user: tests that
    change settings or look at the first moments need that.
    """
    failed_before = request.session.testsfailed

    def start(*replies: Reply, rate: float = 200.0, fresh: bool = False, **options: Any) -> Chat:
        if (fresh or options) and not own_tab.taken and options.keys() <= Tab.OPTIONS:
            return own_tab.open(*replies, rate=rate, **options)
        if fresh or options:
            return open_chat(serve(*replies, rate=rate), **options)
        return pool.take(replies, rate)

    yield start
    if request.session.testsfailed > failed_before:
        pool.drop()


@pytest.fixture
def foreign() -> Iterator[Listener]:
    """A host that no page may contact."""
    listener = Listener()
    yield listener
    listener.close()
