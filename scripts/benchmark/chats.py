"""Many stored conversations: how soon the page shows its list and a conversation, how soon a search is answered, and
whether the server's memory grows meanwhile. Without a model, which has no part in this.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from playwright.sync_api import BrowserContext, Page, sync_playwright

from chatui.owners import LOCAL
from chatui.settings import AppSettings
from chatui.store.store import Store
from scripts.benchmark.figures import percentile
from scripts.benchmark.filling import fill
from scripts.benchmark.page import CHROMIUM
from scripts.benchmark.server_process import ROOT

WARM_UP = 20
"""Opens and searches before anything is measured: what is loaded at first stays."""

SEARCHES = {
    "in nearly every message": "w0",
    "two frequent words": "w1 w2",
    "a beginning": "w19",
    "in few": "w19137",
    "in one": "rare",
    "in none": "nowhere",
    "no whole words": "日本",
}

# When, by the page's own clock, the list and the end of the chat are to be read; then, when all of it can be used.
PAGE_READABLE = """() => document.querySelectorAll('#early .chat-link, #chats .chat-link').length > 1
  && document.querySelector('#early .early-bot, #chat .chat-bar') && performance.now()"""
PAGE_USABLE = """messages => document.querySelectorAll('#chats .chat-link').length > 1
  && document.querySelectorAll('#chat .chat-bar').length >= messages
  && document.querySelector('#message textarea') && document.querySelector('#persona input')
  && performance.now()"""

# Types into the search box; gives the milliseconds until the list is another one and painted.
SEARCH = """text => new Promise(done => {
  const box = document.querySelector('#search input'), chats = document.querySelector('#chats');
  chats.querySelector('.chat-list').classList.add('before');
  const start = performance.now();
  const seen = new MutationObserver(() => {
    if (!chats.querySelector('.chat-list:not(.before)')) return;
    seen.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
  });
  seen.observe(chats, {subtree: true, childList: true, attributes: true});
  box.value = text;
  box.dispatchEvent(new Event('input', {bubbles: true}));
})"""


@dataclass(frozen=True)
class SearchTimes:
    """A search: its kind, and milliseconds until the server had answered and until the page showed the answer."""

    kind: str
    server: float
    page: float


@dataclass(frozen=True)
class Figures:
    """Milliseconds until the page could be read and until it could be used, all searches, and the server's memory in MB
    as time went by.
    """

    read: list[float]
    opened: list[float]
    searched: list[SearchTimes]
    memory: list[float]


@contextmanager
def serving(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of a server on this data, and its address."""
    command = [sys.executable, "-m", "scripts.benchmark.no_model_server", str(data_dir)]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.terminate()


def fill_data_dir(data_dir: Path, chats: int, length: int) -> list[str]:
    """Fill a new store with conversations of the person at this computer. Returns some of them."""
    store = Store.open(AppSettings(data_dir=data_dir))
    fill(store, LOCAL, chats, length)
    listed = [conversation.id for conversation in store.for_owner(LOCAL).conversations(chats)]
    store.close()
    return listed


def open_page(page: Page, url: str, length: int) -> tuple[float, float]:
    """Milliseconds from the request for a conversation's page until it can be read, and until all of it can be used."""
    page.goto(url, wait_until="commit")
    read, used = (
        page.wait_for_function(when, arg=length, polling="raf").json_value() for when in (PAGE_READABLE, PAGE_USABLE)
    )
    return float(read), float(used)


def search(page: Page, kind: str) -> SearchTimes:
    """Search for words of this kind."""
    text = SEARCHES[kind]
    with page.expect_request_finished(lambda request: f'"{text}"' in (request.post_data or "")) as asked:
        shown = float(page.evaluate(SEARCH, text))
    timing = asked.value.timing
    return SearchTimes(kind, timing["responseEnd"] - timing["requestStart"], shown)


def visit(context: BrowserContext, url: str, length: int, kind: str) -> tuple[tuple[float, float], SearchTimes]:
    """A new tab that opens a conversation, and searches once."""
    page = context.new_page()
    try:
        return open_page(page, url, length), search(page, kind)
    finally:
        page.close()


def measure(chats: int, length: int, visits: int, seed: int) -> Figures:
    """Everything, with a new server on new data."""
    chance = random.Random(seed)
    total = Figures([], [], [], [])
    with tempfile.TemporaryDirectory(prefix="chatui-bench-") as folder, sync_playwright() as playwright:
        began = time.monotonic()
        listed = fill_data_dir(Path(folder), chats, length)
        print(f"{chats:,} conversations of {length} messages, filled in {time.monotonic() - began:.0f} s")
        with serving(Path(folder)) as (process, url):
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
            context = browser.new_context()
            server = psutil.Process(process.pid)
            for number in range(WARM_UP + visits):
                if number >= WARM_UP and (number - WARM_UP) % 20 == 0:
                    total.memory.append(server.memory_info().rss / 1e6)
                address, kind = f"{url}/?chat={chance.choice(listed)}", chance.choice(list(SEARCHES))
                (read, opened), searched = visit(context, address, length, kind)
                if number >= WARM_UP:
                    total.read.append(read)
                    total.opened.append(opened)
                    total.searched.append(searched)
            total.memory.append(server.memory_info().rss / 1e6)
            browser.close()
    return total


def main(words: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("scripts/bench chats", description=__doc__, allow_abbrev=False)
    parser.add_argument("--chats", type=int, default=10_000, help="conversations; 10,000 if left out")
    parser.add_argument("--messages", type=int, default=40, help="in each; 40 if left out")
    parser.add_argument("--visits", type=int, default=200, help="pages opened, with a search each; 200 if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw figures there")
    given = parser.parse_args(words)
    figures = measure(given.chats, given.messages, given.visits, given.seed)
    print("| what | times | p50 ms | p95 ms |\n|---|---|---|---|")
    print(row("page at a conversation can be read", figures.read))
    print(row("all of it can be used", figures.opened))
    print(row("search, at the server", [each.server for each in figures.searched]))
    print(row("search, on the page", [each.page for each in figures.searched]))
    for kind in SEARCHES:
        print(row(f"at the server: {kind}", [each.server for each in figures.searched if each.kind == kind]))
    memory = ", ".join(f"{megabytes:.0f}" for megabytes in figures.memory)
    print(f"Server's memory in MB, every 20 visits: {memory}")
    if given.json:
        given.json.write_text(json.dumps(asdict(figures), indent=1))
    return 0


def row(what: str, times: Sequence[float]) -> str:
    """A line of the table."""
    middle, high = percentile(times, 0.5), percentile(times, 0.95)
    cells = "– | –" if middle is None or high is None else f"{middle:,.0f} | {high:,.0f}"
    return f"| {what} | {len(times)} | {cells} |"
