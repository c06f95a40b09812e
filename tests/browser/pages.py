"""What the browser tests share: the server under test, one user's page, and a foreign host that notes every visit."""

import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import uvicorn
from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Locator, Page, Request, expect
from playwright.sync_api import Error as PlaywrightError
from starlette.types import ASGIApp, Receive, Scope, Send

from chatui.server import build_app
from chatui.settings import AppSettings
from tests.browser.failures import LATEST_REQUESTS
from tests.fakes import FakeBackend
from tests.ports import reserved_port

READING = re.compile(r"Reading [\d,]+ tokens")

PATIENCE_SECONDS = 60.0
"""What may take so long on a busy machine, where the time itself is not what is tested."""

PATIENCE = 1000 * PATIENCE_SECONDS
"""The same in milliseconds, for Playwright."""

RESET = 5_000
"""Milliseconds after which a page that does not come back to its start is given up."""

FOREIGN_HOST = "foreign.test"
"""Mapped to this machine by the browser, see conftest.py; `Listener` sees whoever goes there."""

# Everything with text of its own that is not cut away, with the ratio of its colour to what lies behind it.
CONTRASTS = """() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return [n[0] * scale, n[1] * scale, n[2] * scale, n[3] === undefined ? 1 : n[3]]; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const shine = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join(' ').trim();
    const text = own || (element.matches('input:not([type=range]), textarea') ? element.value : '');
    const box = element.getBoundingClientRect();
    if (!text || !box.width || !box.height || !element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}))
      continue;
    if (element.closest('.katex-mathml, style, script')) continue;
    const behind = [];
    let opacity = 1;
    for (let e = element; e; e = e.parentElement) {
      behind.push(parse(getComputedStyle(e).backgroundColor));
      opacity *= Number(getComputedStyle(e).opacity);
    }
    const ground = behind.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
    const colour = parse(getComputedStyle(element).color);
    const ink = over([colour[0], colour[1], colour[2], colour[3] * opacity], ground);
    const [high, low] = [shine(ink), shine(ground)].sort((a, b) => b - a);
    found.push({text: text.slice(0, 40), ratio: (high + .05) / (low + .05), dark: shine(ground) < .05,
      what: element.tagName + '.' + [...element.classList].join('.')});
  }
  return found;
}"""


def wait_until(true: Callable[[], object], seconds: float = PATIENCE_SECONDS, what: str = "the condition") -> float:
    """Wait until `true()`, and return the seconds it took. Fails after `seconds`."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < seconds, f"{what} did not come true within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - start


class Site:
    """The real application around a FakeBackend, on a free port, in a thread."""

    def __init__(
        self,
        backend: FakeBackend,
        settings: AppSettings | None = None,
        wire: Callable[[ASGIApp], ASGIApp] = lambda app: app,
        name: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.backend, self._wire, self._name = backend, wire, name
        own = Path(tempfile.mkdtemp(dir=os.environ["CHATUI_DATA_DIR"]))  # see tests/conftest.py
        self._settings = settings or AppSettings(data_dir=own, allowed_hosts=name)
        self.port = port
        self._port_is_held = ExitStack()
        self.requests = 0
        """Requests that are being answered."""
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{self._name}:{self.port}"

    def start(self) -> None:
        """Serve a new application, on the same port as before."""
        self.port = self.port or self._port_is_held.enter_context(reserved_port())
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        app = LATEST_REQUESTS.noted(self._counted(self._wire(build_app(self.backend, self._settings))))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none"))
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        self._server = server
        wait_until(lambda: server.started, what="the server's start")

    def _counted(self, app: ASGIApp) -> ASGIApp:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            is_request = scope["type"] == "http"
            self.requests += is_request
            try:
                await app(scope, receive, send)
            finally:
                self.requests -= is_request

        return counted

    def stop(self) -> None:
        """End it, open streams too."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(PATIENCE_SECONDS)
            assert not self._thread.is_alive(), "the server does not end"
            self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._port_is_held:
            self.stop()


class Listener:
    """A foreign host: counts the connections that reach it, and never answers anything useful."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.seen: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def host(self) -> str:
        """Name and port, as URLs of the hostile corpus have it."""
        return f"{FOREIGN_HOST}:{self.port}"

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                try:
                    sent = connection.recv(200)
                    connection.sendall(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                except OSError:
                    sent = b""
            if sent:  # Chromium may open a socket ahead of need; nothing is sent on it.
                self.seen.append(sent.split(b"\r\n")[0].decode("latin-1"))


@dataclass
class Watch:
    """What one user's browser did that a test may have to answer for."""

    requests: list[Request] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def attach(self, context: BrowserContext) -> None:
        """Note everything from now on."""
        context.on("request", lambda request: self.requests.append(request))
        context.on("dialog", self._dialog)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("console", self._console)

    def clear(self) -> None:
        """Forget what was noted."""
        self.requests.clear()
        self.dialogs.clear()
        self.errors.clear()

    def foreign(self, site: Site) -> list[str]:
        """URLs asked of other hosts and not stopped by the page's own policy."""
        return [
            request.url
            for request in self.requests
            if urlsplit(request.url).scheme in ("http", "https", "ws", "wss", "ftp")
            and urlsplit(request.url).netloc != urlsplit(site.url).netloc
            and "csp" not in (request.failure or "").lower()
        ]

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)


