"""Choosing a model, from search to deletion: a server with the default model, a local Hub and tiny checkpoints."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from chatui.settings import DEFAULT_MODEL
from tests import models
from tests.browser.conftest import new_chat
from tests.browser.pages import PATIENCE, Chat, Site, wait_until
from tests.browser.running_app import running_app
from tests.local_hub import LocalHub, served

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.exhaustive]

SLOW = 120_000
"""Milliseconds that loading and a reply may take on two busy cores."""
TOKEN = "hf_" + "s3cr3t" * 4
FACTS = {"pipeline_tag": "text-generation", "tags": ["safetensors"]}
IDLE_MINUTES = "0.2"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with served() as hub:
        for name, kind, gated in (("tiny/open-1M", "llama", False), ("tiny/gated-1M", "qwen3", True)):
            folder = models.save(tmp_path_factory.mktemp("checkpoint"), kind)
            files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
            hub.add(name, files, gated=gated, facts=FACTS)
        hub.tokens[TOKEN] = {"tiny/gated-1M"}
        yield hub


@pytest.fixture
def site(hub: LocalHub, tmp_path: Path) -> Iterator[Site]:
    """The program as its operator starts it, with a third tiny model in --models-dir."""
    models.save(tmp_path / "models" / "third-1M", "mistral")
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "cache")}
    own |= {"CHATUI_DATA_DIR": str(tmp_path / "data"), "HF_TOKEN_PATH": str(tmp_path / "no-token")}
    # The dataset viewer has an address of its own, which no variable changes: nothing leaves this computer.
    own |= {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}
    flags = ["--kv-memory", "0.1", "--idle-unload", IDLE_MINUTES, "--models-dir", str(tmp_path / "models")]
    with running_app(*flags, variables=own) as site:
        yield site


class Walk:
    """What a person does in the page, and a picture of each stop in `folder`."""

    def __init__(self, chat: Chat, folder: Path) -> None:
        self.chat, self.page, self.folder = chat, chat.page, folder
        self.pictures = 0

    @property
    def view(self) -> Locator:
        return self.page.locator("#models")

    def picture(self, name: str) -> None:
        self.pictures += 1
        self.page.screenshot(path=self.folder / f"{self.pictures:02}-{name}.png")

    def open(self, tab: str) -> None:
        if not self.view.is_visible():
            self.page.get_by_role("link", name="Models", exact=True).click()
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def row(self, name: str) -> Locator:
        return self.page.locator(".model-row").filter(has=self.page.get_by_role("heading", name=name, exact=True))

    def fetch(self, name: str) -> None:
        self.open("Find")
        self.page.get_by_role("searchbox", name="Part of the name").fill(name)
        self.page.get_by_role("button", name="Search the Hub").click()
        self.view.get_by_role("link", name=name, exact=True).click()
        self.view.get_by_role("link", name=re.compile("^Fetch ")).click()

    def chat_with_download(self, name: str) -> None:
        download = self.page.locator("#find-list .find-download", has_text=name)
        expect(download).to_contain_text("It is here.")
        download.get_by_role("link", name="Chat with it").click()
        expect(self.view).to_be_hidden()
        expect(self.chat.header).to_contain_text(name)

    def say(self, text: str, writer: str) -> None:
        bars = self.chat.log.locator(".chat-bar.answer")
        before = bars.count()
        self.chat.box.fill(text)
        self.chat.box.press("Enter")
        expect(bars).to_have_count(before + 1)
        expect(bars.last).to_contain_text(writer)


def test_the_whole_way(browser: Browser, site: Site, hub: LocalHub, tmp_path: Path) -> None:
    with ExitStack() as stack:
        chat = new_chat(stack, browser, site)
        chat.page.set_default_timeout(SLOW)
        expect.set_options(timeout=SLOW)
        stack.callback(expect.set_options, timeout=PATIENCE)
        walk = Walk(chat, tmp_path)
        stack.callback(walk.picture, "end")
        fetch_and_chat(walk, hub)
        swap_in_mid_stream(walk)
        compare_and_vote(walk)
        idle_and_delete(walk)
        appearances(walk)


def fetch_and_chat(walk: Walk, hub: LocalHub) -> None:
    """A download that is cut at half is resumed; a gated one goes on once the token is there."""
    weights = len(hub.repositories["tiny/open-1M"].files["model.safetensors"])
    hub.fault("GET /cdn", cut=weights // 2)
    held = hub.fault("GET /cdn", hold=0)
    walk.fetch("tiny/open-1M")
    assert held.reached.wait(60)
    walk.picture("cut-at-half")
    walk.view.get_by_role("link", name="Pause").click()
    expect(walk.view).to_contain_text("paused")
    hub.heal()
    walk.view.get_by_role("link", name="Resume").click()
    walk.chat_with_download("tiny/open-1M")
    walk.say("Hello", "open-1M")
    walk.picture("chat-with-the-fetched-model")
    walk.fetch("tiny/gated-1M")
    expect(walk.view).to_contain_text("Accept the licence there:")
    walk.picture("gated")
    walk.page.locator("#find-token input").fill(TOKEN)
    walk.page.locator("#find-token input").press("Enter")
    walk.chat_with_download("tiny/gated-1M")
    walk.say("And you?", "gated-1M")


def swap_in_mid_stream(walk: Walk) -> None:
    """The reply that runs is ended by the model that began it, the next one is another's."""
    walk.open("Here")
    walk.row(DEFAULT_MODEL).get_by_role("link", name="Chat with it").click()
    expect(walk.chat.header).to_contain_text(DEFAULT_MODEL)
    expect(walk.chat.setting("Max new tokens")).to_have_value("512")  # the tiny ones write until they are done
    bars = walk.chat.log.locator(".chat-bar.answer")
    before = bars.count()
    walk.chat.box.fill("Write a long story about a fox.")
    walk.chat.box.press("Enter")
    expect(walk.page.locator("#message .stop-button")).to_be_visible()
    walk.open("Here")
    walk.row("third-1M").get_by_role("link", name="Load", exact=True).click()
    expect(walk.row("third-1M")).to_contain_text("loaded: float32")
    walk.picture("loaded-in-mid-stream")
    walk.row("third-1M").get_by_role("link", name="Chat with it").click()
    expect(bars).to_have_count(before + 1)
    expect(bars.last).to_contain_text(DEFAULT_MODEL.rpartition("/")[2])
    walk.say("Go on.", "third-1M")
    walk.picture("swapped")


