"""Reload, a closed tab and a second tab at random points in a reply: no byte of it is lost, here or in the store."""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, Route, expect

from chatui.settings import AppSettings
from scripts.benchmark.figures import percentile
from tests.browser.pages import PATIENCE, Chat, Site, wait_until
from tests.fakes import FakeBackend, Hold

pytestmark = pytest.mark.browser
Open = Callable[..., Chat]

SECONDS = 3.0
PIECES_PER_SECOND = 100
WAYS = ("reload", "closed tab", "second tab")
HOSTILE = (
    "Trailing spaces  \n\tand tabs\t\t\n\n",
    "Ünïcödé, e\u0301 apart, ﷽, \u202ebackwards\u202c, \u2028a line, \ufeffa mark, 日本語, ไทย\n\n",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇦🇶 and 𝕊𝕦𝕣𝕣𝕠𝕘𝕒𝕥𝕖𝕤\n\n",
    "<script>alert(1)</script> <b>&lt;&amp;&#60;</b> </think> <|im_end|> `<i>` $5 and $6, \\(x<y\\)\n\n",
    "```python\n\tdef f(x):  \n\t\treturn '<b>' + x\n```\n\n",
    "~~~\n```\nnot the end\n~~~\n\n- item\n\n  ```html\n  <p>&copy;</p>\n  ```\n\n",
    "| a | b |\n|---|---|\n| <T> | `x  y` |\n\n> quoted **half",
    "** and *it* _too_ \\* \\\\ \\` [link](javascript:alert(1)) ![x](http://foreign.test/y)\n\n",
)

# The letters and digits of the last reply, a formula's left out, for Gradio writes those several times.
LETTERS = """places => {
  const last = [...document.querySelectorAll(places)].at(-1)?.cloneNode(true);
  last?.querySelectorAll('.katex').forEach(formula => formula.remove());
  return last?.textContent.match(/[\\p{L}\\p{N}]/gu)?.length ?? 0;
}"""
PAGE = "#chat [data-testid=bot]:not(:has(.chat-bar))"
SCREEN = f"#early .early-bot, {PAGE}"
"""Where the reply is shown, before the page is made or by the page."""

# When, by the page's clock since it was asked for, that many are there.
BACK = f"([places, count]) => ({LETTERS})(places) >= count && performance.now()"


def random_lines(chance: random.Random, number: int) -> list[str]:
    """A reply of its own in pieces, which are cut anywhere between two characters."""
    parts = [f"Reply {number} begins.\n\n"]
    while len("".join(parts)) < 2400:
        parts.append(chance.choice(HOSTILE))
    # A link has fewer letters whole than half written: what comes at last makes up for it.
    text = "".join([*parts, f"\n\nThen it went on in plain words, to its end.\n\n{'~~~'}\nend of {number}  \n\t\n"])
    cuts = sorted(chance.sample(range(1, len(text)), round(SECONDS * PIECES_PER_SECOND) - 1))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def stored(data_dir: Path) -> tuple[bytes, str]:
    """The newest reply in the file, and its state."""
    with closing(sqlite3.connect(data_dir / "chats.db")) as database:
        query = "SELECT CAST(content AS BLOB), state FROM messages WHERE role = 'assistant' ORDER BY seq DESC LIMIT 1"
        content, state = database.execute(query).fetchone()
        return content, state


def back_after(page: Page, count: int, places: str) -> float:
    """Seconds from the page's start until it shows a reply of at least so many letters."""
    return float(page.wait_for_function(BACK, arg=[places, count], timeout=PATIENCE).json_value()) / 1000


def shown_on(page: Page) -> int:
    """How many letters of the reply are there to be read."""
    return int(page.evaluate(LETTERS, PAGE))


def check_tab(tab: Chat, text: str) -> None:
    """The tab shows the end of the reply, can be used, and gives the whole of it, byte by byte."""
    tab.page.bring_to_front()
    expect(tab.send).to_be_visible(timeout=PATIENCE)
    expect(tab.replies).to_have_count(1)
    assert tab.copied_by(tab.button("Copy message").last).encode() == text.encode()
    expect(tab.replies.last).to_contain_text(text.split()[-1])


def rounds(data_dir: Path, open_chat: Open, count: int) -> None:
    seed = random.SystemRandom().getrandbits(32)
    chance = random.Random(seed)
    back: list[float] = []
    ready: list[float] = []
    backend = FakeBackend(rate=PIECES_PER_SECOND)
    with Site(backend, AppSettings(data_dir=data_dir)) as site:
        tab = open_chat(site)
        for number in range(count):
            pieces, way = random_lines(chance, number), WAYS[number % len(WAYS)]
            backend.replies = [pieces]
            tab.start_new_chat()
            expect(tab.questions).to_have_count(0)
            tab.ask(f"question {number}")
            tab.page.wait_for_url("**/?chat=*")
            expect(tab.replies.last).to_contain_text("Reply")
            tab.page.wait_for_timeout(1000 * chance.uniform(0, SECONDS))
            size, address, tabs = shown_on(tab.page), tab.page.url, [tab]
            if way == "reload":
                tab.page.reload(wait_until="commit")
            else:
                tabs.append(Chat(tab.page.context.new_page(), site, tab.watch))
                if way == "closed tab":
                    tabs.pop(0).page.close()
                tabs[-1].page.goto(address, wait_until="commit")
            text = "".join(pieces)
            try:
                back.append(back_after(tabs[-1].page, size, SCREEN))
                ready.append(back_after(tabs[-1].page, size, PAGE))
                wait_until(lambda: stored(data_dir)[1] != "running", what="the reply's end")
                assert stored(data_dir) == (text.encode(), "finished")
                for each in tabs:
                    check_tab(each, text)
            except (AssertionError, PlaywrightError) as error:
                seen = f"{shown_on(tabs[-1].page)} letters of {size}"
                raise AssertionError(f"seed {seed}, round {number}: {way}, {seen}") from error
            tab = tabs[0]
            for other in tabs[1:]:
                other.page.close()
    for what, times in {"back on screen": back, "the page ready": ready}.items():
        p50, p95 = percentile(times, 0.5), percentile(times, 0.95)
        print(f"seed {seed}: {count} replies whole, {what} after {p50:.2f} s (p50), {p95:.2f} s (p95)")  # noqa: T201


def test_nothing_of_a_reply_is_lost_with_a_page(tmp_path: Path, open_chat: Open) -> None:
    rounds(tmp_path, open_chat, 2)  # a second tab is in test_chats.py


@pytest.mark.exhaustive
def test_nothing_of_a_reply_is_lost_with_fifty_pages(tmp_path: Path, open_chat: Open) -> None:
    rounds(tmp_path, open_chat, 50)


def test_a_script_that_comes_late_finds_what_is_there_already(serve: Callable[..., Site], open_chat: Open) -> None:
    hold = Hold()
    tab = open_chat(serve(["Once", hold, " more"]))
    tab.ask("tell me")
    tab.page.wait_for_url("**/?chat=*")
    held: list[Route] = []
    tab.page.route("**/chatui.js*", lambda route: held.append(route))
    tab.page.reload(wait_until="commit")
    expect(tab.questions).to_have_text(["tell me"], timeout=PATIENCE)
    held.pop().continue_()
    expect(tab.box).to_be_visible()
    hold.release()
    expect(tab.log.get_by_text("Once more", exact=True)).to_be_visible()
    tab.say("again")
