"""The route at which visible tabs wait for changes: one request is held for a browser, and nobody hears of others."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from chatui.chat_changes import ChatChanges
from chatui.owners import LOGIN_UNKNOWN
from chatui.store.notifications import ChatChange, Notification, Subscriber, digest
from chatui.ui.page import changes
from chatui.uvicorn_protocol import WAIT_PATH


class Served:
    """The route, and a client of it in the same loop."""

    def __init__(self) -> None:
        self.send: Subscriber
        route = changes.route(ChatChanges(self), lambda request: request.headers.get("who"))  # type: ignore[arg-type]
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(Starlette(routes=[route])), base_url="http://test", headers={"who": "a"}
        )

    def subscribe(self, subscriber: Subscriber) -> None:
        self.send = subscriber

    def change(self, owner: str, conversation: str, tab: str = "other") -> None:
        self.send(Notification("chat", frozenset([ChatChange(digest(owner), conversation, digest(tab)).id])))

    async def get(self, **query: Any) -> Any:
        return (await self.client.get(WAIT_PATH, params={"session_hash": "tab", **query})).json()


async def test_one_request_of_a_browser_is_held_until_something_changes() -> None:
    served = Served()
    held = asyncio.create_task(served.get(seconds="0"))
    await asyncio.sleep(0.01)
    polled = await served.get(seconds="0", session_hash="second")
    assert (polled["chats"], polled["pause"]) == ([], changes.POLL_SECONDS)
    served.change("b", "foreign")
    served.change("a", "own", tab="tab")
    await asyncio.sleep(0.01)
    assert not held.done()
    served.change("a", "one")
    answer = await held
    assert answer.pop("position")
    assert (answer.pop("models"), answer.pop("new_models")) == ("", False)
    assert answer == {"chats": ["one"], "missed": False, "delay": 0, "pause": changes.POLL_SECONDS}
    found = await served.get(since=polled["position"], session_hash="second")
    assert found["chats"] == ["one", "own"]
    assert found["pause"] == changes.POLL_SECONDS


async def test_an_idle_request_ends_in_time_and_makes_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "WAIT_SECONDS", 0.01)
    served = Served()
    for _ in range(2):
        answer = await served.get(seconds="0")
        assert (answer["chats"], answer["missed"], answer["pause"]) == ([], False, 0)
    held = asyncio.create_task(served.get(seconds="0"))
    await asyncio.sleep(0)
    served.change("b", "foreign")
    served.change("b", "another")
    position = (await held)["position"]
    assert position.partition("-")[2] == "2"
    assert answer["position"].partition("-")[2] == "0"


async def test_tabs_that_have_missed_changes_do_not_refresh_all_at_once() -> None:
    answers = [await Served().get(since="another-1") for _ in range(5)]
    assert all(answer["missed"] for answer in answers)
    assert len({answer["delay"] for answer in answers}) > 1
    assert all(0 <= answer["delay"] <= changes.SPREAD_SECONDS for answer in answers)


async def test_tabs_do_not_show_new_models_all_at_once() -> None:
    served = Served()
    answers = [await served.get(seconds="0", models="others") for _ in range(5)]
    assert all(answer["new_models"] for answer in answers)
    assert len({answer["delay"] for answer in answers}) > 1
    assert all(0 <= answer["delay"] <= changes.MODELS_SPREAD_SECONDS for answer in answers)


async def test_who_may_be_logged_in_is_not_told_to_be_unknown() -> None:
    app = Starlette(routes=[changes.route(ChatChanges(Served()), lambda _: None)])  # type: ignore[arg-type]

    async def unknown(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, LOGIN_UNKNOWN: True}, receive, send)

    client = httpx.AsyncClient(transport=httpx.ASGITransport(unknown), base_url="http://test")
    assert (await client.get(WAIT_PATH, params={"session_hash": "tab"})).status_code == 503


@pytest.mark.parametrize(("who", "session"), [("", "tab"), ("a", ""), ("a", "x" * 101)])
async def test_who_is_not_known_hears_nothing(who: str, session: str) -> None:
    served = Served()
    headers = {"who": who} if who else {}
    client = httpx.AsyncClient(transport=served.client._transport, base_url="http://test", headers=headers)
    assert (await client.get(WAIT_PATH, params={"session_hash": session})).status_code == 404


@pytest.mark.parametrize("seconds", ["", "x", "-1", "9" * 400, "NaN"])
async def test_a_malformed_time_is_not_an_error(seconds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "WAIT_SECONDS", 0.01)
    assert "position" in await Served().get(seconds=seconds)
