"""The tab Compare of the Models view: two models side by side, a blind vote, the ratings, and the votes as a file."""

import json
import re
from dataclasses import replace

import pytest
from playwright.sync_api import Locator, expect

from chatui.chat import ChatRequest, ModelStatus
from tests.browser.conftest import OpenChat, Serve
from tests.browser.pages import Chat
from tests.fakes import INFO, FakeBackend, Hold, Script

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="alert(1)"> and <b>tags</b>'


class TwoModels(FakeBackend):
    """Two loaded models; the second one writes until it is stopped."""

    other = ModelStatus("fake/other", "ready", info=replace(INFO, name="fake/other"))

    def models(self) -> list[ModelStatus]:
        return [self.status, self.other]


def script(request: ChatRequest) -> Script:
    return ["Words", " without", " end", Hold()] if request.model == "fake/other" else [HOSTILE]


def open_compare(chat: Chat) -> Locator:
    chat.page.goto(f"{chat.site.url}/#models=compare")
    view = chat.page.locator("#models")
    expect(view.get_by_role("button", name="Compare", exact=True)).to_be_visible()
    return view


def test_two_models_are_compared_voted_on_and_rated(serve: Serve, open_chat: OpenChat) -> None:
    backend = TwoModels(script)
    chat = open_chat(serve(backend=backend))
    view = open_compare(chat)
    start = view.get_by_role("button", name="Compare", exact=True)
    start.click()
    expect(view).to_contain_text("Type a message first.")
    view.get_by_role("textbox", name="Message").fill("Which one are you?")
    view.get_by_role("textbox", name="Tags").fill("identity")
    start.click()
    endless = view.locator(".compare-reply").filter(has_text="Words without end")
    ended = view.locator(".compare-reply").filter(has_text="and <b>tags</b>")
    expect(endless).to_be_visible()
    expect(ended).to_be_visible()
    assert len({request.settings.seed for request in backend.requests}) == 1
    assert {request.model for request in backend.requests} == {"fake/echo", "fake/other"}
    expect(view.get_by_role("button", name="A is better")).to_have_count(0)
    endless.get_by_role("button", name=re.compile("^Stop")).click()
    expect(endless).to_contain_text("Stopped.")
    expect(view.locator("#compare-replies")).not_to_contain_text("fake/")
    expect(view.locator("#compare-replies")).not_to_contain_text("tokens/s")
    winner = ended.locator(".compare-name b").inner_text()
    view.get_by_role("button", name=f"{winner} is better").click()
    expect(ended).to_contain_text("fake/echo")
    expect(endless).to_contain_text("fake/other")
    expect(view.locator(".vote-table")).to_contain_text(re.compile(r"1\s*fake/echo"))
    expect(view.locator(".vote-plot .point")).to_have_count(2)
    expect(view).to_contain_text("Fewer than 6 votes for a pair show nothing")
    with chat.page.expect_download() as download:
        view.get_by_role("link", name="Export as JSON").click()
    (vote,) = json.loads(download.value.path().read_text())
    assert {vote["a"]["model"], vote["b"]["model"]} == {"fake/echo", "fake/other"}
    assert vote[vote["choice"]]["model"] == "fake/echo"
    assert vote["tags"] == ["identity"]
    view.get_by_role("button", name="Delete all votes").click()
    view.get_by_role("button", name="Yes, delete them all").click()
    expect(view).to_contain_text("All votes are deleted.")
    with chat.page.expect_file_chooser() as chooser:
        view.get_by_role("button", name="Import votes").click()
    file = json.dumps([vote]).encode()
    chooser.value.set_files({"name": "votes.json", "mimeType": "application/json", "buffer": file})
    expect(view).to_contain_text("Votes added: 1.")
    expect(view.locator(".vote-plot .point")).to_have_count(2)
    view.get_by_role("button", name=f"Go on with {winner} in a chat").click()
    view.get_by_role("link", name="Open the new chat").click()
    expect(chat.questions).to_have_text(["Which one are you?"])
    expect(chat.replies).to_contain_text("and <b>tags</b>")
    assert chat.watch.dialogs == []
    assert chat.watch.errors == []
