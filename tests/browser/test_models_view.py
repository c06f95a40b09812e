"""The Models view: how it is opened and closed, and what it says about the models on this machine."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from chatui import server
from chatui.chat import LoadOptions, ModelStatus
from chatui.models.fit import Device, Machine
from chatui.settings import AppSettings
from tests.browser.conftest import OpenChat, Serve
from tests.browser.pages import PATIENCE, Chat
from tests.fakes import INFO, FakeBackend
from tests.model_folders import cached_model, write_model

pytestmark = pytest.mark.browser

GB = 10**9


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a known memory, and an empty HF cache."""
    monkeypatch.setattr(server, "_machine", lambda _: Machine((Device("cpu", 8 * GB, 16 * GB, 20e9),)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("machine")
def test_the_view_is_a_dialog_with_an_address(serve: Serve, open_chat: OpenChat, tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "small-<b>1M", 512)
    settings = AppSettings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    chat = open_chat(serve(backend=FakeBackend(["Fine."]), settings=settings))
    page, view = chat.page, chat.page.get_by_role("dialog", name="Models", exact=True)
    link = page.get_by_role("link", name="Models", exact=True)
    chat.say("Hello")
    link.press("Enter")
    expect(view).to_contain_text("small-<b>1M", timeout=PATIENCE)
    expect(view).to_contain_text("Recommended for this machine")
    expect(page).to_have_url(re.compile("#models$"))
    page.keyboard.press("Escape")
    expect(view).to_be_hidden()
    expect(link).to_be_focused()
    expect(chat.questions).to_have_count(1)
    expect(page).not_to_have_url(re.compile("#"))
    page.go_forward()
    expect(view).to_be_visible()
    page.go_back()
    expect(view).to_be_hidden()
    page.goto(f"{page.url}#models")
    expect(view).to_be_visible()
    page.reload()
    expect(view).to_contain_text("small-<b>1M", timeout=PATIENCE)
    page.get_by_role("button", name="Close", exact=True).click()
    expect(view).to_be_hidden()
    expect(chat.questions).to_have_count(1)


class OneMore(FakeBackend):
    """Serves one more model, which stays in a phase of its loading until the test goes on."""

    other = ModelStatus("owner/tiny-1M", "unloaded", source="owner/tiny-1M")

    def models(self) -> list[ModelStatus]:
        return [self.status, *([self.other] if self.other.name not in self.removed else [])]

    def load(self, model: str, options: LoadOptions | None = None) -> None:
        super().load(model, options)
        self.other = replace(self.other, state="loading", phase="reading the tokenizer")

    def unload(self, model: str) -> None:
        self.other = replace(self.other, state="unloaded", phase="")


def row_of(chat: Chat, name: str) -> Locator:
    heading = chat.page.get_by_role("heading", name=name, exact=True)
    return chat.page.locator(".model-row").filter(has=heading)


@pytest.mark.usefixtures("machine")
def test_a_model_is_loaded_used_unloaded_and_deleted(serve: Serve, open_chat: OpenChat, tmp_path: Path) -> None:
    cached_model(tmp_path / "cache", "owner/tiny-1M", 128)
    backend = OneMore(["Fine."])
    chat = open_chat(serve(backend=backend))
    page, row = chat.page, row_of(chat, "owner/tiny-1M")
    page.get_by_role("link", name="Models", exact=True).click()
    row.get_by_text("Explained").click()
    row.get_by_role("link", name="Load", exact=True).click()
    expect(row).to_contain_text("reading the tokenizer …", timeout=PATIENCE)
    backend.other = replace(backend.other, phase="loading the weights")
    expect(row).to_contain_text("loading the weights …", timeout=PATIENCE)
    expect(row.get_by_role("heading", name="What its name says")).to_be_visible()
    backend.other = replace(backend.other, state="ready", phase="", info=replace(INFO, name="owner/tiny-1M"))
    expect(row).to_contain_text("loaded: float32", timeout=PATIENCE)
    row.get_by_role("link", name="Chat with it").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(chat.header).to_contain_text("owner/tiny-1M", timeout=PATIENCE)
    backend.other = replace(backend.other, state="ready")
    chat.say("Who are you?")
    assert backend.requests[-1].model == "owner/tiny-1M"
    page.get_by_role("link", name="Models", exact=True).click()
    row.get_by_role("link", name="Unload").click()
    expect(row).to_contain_text("not loaded", timeout=PATIENCE)
    row.get_by_role("link", name="Delete …").click()
    expect(row).to_contain_text("become free", timeout=PATIENCE)
    row.get_by_role("link", name="Delete from disk").click()
    expect(row).to_have_count(0, timeout=PATIENCE)
    expect(page.get_by_test_id("toast-body")).to_contain_text("owner/tiny-1M is deleted.")
    assert not list((tmp_path / "cache").glob("models--*"))
    assert backend.removed == ["owner/tiny-1M"]


@pytest.mark.usefixtures("machine")
def test_precision_device_and_context_are_chosen_with_the_ledger_in_view(
    serve: Serve, open_chat: OpenChat, tmp_path: Path
) -> None:
    cached_model(tmp_path / "cache", "owner/tiny-1M", 128)
    backend = OneMore(["Fine."])
    chat = open_chat(serve(backend=backend))
    page, row = chat.page, row_of(chat, "owner/tiny-1M")
    dialog, ledger = page.locator("#load-dialog"), page.locator("#load-ledger")
    page.get_by_role("link", name="Models", exact=True).click()
    row.get_by_role("link", name="Load with …").click()
    expect(dialog).to_contain_text("Load owner/tiny-1M", timeout=PATIENCE)
    expect(row).to_be_hidden()
    expect(ledger).to_contain_text("fits")
    before = ledger.inner_text()
    dialog.get_by_role("combobox", name="Precision").click()
    page.get_by_role("option", name="int8").click()
    expect(ledger).to_contain_text("in int8", timeout=PATIENCE)
    dialog.get_by_role("combobox", name="Context in tokens").click()
    page.get_by_role("option", name="1,024").click()
    expect(ledger).not_to_have_text(before)
    dialog.get_by_role("button", name="Load", exact=True).click()
    expect(dialog).to_be_hidden(timeout=PATIENCE)
    expect(row).to_contain_text("reading the tokenizer …", timeout=PATIENCE)
    assert backend.load_options == [LoadOptions("int8", "cpu", 1024)]
    row.get_by_role("link", name="Load with …").click()
    dialog.get_by_role("button", name="Cancel", exact=True).click()
    expect(dialog).to_be_hidden(timeout=PATIENCE)
    expect(row).to_be_visible()
    assert len(backend.load_options) == 1
