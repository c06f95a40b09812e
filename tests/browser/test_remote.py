"""The page in front of another server, as its operator starts it: a chat, greyed settings, Stop, and a server away."""

from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect
from starlette.responses import JSONResponse

from tests.browser.conftest import new_chat
from tests.browser.pages import Chat, wait_until
from tests.browser.running_app import running_app
from tests.remote_servers import FakeServer, Piece, chunk, reply, serving

pytestmark = pytest.mark.browser

MODELS = [{"id": "m", "object": "model", "owned_by": "someone"}]
SLOWLY: list[Piece] = [0.1, " a"]
ENDLESS: list[Piece] = ["Once", " upon", *(SLOWLY * 3000), chunk({}, "stop")]


def test_a_chat_with_a_model_of_another_server(browser: Browser, tmp_path: Path) -> None:
    fake = FakeServer([reply("Hello", " there"), ENDLESS, reply("Back", " again")], MODELS)
    with ExitStack() as stack:
        server = stack.enter_context(serving(fake))
        folder = {"CHATUI_DATA_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        site = stack.enter_context(running_app("--backend", f"{server.url},name=far", variables=folder))
        chat = new_chat(stack, browser, site)
        expect(chat.page.locator("#status")).to_contain_text("far/m")
        expect(chat.page.locator("#status")).to_contain_text("OpenAI API")
        send(chat, "Hi")
        expect(chat.page.locator("#chat")).to_contain_text("Hello there")

        expect(chat.setting("Top-k")).to_be_disabled()
        expect(chat.page.locator("#setting-top_k")).to_contain_text("does not take it")
        expect(chat.setting("Temperature")).to_be_enabled()
        expect(chat.page.locator("#start-with textarea")).to_be_disabled()

        send(chat, "Tell me a story")
        expect(chat.page.locator("#chat")).to_contain_text("Once upon")
        chat.button("Stop").click()
        wait_until(lambda: fake.running == 0, 20, "the server's row to be free")
        expect(chat.page.locator("#chat")).to_contain_text("Stopped.")
        expect(chat.page.locator(".go-on")).to_have_count(0)

        fake.models = JSONResponse({"error": "gone"}, 500)
        wait_until(lambda: site_state(site.url) == "failed", 20, "the server to be found away")
        chat.page.locator(".models-link").click()
        expect(chat.page.locator("#models-list")).to_contain_text("gone")
        expect(chat.page.locator("#models-list .act")).to_have_count(1)
        chat.page.locator("#models-close").click()
        fake.models = MODELS
        wait_until(lambda: site_state(site.url) == "ready", 20, "the server to be found again")
        send(chat, "Are you back?")
        expect(chat.page.locator("#chat")).to_contain_text("Back again")


def send(chat: Chat, text: str) -> None:
    """Send a message."""
    expect(chat.send).to_be_visible()
    chat.box.fill(text)
    chat.box.press("Enter")


def site_state(url: str) -> str:
    """The state of the default model."""
    return str(httpx.get(f"{url}/healthz").json()["status"])