class Chat:
    """One user's page, its parts found as a person or a screen reader finds them."""

    def __init__(self, page: Page, site: Site, watch: Watch) -> None:
        self.page, self.site, self.backend, self.watch = page, site, site.backend, watch
        self.box = page.get_by_role("textbox", name="Message", exact=True)
        self.log = page.get_by_role("log")
        self.header = page.locator("#status")
        self.replies = self.log.locator("[data-testid=bot]").filter(has_not=page.locator(".chat-bar"))
        self.questions = self.log.locator("[data-testid=user]")
        self.cards = self.log.locator(".chat-card")
        self.send = self.button("Send")
        self.stop = self.button("Stop")

    def button(self, name: str | re.Pattern[str]) -> Locator:
        """A button by its accessible name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def open(self) -> Self:
        """Load the page and wait until it can be used."""
        self.page.goto(self.site.url)
        expect(self.send).to_be_visible(timeout=PATIENCE)
        info = self.backend.status.info
        if info is not None:  # the page shows our defaults until it has heard of the model's
            shown = self.page.locator(
                "#setting-temperature [data-testid=number-input]"
            )  # in a sidebar that may be closed
            expect(shown).to_have_value(f"{info.defaults.temperature:g}", timeout=PATIENCE)
        return self

    def reset(self) -> bool:
        """Bring the page and the backend back to the start; False where that does not work."""
        backend = self.backend
        backend.replies, backend.before, backend.delay_first, backend.cancelled = [["left over"]], (), 0.0, 0
        backend.status = FakeBackend().status
        try:
            self.page.set_viewport_size({"width": 1280, "height": 860})
            self.page.keyboard.press("Escape")
            self.sidebar("conversations", opened=True)
            self.button("New chat").click()
            # After Undo there may be no questions in the chat before either.
            expect(self.page.locator("#chats .place")).to_have_attribute("href", "?chat=", timeout=RESET)
            expect(self.questions).to_have_count(0, timeout=RESET)
            expect(self.send).to_be_visible(timeout=RESET)
            self.box.fill("")
            wait_until(lambda: backend.running == 0, 2)
        except (AssertionError, PlaywrightError):
            return False
        backend.requests.clear()
        self.watch.clear()
        return True

    def sidebar(self, name: str, *, opened: bool) -> None:
        """Open or close `conversations` or `settings` with its button."""
        bar = self.page.locator(f"#{name}")
        if ("open" in (bar.get_attribute("class") or "").split()) != opened:
            bar.get_by_role("button", name="Show or hide").click()
            expect(bar).to_have_class(re.compile(r"\bopen\b" if opened else r"^((?!\bopen\b).)*$"))

    def start_new_chat(self) -> None:
        """Press New chat."""
        self.sidebar("conversations", opened=True)
        self.button("New chat").click()

    def setting(self, title: str) -> Locator:
        """The number box of a slider, or the box of another setting; where they are folded, they are unfolded."""
        self.page.evaluate(
            "document.querySelectorAll('#settings .label-wrap:not(.open)').forEach(part => part.click())"
        )
        return self.page.get_by_role("spinbutton", name=title, exact=True).or_(
            self.page.get_by_role("textbox", name=re.compile(f"^{re.escape(title)}"))
        )

    def fill(self, text: str) -> None:
        """Type into the message box."""
        self.box.fill(text)

    def ask(self, text: str) -> None:
        """Send a message with Enter, and wait until the backend has it."""
        before = len(self.backend.requests)
        self.box.fill(text)
        self.box.press("Enter")
        wait_until(lambda: len(self.backend.requests) > before, what="the request's arrival")

    def answered(self) -> Locator:
        """The last reply, when the turn is over."""
        expect(self.send).to_be_visible(timeout=PATIENCE)
        expect(self.stop).to_be_hidden()  # both are there for a moment, and take room
        wait_until(lambda: self.backend.running == 0, what="the end of the reply")
        return self.replies.last

    def say(self, text: str) -> Locator:
        """Send a message, and return the finished reply."""
        questions = self.questions.count()
        self.ask(text)
        expect(self.questions).to_have_count(questions + 1, timeout=PATIENCE)
        return self.answered()

    def wait_idle(self) -> None:
        """Wait until the page asks nothing of the server."""

        def quiet() -> bool:
            before = len(self.watch.requests)
            self.page.wait_for_timeout(500)
            asked = [request for request in self.watch.requests if "/gradio_api/run/" in request.url]
            ended = all(request.timing["responseEnd"] >= 0 or request.failure for request in asked)
            return len(self.watch.requests) == before and ended

        wait_until(quiet, what="the page's rest")

    def restart_server(self) -> None:
        """Stop the server and start it again, and open the address again.

        Nothing is shown meanwhile: a page that has lost its server loads itself when that is back, which would abort
        the loading that was asked for.
        """
        address = self.page.url
        self.site.stop()
        self.page.goto("about:blank")
        self.site.start()
        self.page.goto(address)

    def text(self) -> str:
        """The conversation as it is read."""
        return self.log.inner_text()

    def copied_by(self, button: Locator) -> str:
        """What a button puts on the clipboard, some time after it is pressed."""
        before = "nothing was copied"
        self.page.evaluate("text => navigator.clipboard.writeText(text)", before)
        button.click()
        wait_until(lambda: self._clipboard() != before, what="the copy")
        return self._clipboard()

    def _clipboard(self) -> str:
        return str(self.page.evaluate("navigator.clipboard.readText()"))

    def sent_since(self, requests: int) -> list[Any]:
        """The requests that reached the backend since it had that many."""
        return self.backend.requests[requests:]

    def usable(self) -> None:
        """The box takes a message, which is answered."""
        expect(self.box).to_be_editable(timeout=PATIENCE)
        expect(self.send).to_be_enabled(timeout=PATIENCE)
