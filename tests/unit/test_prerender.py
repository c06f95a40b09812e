"""The conversation that is shown while the page is made: its end, as text, to its owner alone."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from chatui.chat import Role
from chatui.errors import StoreError
from chatui.runner import Runner
from chatui.settings import AppSettings
from chatui.store.owner_store import OwnerStore
from chatui.store.records import ReplyUpdate, StoredMessage
from chatui.store.rows import now
from chatui.store.store import Store
from chatui.ui.gradio_compat import page_html
from chatui.ui.page import head, page_language, prerender
from tests.databases import ask
from tests.fakes import FakeBackend


def stored_message(text: str, role: Role = "assistant", reasoning: str = "") -> StoredMessage:
    return StoredMessage("id", "chat", None, role, text, now(), reasoning=reasoning)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[TestClient, Store]]:
    """A client, and the store."""
    store = Store.open(AppSettings(data_dir=tmp_path))
    runner = Runner(FakeBackend(), store, Store.in_memory())
    route = prerender.route(runner, lambda request: request.headers.get("who"))
    yield TestClient(Starlette(routes=[route])), store
    store.close()


def test_its_owner_gets_the_conversation_and_the_list(served: tuple[TestClient, Store]) -> None:
    client, store = served
    started = store.for_owner("a").start_turn(ask("What is **it**?"))
    store.update_replies([ReplyUpdate("a", started.reply.id, "It is `this`.", state="finished")])
    found = client.get("/early", params={"chat": started.conversation.id}, headers={"who": "a"})
    assert "<strong>it</strong>" in found.text
    assert "<code>this</code>" in found.text
    assert 'class="chat-row current"' in found.text
    assert found.headers["cache-control"] == "no-store"
    for who, chat in (
        ({"who": "b"}, started.conversation.id),
        ({}, started.conversation.id),
        ({"who": "a"}, "made-up"),
    ):
        refused = client.get("/early", params={"chat": chat}, headers=who)
        assert (refused.status_code, refused.text) == (404, "")


def test_without_the_database_there_is_nothing_to_show(
    served: tuple[TestClient, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    def visible_path(*_: object) -> Path:
        raise StoreError("The database is away.")

    monkeypatch.setattr(OwnerStore, "visible_path", visible_path)
    answer = served[0].get("/early", params={"chat": "any"}, headers={"who": "a"})
    assert (answer.status_code, answer.text) == (503, "")


@given(st.text(), st.text())
def test_what_was_said_is_no_markup_of_its_own(question: str, answer: str) -> None:
    shown = prerender.render(
        [
            stored_message("<script>x</script>" + question, "user"),
            stored_message("<img src=x>" + answer, reasoning="hm"),
        ],
        "",
    )
    for tag in ("<script", "<img", "<iframe", "<style", "javascript:alert"):
        assert tag not in shown


def test_text_is_shown_as_it_was_written() -> None:
    shown = prerender.render([stored_message("<b> &lt; &copy; `<i> &amp;` \\<x>")], "")
    for part in ("&lt;b&gt; &amp;lt; &amp;copy;", "<code>&lt;i&gt; &amp;amp;</code>", "&lt;x&gt;"):
        assert part in shown


def test_links_that_run_are_none_and_images_are_not_loaded() -> None:
    shown = prerender.render([stored_message("[a](javascript:alert(1)) ![b](http://c.test/d.png) <http://e.test>")], "")
    assert 'href="javascript' not in shown
    assert "<img" not in shown


def test_only_the_end_of_a_long_conversation_is_shown() -> None:
    path = [stored_message(f"number {number}.") for number in range(50)]
    shown = prerender.render(path, "")
    assert "number 49." in shown
    assert "number 37." not in shown
    long = prerender.render(
        [
            stored_message("early words"),
            stored_message("x" * prerender.MAX_CHARACTERS),
            stored_message("y" * 2 * prerender.MAX_CHARACTERS),
        ],
        "",
    )
    assert "yyy" in long
    assert "xxx" not in long
    assert "early words" not in long


@pytest.mark.parametrize("accept", ["text/html", "*/*"])
def test_the_head_of_pages_alone_is_added_to(accept: str) -> None:
    page = "<html><head><title>x</title></head><body>é</body></html>"

    async def html(_: Request) -> HTMLResponse:
        return HTMLResponse(page)

    async def text(_: Request) -> PlainTextResponse:
        return PlainTextResponse(page)

    opened: list[str] = []

    @contextlib.asynccontextmanager
    async def opening(request: Request) -> AsyncIterator[None]:
        opened.append(request.url.path)
        yield

    app = Starlette(routes=[Route("/", html), Route("/text", text)])
    client = TestClient(page_html.HtmlMiddleware(app, head.rewrite, opening))
    got = client.get("/", headers={"accept": accept})
    added = page_language.script_messages() + head.HEAD.decode() if accept == "text/html" else ""
    before, tags, ended = got.text.partition('<meta property="og:title"')
    around = before + (ended[ended.find("</head>") :] if tags else "")
    assert around == page.replace("</head>", added + "</head>")
    assert bool(tags) == bool(added)
    assert int(got.headers["content-length"]) == len(got.content)
    assert (got.headers.get("cache-control") == "no-store") == (accept == "text/html")
    assert opened == (["/"] if accept == "text/html" else [])
    assert client.get("/text", headers={"accept": accept}).text == page
