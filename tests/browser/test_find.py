"""The tab Find of the Models view, with a local Hub: search, plan, fetch, and a Hub that never answers."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from chatui import server
from chatui.chat import ModelStatus
from chatui.models import hub_requests
from chatui.models.fit import Device, Machine
from chatui.models.hub import Hub
from chatui.settings import AppSettings
from chatui.ui.models import find_tab
from tests.browser.conftest import OpenChat, Serve
from tests.browser.pages import PATIENCE, Chat
from tests.fakes import INFO, FakeBackend
from tests.local_hub import LocalHub

pytestmark = pytest.mark.browser

WEIGHTS = bytes(range(256)) * 2000
HALF = len(WEIGHTS) // 2
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS}
TOKEN = "hf_" + "s3cr3t" * 4
HOSTILE = "evil/<img src=x onerror=alert(1)>"
FACTS = {
    "pipeline_tag": "text-generation",
    "tags": ["safetensors"],
    "safetensors": {"parameters": {"BF16": 10**9}, "total": 10**9},
}


class AddableModels(FakeBackend):
    """Serves each model that is added."""

    def models(self) -> list[ModelStatus]:
        others = [ModelStatus(name, "ready", info=replace(INFO, name=name), added=True) for name, _ in self.added]
        return [self.status, *others]


@pytest.fixture
def models(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """A Hub with some models, and a machine with a known memory."""
    monkeypatch.setattr(server, "_machine", lambda _: Machine((Device("cpu", 8 * 10**9, 16 * 10**9, 20e9),)))
    results = [
        {
            "filename": "hle.yaml",
            "verified": False,
            "data": {
                "dataset": {"id": "cais/hle", "task_id": "default"},
                "value": 20.9,
                "date": "2026-10-01",
                "source": {"url": "https://example.org/logs", "name": "Logs"},
            },
        }
    ]
    hub.add("owner/open-1B", FILES, facts={**FACTS, "trendingScore": 3, "evalResults": results})
    hub.add("owner/gated-1B", FILES, gated=True, facts={**FACTS, "trendingScore": 2})
    hub.add(HOSTILE, FILES, facts={**FACTS, "trendingScore": 1, "cardData": {"license": HOSTILE}})
    ggufs = {f"x-{kind}.gguf": WEIGHTS[: 1000 * size] for kind, size in (("Q2_K", 100), ("Q4_K_M", 200), ("Q8_0", 400))}
    hub.add("owner/quantized-GGUF", ggufs, facts={**FACTS, "tags": ["gguf"]})
    hub.tokens[TOKEN] = {"owner/gated-1B"}
    return hub


def open_find(chat: Chat) -> Page:
    page = chat.page
    if "#models" not in page.url:
        page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("tab", name="Find").click(timeout=PATIENCE)
    expect(page.get_by_role("button", name="Search the Hub")).to_be_visible(timeout=PATIENCE)
    return page


def follow(page: Page, name: str) -> None:
    page.locator("#models").get_by_role("link", name=name, exact=True).click()


Sees = Callable[[str], Any]


def sees(page: Page) -> Sees:
    """Waits until the view has a text."""
    return lambda text: expect(page.locator("#models")).to_contain_text(text, timeout=PATIENCE)


def search_and_weigh(page: Page) -> None:
    see = sees(page)
    page.get_by_role("button", name="Search the Hub").click()
    see(HOSTILE)
    see("the weights fit in bfloat16: 2.0 GB of 8.0 GB free")
    expect(page.locator("#models img")).to_have_count(0)
    page.get_by_label("Format").select_option("gguf")
    rows = page.locator("#models .model-row:visible")
    expect(rows).to_have_count(1, timeout=PATIENCE)
    follow(page, "owner/quantized-GGUF")
    see("small loss, the usual choice")
    page.get_by_label("Quantization").select_option("x-Q8_0.gguf")
    see("Fetch 400 kB")
    follow(page, "Back to the list")
    expect(rows).to_have_count(1, timeout=PATIENCE)  # the form comes anew with the list
    page.get_by_label("Format").select_option("")
    expect(rows).to_have_count(4, timeout=PATIENCE)
    follow(page, "owner/open-1B")
    see("2026-10-01")
    see("It has no results under this name.")
    expect(page.get_by_role("link", name="Logs")).to_have_attribute("href", "https://example.org/logs")


def give_token(page: Page) -> None:
    sees(page)("Accept the licence there:")
    token = page.locator("#find-token input")
    token.fill(TOKEN)
    token.press("Enter")
    sees(page)("Your token of the Hub is kept.")
    expect(page.locator("#models-find textarea")).not_to_have_value(re.compile(TOKEN), timeout=PATIENCE)
    assert TOKEN not in page.content()
    expect(page.locator("#models-find")).to_be_hidden()


def test_a_model_is_found_weighed_fetched_and_used(
    models: LocalHub, serve: Serve, open_chat: OpenChat, tmp_path: Path
) -> None:
    backend = AddableModels(["Fine."])
    site = serve(backend=backend, settings=AppSettings(data_dir=tmp_path / "data"))
    chat = open_chat(site)
    page = open_find(chat)
    see = sees(page)
    search_and_weigh(page)
    models.fault("GET /cdn", cut=HALF)
    held = models.fault("GET /cdn", hold=0)
    follow(page, "Fetch 512 kB")
    assert held.reached.wait(60)
    see("256 kB of 512 kB")
    follow(page, "Pause")
    see("paused")
    models.heal()
    chat.restart_server()
    open_find(chat)
    see("256 kB of 512 kB")
    follow(page, "Resume")
    see("It is here.")
    assert models.served[f"/cdn/{hashlib.sha256(WEIGHTS).hexdigest()}"] == len(WEIGHTS)
    page.get_by_role("searchbox", name="Part of the name").fill("gated")
    page.get_by_role("button", name="Search the Hub").click()
    follow(page, "owner/gated-1B")
    follow(page, "Fetch 512 kB")
    give_token(page)
    expect(page.locator("#find-list").get_by_text("It is here.")).to_have_count(2, timeout=PATIENCE)
    assert [name for name, _ in backend.added] == ["owner/open-1B", "owner/gated-1B"]
    page.locator("#find-list .find-download", has_text="gated-1B").get_by_role("link", name="Chat with it").click()
    expect(page.locator("#models")).to_be_hidden()
    expect(chat.header).to_contain_text("owner/gated-1B", timeout=PATIENCE)
    expect(page.locator("#model input")).to_have_value("owner/gated-1B", timeout=PATIENCE)
    chat.say("Who are you?")
    assert backend.requests[-1].model == "owner/gated-1B"


@pytest.mark.exhaustive  # tests/unit/test_hub.py and tests/integration/test_fetch.py have such a Hub
def test_a_hub_that_never_answers_stops_nothing_else(
    models: LocalHub, serve: Serve, open_chat: OpenChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Hub] = []

    def patient(**options: Any) -> Hub:
        asked.append(Hub(time_limit=300.0, **options))
        return asked[0]

    monkeypatch.setattr(find_tab, "Hub", patient)
    monkeypatch.setattr(hub_requests, "PROBE_SECONDS", 0.1)
    silent = models.fault("GET /api/models", hold=0, times=99)
    chat = open_chat(serve(backend=FakeBackend(["Fine."])))
    page = open_find(chat)
    page.get_by_role("button", name="Search the Hub").click()
    sees(page)("Asking the Hub …")
    assert silent.reached.wait(60)
    page.keyboard.press("Escape")
    chat.say("Hello")
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("tab", name="Find").click()
    sees(page)("Asking the Hub …")
    expect(page.locator("#models-find")).to_be_hidden()
    asked[0]._requests.time_limit = 0.1
    page.get_by_label("Sorted by").select_option("likes")
    sees(page)("The Hub did not answer in time")
    models.heal()
    asked[0]._requests.time_limit = 300.0
    follow(page, "Try again")
    sees(page)("owner/open-1B")
    forged = '<a href="#models-find=search%3Dtext%3Dforged">forged</a>'
    page.evaluate("(html) => document.querySelector('#find-results').insertAdjacentHTML('beforeend', html)", forged)
    page.get_by_role("link", name="forged").click()
    expect(page.locator("#models")).to_be_hidden()  # the address is now that of the link, which is nothing here
    assert not any("forged" in seen.query for seen in models.seen)
