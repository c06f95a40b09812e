"""What the report of a failed browser test has beside the error: what was requested and received, and what runs."""

import faulthandler
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from playwright.sync_api import BrowserContext
from playwright.sync_api import Error as PlaywrightError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_REQUESTS = 60

NOTE_EVENTS = Path(__file__).with_name("note_events.js").read_text()


@dataclass
class _Answer:
    """A request and what became of it. Times are of time.monotonic."""

    line: str
    start: float = field(default_factory=time.monotonic)
    status: int | None = None
    end: float | None = None


class LatestRequests:
    """The latest requests to any server of this process."""

    def __init__(self) -> None:
        self._latest: deque[_Answer] = deque(maxlen=MAX_REQUESTS)

    def noted(self, app: ASGIApp) -> ASGIApp:
        """The application, whose requests are noted."""

        async def note(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            answer = _Answer(f"{scope['method']} {scope['path']}")
            self._latest.append(answer)

            async def noting(message: Message) -> None:
                answer.status = message.get("status", answer.status)
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                answer.end = time.monotonic()

        return note

    def report(self) -> str:
        """A line for each, with how long ago it came and how long it took."""
        now = time.monotonic()
        return "\n".join(
            f"{each.start - now:8.2f} s {each.status or '---'} "
            f"{'running' if each.end is None else f'{each.end - each.start:5.2f} s'} {each.line}"
            for each in list(self._latest)
        )


LATEST_REQUESTS = LatestRequests()

_contexts: list[BrowserContext] = []
"""Those that are open."""


def note_events(context: BrowserContext) -> None:
    """Note what the pages of this context send and receive."""
    context.add_init_script(NOTE_EVENTS)
    _contexts.append(context)
    context.on("close", lambda closed: _contexts.remove(closed))  # Playwright takes no built-in method


def events() -> str:
    """What each open page sent and received, with the time of day in seconds."""
    noted = []
    for page in [page for context in _contexts for page in context.pages]:
        try:
            noted.append("\n".join([page.url, *page.evaluate("window.eventNotes?.() ?? []")]))
        except PlaywrightError:  # it was closed
            continue
    return "\n\n".join(noted)


def threads() -> str:
    """The stacks of all threads."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read()


def subprocesses() -> str:
    """A line for each subprocess that is not the browser's: its state, the CPU time it took, its command."""
    lines = []
    for each in psutil.Process().children(recursive=True):
        try:
            command = " ".join(each.cmdline())
            if "chromium" not in command and "playwright" not in command:
                times = each.cpu_times()
                lines.append(f"{each.pid} {each.status()} {times.user + times.system:.2f} s {command[:300]}")
        except psutil.Error:  # it has ended
            continue
    return "\n".join(lines)