def compare_and_vote(walk: Walk) -> None:
    walk.open("Compare")
    walk.view.get_by_role("textbox", name="Message").fill("What is a fox?")
    walk.view.get_by_role("button", name="Compare", exact=True).click()
    better = walk.view.get_by_role("button", name="A is better")
    expect(better).to_be_visible()
    walk.picture("side-by-side")
    better.click()
    expect(walk.view.locator(".vote-plot .point")).to_have_count(2)
    walk.picture("voted")


def idle_and_delete(walk: Walk) -> None:
    """What is not used goes from memory; what was fetched can be deleted, and nothing else."""
    walk.open("Here")
    opened = "tiny/open-1M"

    def unloaded() -> bool:
        states = httpx.get(f"{walk.chat.site.url}/v1/models").json()["data"]
        return all(model["status"]["value"] == "unloaded" for model in states if model["id"] == opened)

    wait_until(unloaded, 120, "the unloading of an idle model")
    walk.open("Compare")
    walk.open("Here")
    expect(walk.row(opened)).to_contain_text("not loaded")
    expect(walk.row("third-1M").get_by_role("link", name="Delete …")).to_have_count(0)
    walk.row(opened).get_by_role("link", name="Delete …").click()
    expect(walk.row(opened)).to_contain_text("become free")
    walk.picture("delete")
    walk.row(opened).get_by_role("link", name="Delete from disk").click()
    expect(walk.row(opened)).to_have_count(0)
    assert not list(walk.folder.glob("cache/models--tiny--open-1M"))
    assert (walk.folder / "models" / "third-1M" / "model.safetensors").exists()


def appearances(walk: Walk) -> None:
    """Each tab light and dark, on a desk and on a phone."""
    page: Page = walk.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width, height in ((1280, 800), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            for tab in ("Here", "Find", "Compare"):
                walk.open(tab)
                walk.picture(f"{scheme}-{width}-{tab.lower()}")
