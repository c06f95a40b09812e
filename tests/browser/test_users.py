"""Several people at once: nobody sees another's text, and nobody waits for another's page."""

from collections.abc import Callable, Sequence

import pytest
from playwright.sync_api import expect

from chatui.chat import ChatRequest
from tests.browser.pages import PATIENCE, Chat, wait_until
from tests.fakes import Hold

pytestmark = pytest.mark.browser


def test_two_users_stream_at_once_and_see_only_their_own(
    serve: Callable[..., object], open_chat: Callable[..., Chat]
) -> None:
    holds = {"alice": Hold(), "bob": Hold()}

    def reply(request: ChatRequest) -> Sequence[str | Hold]:
        name = request.messages[-1].content.split()[-1]
        return [f"for {name}: ", "secret ", holds[name], f"of {name}"]

    site = serve(reply)
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
    wait_until(lambda: site.backend.running == 1, 2)
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
