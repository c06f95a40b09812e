"""`scripts/screenshot`: the README's pictures, taken of the page as it is with the default model, light and dark."""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

ROOT = Path(__file__).parents[1]
QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Write a Python function that tells whether a number is even.",
)
"""Of which a small model gives good answers."""
SIZE: ViewportSize = {"width": 1280, "height": 800}
WAIT_SECONDS = 300


@contextmanager
def served() -> Iterator[str]:
    """The address of the program as a user starts it, with an empty data folder, once its model is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as data:
        program = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--data-dir", data, "--compile", "off"], cwd=ROOT
        )
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/healthz", program)
            yield f"http://127.0.0.1:{port}/"
        finally:
            program.terminate()
            program.wait(30)


def _wait_until_ready(health: str, program: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until and program.poll() is None:
        try:
            with urllib.request.urlopen(health):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)
    raise SystemExit("The model did not become ready.")


def converse(page: Page, address: str) -> None:
    """Ask the questions, each when the one before is answered."""
    page.goto(address)
    box = page.get_by_role("textbox", name="Message", exact=True)
    box.wait_for()
    for number, question in enumerate(QUESTIONS, 1):
        box.fill(question)
        box.press("Enter")
        page.locator("#chat .chat-bar.answer .inspect").nth(number - 1).wait_for(timeout=WAIT_SECONDS * 1000)


def take(browser: Browser, address: str, folder: Path, scheme: Literal["light", "dark"]) -> None:
    """The chat and the Inspect view in one of the two colour schemes."""
    context = browser.new_context(viewport=SIZE, color_scheme=scheme, device_scale_factor=2, locale="en-GB")
    page = context.new_page()
    converse(page, address)
    page.wait_for_timeout(1000)
    page.screenshot(path=folder / f"screenshot-{scheme}.png")
    page.locator("#chat .chat-bar.answer .inspect").last.click()
    page.get_by_role("tab", name="Memory").click()
    page.locator("#inspector .chart").first.wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=folder / f"inspect-{scheme}.png")
    context.close()


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(prog="scripts/screenshot", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs", help="where the pictures go")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or os.environ.get("CHROMIUM")
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
        )
        take(browser, address, folder, "light")
        take(browser, address, folder, "dark")
    print(f"Wrote {', '.join(sorted(path.name for path in folder.glob('*.png')))} to {folder}.")


if __name__ == "__main__":
    main()
