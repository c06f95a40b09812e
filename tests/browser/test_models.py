"""Several models in the page: which one answers is chosen in the settings, and each chat remembers its own."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Locator, expect

from chatui.chat import LoadOptions, ModelStatus
from chatui.generation_settings import GenerationSettings
from chatui.settings import AppSettings
from tests.browser.conftest import OpenChat, Serve
from tests.browser.pages import PATIENCE, Chat, Site, wait_until
from tests.fakes import INFO, FakeBackend

pytestmark = pytest.mark.browser

OTHER = replace(INFO, name="fake/other", defaults=GenerationSettings(temperature=1.25))


class TwoModels(FakeBackend):
    """Has loaded its first model, and loads the second one as soon as it is asked for."""

    other = ModelStatus(OTHER.name, "unloaded")

    def models(self) -> list[ModelStatus]:
        return [self.status, self.other]

    def load(self, model: str, options: LoadOptions | None = None) -> None:
        super().load(model, options)
        if model == OTHER.name:
            self.other = ModelStatus(OTHER.name, "ready", info=OTHER)


def picker(chat: Chat) -> Locator:
    return chat.page.locator("#model input")


def choose(chat: Chat, name: str) -> None:
    picker(chat).click()
    chat.page.get_by_role("option", name=name).click()
    expect(chat.header).to_contain_text(name, timeout=PATIENCE)


def test_the_chosen_model_answers_and_a_chat_remembers_it(serve: Serve, open_chat: OpenChat) -> None:
    backend = TwoModels(["Fine."])
    chat = open_chat(serve(backend=backend))
    expect(picker(chat)).to_have_value("fake/echo")
    chat.say("First, who are you?")
    choose(chat, "fake/other")
    expect(chat.setting("Temperature")).to_have_value("1.25", timeout=PATIENCE)
    chat.say("And now?")
    expect(chat.header).to_contain_text("fake/other")
    assert [request.model for request in backend.requests] == ["fake/echo", "fake/other"]
    assert [request.settings.temperature for request in backend.requests] == [0.5, 1.25]
    assert [message.content for message in backend.requests[-1].messages[1:]] == [
        "First, who are you?",
        "Fine.",
        "And now?",
    ]
    chat.start_new_chat()
    expect(chat.questions).to_have_count(0)
    expect(picker(chat)).to_have_value("fake/other")
    choose(chat, "fake/echo")
    chat.page.locator("#chats .chat-link").first.click()
    expect(chat.questions).to_have_count(2, timeout=PATIENCE)
    expect(picker(chat)).to_have_value("fake/other", timeout=PATIENCE)
    expect(chat.setting("Temperature")).to_have_value("1.25", timeout=PATIENCE)
    expect(chat.header).to_contain_text("fake/other")
    expect(chat.log.locator(".chat-bar.answer .writer")).to_have_text(["echo", "other"])
    chat.page.reload()
    expect(chat.questions).to_have_count(2, timeout=PATIENCE)
    chat.wait_idle()  # what the page asks for when it has loaded could bring back the default model
    expect(picker(chat)).to_have_value("fake/other")
    expect(chat.header).to_contain_text("fake/other")


def test_a_model_chosen_while_a_reply_streams_answers_next(serve: Serve, open_chat: OpenChat) -> None:
    backend = TwoModels(["word "] * 60, ["Fine."], rate=20.0)
    chat = open_chat(serve(backend=backend))
    view = chat.page.get_by_role("dialog", name="Models", exact=True)
    answers = chat.log.locator(".chat-bar.answer")
    chat.box.fill("Hello")
    chat.box.press("Enter")
    expect(chat.page.locator("#message .stop-button")).to_be_visible(timeout=PATIENCE)
    chat.page.get_by_role("link", name="Models", exact=True).click()
    view.locator("[href$='fake%2Fother']").get_by_text("Chat with it").click()
    expect(view).to_be_hidden()
    expect(picker(chat)).to_have_value("fake/other", timeout=PATIENCE)
    expect(answers).to_have_count(1, timeout=PATIENCE)
    chat.box.fill("And now?")
    chat.box.press("Enter")
    expect(answers).to_have_count(2, timeout=PATIENCE)
    assert [request.model for request in backend.requests] == ["fake/echo", "fake/other"]


def test_a_greeting_and_the_endpoint_for_programs_have_the_chosen_model(serve: Serve, open_chat: OpenChat) -> None:
    site = serve(backend=TwoModels(["Fine."]))
    chat = open_chat(site)
    panel = chat.page.locator("#settings")
    panel.get_by_role("button", name="New", exact=True).click()
    panel.get_by_role("textbox", name=re.compile("^Name")).fill("Robo")
    panel.get_by_role("textbox", name=re.compile("^Greeting")).fill("I am {{model}}.")
    panel.get_by_role("button", name="Save", exact=True).click()
    expect(chat.page.get_by_role("heading", name="I am fake/echo.")).to_be_visible(timeout=PATIENCE)
    choose(chat, "fake/other")
    expect(chat.page.get_by_role("heading", name="I am fake/other.")).to_be_visible(timeout=PATIENCE)
    client = Client(site.url, verbose=False)
    assert client.predict("Hi", model="fake/other", api_name="/chat") == "Fine."
    assert client.predict("Hi", api_name="/chat") == "Fine."
    with pytest.raises(AppError, match="fake/none' is not served here"):
        client.predict("Hi", model="fake/none", api_name="/chat")
    assert [request.model for request in site.backend.requests] == ["fake/other", "fake/echo"]


@pytest.mark.exhaustive  # as part of test_find.py in every run
def test_a_model_that_was_added_can_be_chosen_without_a_restart(serve: Serve, open_chat: OpenChat) -> None:
    class AddableModels(TwoModels):
        names: tuple[str, ...] = ("fake/other",)

        def models(self) -> list[ModelStatus]:
            added = (ModelStatus(name, "ready", info=replace(INFO, name=name), added=True) for name in self.names)
            return [self.status, *added]

    backend = AddableModels(["Fine."])
    chat = open_chat(serve(backend=backend))
    expect(picker(chat)).to_have_value("fake/echo")
    backend.names = ("fake/other", "fake/added")
    chat.page.reload()
    choose(chat, "fake/added")
    chat.say("Who are you?")
    chat.page.reload()
    expect(picker(chat)).to_have_value("fake/added", timeout=PATIENCE)
    chat.say("And still?")
    assert [request.model for request in backend.requests] == ["fake/added"] * 2


def test_others_than_admins_cannot_have_a_model_loaded_that_they_are_not_allowed(tmp_path: Path) -> None:
    """A client can send any name as its choice, and follow anybody's session name."""

    class Shared(TwoModels):
        other = ModelStatus(OTHER.name, "unloaded", added=True)

    settings = AppSettings(auth=str(tmp_path / "logins"), admin="ada", data_dir=tmp_path)
    (tmp_path / "logins").write_text("ada:secret\nbob:secret")
    with Site(backend := Shared(["Fine."]), settings) as site:
        for name, loads in (("bob", "fake/echo"), ("ada", "fake/other")):
            with httpx.Client(base_url=site.url) as client:
                client.post("/login", data={"username": name, "password": "secret"})
                config = client.get("/config").json()
                (picker,) = (each["id"] for each in config["components"] if each["props"].get("elem_id") == "model")
                (chosen,) = (each for each in config["dependencies"] if [picker, "input"] in each["targets"])
                values = ["fake/other", *(None for _ in chosen["inputs"][1:])]
                event = {"data": values, "fn_index": chosen["id"], "session_hash": "same"}
                assert client.post("/gradio_api/queue/join", json=event).status_code == 200
                wait_until(lambda: bool(backend.loads))
                assert backend.loads.pop() == loads


def test_models_that_a_server_tells_later_are_offered_by_themselves(serve: Serve, open_chat: OpenChat) -> None:
    class Late(FakeBackend):
        others: tuple[ModelStatus, ...] = ()

        def models(self) -> list[ModelStatus]:
            return [self.status, *self.others]

    backend = Late(["Fine."])
    told, backend.status = backend.status, ModelStatus("its server", "loading", "asking its server", remote=True)
    chat = open_chat(serve(backend=backend))
    expect(chat.header).to_contain_text("its server")
    expect(chat.page.locator("#model")).to_have_count(0)
    backend.status, backend.others = told, (TwoModels.other,)
    expect(chat.header).to_contain_text("float32", timeout=PATIENCE)
    chat.sidebar("settings", opened=True)
    expect(picker(chat)).to_have_value("fake/echo", timeout=PATIENCE)
    backend.others = ()
    expect(chat.page.locator("#model")).to_have_count(0, timeout=PATIENCE)


def test_one_model_is_no_choice(chat: Callable[[], Chat]) -> None:
    page = chat().page
    expect(page.locator("#setting-temperature")).to_be_attached()
    expect(page.locator("#model")).to_have_count(0)
