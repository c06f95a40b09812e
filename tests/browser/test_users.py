"""Several people at once: nobody sees another's text, and nobody waits for another's page."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from playwright.sync_api import Browser, expect

from chatui.chat import ChatRequest
from chatui.settings import AppSettings
from tests.browser.conftest import new_chat
from tests.browser.pages import PATIENCE, Chat, Site, wait_until
from tests.fakes import FakeBackend, Hold

pytestmark = pytest.mark.browser


def test_two_users_stream_at_once_and_see_only_their_own(
    serve: Callable[..., Site], open_chat: Callable[..., Chat], tmp_path: Path
) -> None:
    holds = {"alice": Hold(), "bob": Hold()}

    def reply(request: ChatRequest) -> Sequence[str | Hold]:
        name = request.messages[-1].content.split()[-1]
        return [f"for {name}: ", "secret ", holds[name], f"of {name}"]

    site = serve(reply, settings=AppSettings(host="0.0.0.0", data_dir=tmp_path))  # else they are one person
    alice, bob = open_chat(site), open_chat(site)
    alice.setting("Temperature").fill("1.5")
    alice.setting("Temperature").blur()
    alice.ask("I am alice")
    bob.ask("I am bob")
    expect(alice.log.get_by_text("for alice: secret")).to_be_visible(timeout=PATIENCE)
    expect(bob.log.get_by_text("for bob: secret")).to_be_visible(timeout=PATIENCE)
    assert site.backend.running == 2
    assert "bob" not in alice.text()
    assert "alice" not in bob.text()
    assert [r.settings.temperature for r in site.backend.requests] == [1.5, 0.5]

    bob.stop.click()
    wait_until(lambda: site.backend.running == 1)
    expect(bob.log.get_by_text("Stopped.", exact=True)).to_be_visible()
    expect(alice.stop).to_be_visible()
    holds["alice"].release()
    expect(alice.replies.last).to_have_text("for alice: secret of alice", timeout=PATIENCE)
    assert "Stopped" not in alice.text()

    holds["bob"].release()
    bob.say("still bob")
    assert [m.content for m in site.backend.requests[-1].messages[1:]] == [
        "I am bob",
        "for bob: secret ",
        "still bob",
    ]
    assert "bob" not in alice.text()


# --- Whose turn it is, for a fair queue ---


@pytest.mark.exhaustive  # tests/integration/test_identity.py tells visitors apart
def test_each_browser_and_client_is_a_user_of_its_own(
    serve: Callable[..., Site], open_chat: Callable[..., Chat], tmp_path: Path
) -> None:
    site = serve(["fine"], settings=AppSettings(host="0.0.0.0", data_dir=tmp_path))
    for page in (open_chat(site), open_chat(site)):
        page.say("one")
        page.button("Retry").click()
        wait_until(lambda: len(site.backend.requests) % 2 == 0)
        page.answered()
    client = Client(site.url, verbose=False)
    for _ in range(2):
        client.predict("hi", api_name="/chat")
    users = [request.user for request in site.backend.requests]
    assert users[::2] == users[1::2]
    assert len(set(users)) == 3
    assert all(users)


def test_plain_calls_of_one_address_are_one_user(serve: Callable[..., Site]) -> None:
    """A client makes up as many sessions as it likes, which would be as many places in the queue."""
    site = serve(["fine"])
    for _ in range(2):
        event = httpx.post(f"{site.url}/gradio_api/call/v2/chat", json={"message": "hi"}).json()["event_id"]
        assert "fine" in httpx.get(f"{site.url}/gradio_api/call/chat/{event}").text
    assert [request.user for request in site.backend.requests] == 2 * ["address:127.0.0.1"]


def test_whoever_has_logged_in_is_one_user_everywhere(browser: Browser, tmp_path: Path) -> None:
    with ExitStack() as stack:
        settings = AppSettings(auth="ada:secret", data_dir=tmp_path)
        site = stack.enter_context(Site(FakeBackend(["fine"]), settings))
        cookies = httpx.post(f"{site.url}/login", data={"username": "ada", "password": "secret"}).cookies
        attributes = {
            "domain": "127.0.0.1",
            "path": "/",
            "expires": -1,
            "httpOnly": True,
            "secure": False,
            "sameSite": "Lax",
        }
        logged_in = {
            "cookies": [{"name": name, "value": value, **attributes} for name, value in cookies.items()],
            "origins": [],
        }
        new_chat(stack, browser, site, storage_state=logged_in).say("hi")
        client = Client(site.url, auth=("ada", "secret"), verbose=False)
        client.predict("hi", api_name="/chat")
        assert [request.user for request in site.backend.requests] == ["login:ada"] * 2
