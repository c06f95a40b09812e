"""From the engine to the browser: asks in real browsers, and compares the speed of the text on the page with what the
engine says of the same reply.
"""

import argparse
import asyncio
import json
import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

from scripts.benchmark.chatui_server import running
from scripts.benchmark.texts import conversation

CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 600_000
"""Milliseconds that a reply may take."""

ENOUGH = 100
"""Tokens of a reply whose share is told."""

# Notes when the text of the reply grows, by the page's own clock; not what is said while it is waited for.
WATCH = """() => {
  window.grown = [];
  let size = 0;
  new MutationObserver(() => {
    const text = document.querySelector(
      '#chat [data-testid=bot]:not(:has(.thought-group, .chat-bar), .thought-group *)');
    const now = text ? text.textContent.trim().length : 0;
    if (now !== size) { size = now; window.grown.push([performance.now(), now]); }
  }).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true});
}"""


@dataclass(frozen=True)
class ReplySpeeds:
    """One reply: its tokens, and tokens/s by the engine's clock and by the page's."""

    tokens: int
    engine: float
    page: float

    @property
    def share(self) -> float:
        """Of the engine's speed that reaches the page."""
        return self.page / self.engine


async def reply(page: Page, text: str) -> ReplySpeeds:
    """Ask, wait until the reply is whole, and compare."""
    await page.evaluate(WATCH)
    box = page.get_by_label("Message", exact=True)
    await box.fill(text)
    await box.press("Enter")
    await page.get_by_role("button", name="Stop").wait_for(timeout=PATIENCE)
    await page.get_by_role("button", name="Send", exact=True).wait_for(timeout=PATIENCE)
    grown: list[tuple[float, int]] = await page.evaluate("window.grown")
    status = await page.locator("#status").inner_text()
    found = re.search(r"([\d,]+) tokens · ([\d.]+) tokens/s", status)
    if found is None:
        raise RuntimeError(f"the page does not say how fast the reply was: {status}")
    tokens, engine = int(found[1].replace(",", "")), float(found[2])
    return ReplySpeeds(tokens, engine, (tokens - 1) / ((grown[-1][0] - grown[0][0]) / 1000))


async def users(browser: Browser, url: str, count: int, seed: int) -> list[ReplySpeeds]:
    """As many users, each in a browser context of its own, who ask at the same time."""
    contexts = [await browser.new_context() for _ in range(count)]
    try:
        pages = [await context.new_page() for context in contexts]
        for page in pages:
            await page.goto(url)
            await page.get_by_label("Message", exact=True).wait_for(timeout=PATIENCE)
        asked = [conversation(12, seed, user)[0]["content"] for user in range(count)]
        return list(await asyncio.gather(*map(reply, pages, asked)))
    finally:
        for context in contexts:
            await context.close()


async def measure(counts: Sequence[int], rounds: int, flags: Sequence[str]) -> dict[int, list[ReplySpeeds]]:
    """Replies by number of users, from our own server with these flags."""
    shown: dict[int, list[ReplySpeeds]] = {count: [] for count in counts}
    async with running(flags) as server, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        url = server.url.removesuffix("/v1")
        await users(browser, url, max(counts), -1)
        await server.settle()
        for number in range(rounds):
            for count in counts:
                shown[count] += await users(browser, url, count, number)
        await browser.close()
    return shown


def main(words: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("scripts/bench page", description=__doc__, allow_abbrev=False)
    parser.add_argument("--users", default="1,8", help="users at once; 1,8 if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all raw figures there")
    parser.add_argument("flags", nargs="*", help="behind --: flags of scripts/run")
    given = parser.parse_args(words)
    counts = [int(word) for word in given.users.split(",")]
    shown = asyncio.run(measure(counts, given.rounds, given.flags))
    print(
        "| users | engine tokens/s each | page tokens/s each | share, median | share, lowest |\n|---|---|---|---|---|"
    )
    for count, replies in shown.items():
        engine = statistics.median(each.engine for each in replies)
        page = statistics.median(each.page for each in replies)
        # Shorter ones are over in a few redraws, whose beat is then all that is measured.
        shares = sorted(each.share for each in replies if each.tokens >= ENOUGH) or [float("nan")]
        print(f"| {count} | {engine:.1f} | {page:.1f} | {statistics.median(shares):.1%} | {shares[0]:.1%} |")
    if given.json:
        given.json.write_text(json.dumps({count: list(map(asdict, each)) for count, each in shown.items()}, indent=1))
    return 0
