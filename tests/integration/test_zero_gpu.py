"""ZeroGPU's wiring without its GPU: Gradio's own server with our routes, whose visitors are those of other hosts."""

import sys
import types
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import gradio as gr
import gradio.routes
import httpx
import pytest

from chatui import server
from chatui.engine.runners import zero_gpu
from chatui.owners import Cookies, login_owner
from chatui.settings import AppSettings
from chatui.store.records import ReplyUpdate
from chatui.store.store import Store
from tests.databases import ask
from tests.fakes import FakeBackend


class Loaded:
    """A model that is loaded at once."""

    def load_in_this_thread(self) -> "Loaded":
        return self

    def start(self) -> FakeBackend:
        return FakeBackend()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts the server of a ZeroGPU Space with these settings, and returns its address."""
    launched: list[Any] = []
    launch = gr.Blocks.launch

    def remember(blocks: gr.Blocks, **options: Any) -> None:
        launched.append(blocks)
        launch(blocks, **options, quiet=True)

    # To be put back: launch() leaves its own in Gradio's place.
    monkeypatch.setitem(vars(gradio.routes), "CustomCORSMiddleware", vars(gradio.routes)["CustomCORSMiddleware"])
    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=None))
    monkeypatch.setattr(zero_gpu, "loader", lambda _: None)
    monkeypatch.setattr(server, "LocalBackend", lambda *_: Loaded())
    monkeypatch.setattr(server, "_print_when_ready", lambda _: None)
    monkeypatch.setattr(gr.Blocks, "launch", partialmethod(remember, prevent_thread_lock=True))
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")

    def start(**settings: Any) -> str:
        server.run(AppSettings(data_dir=tmp_path, **settings))
        return str(launched[-1].local_url).rstrip("/")

    yield start
    for blocks in launched:
        blocks.close(verbose=False)


def add_conversation(folder: Path, owner: str) -> str:
    """A conversation of this owner's."""
    store = Store.open(AppSettings(data_dir=folder))
    begun = store.for_owner(owner).start_turn(ask("a secret"))
    store.update_replies([ReplyUpdate(owner, begun.reply.id, "kept", state="finished")])
    store.close()
    return begun.conversation.id


def test_who_is_logged_in_has_their_own_chats(serve: Callable[..., str], tmp_path: Path) -> None:
    url = serve(auth="ada:secret")
    hers, others = add_conversation(tmp_path, login_owner("ada")), add_conversation(tmp_path, login_owner("bob"))
    with httpx.Client(base_url=url) as client:
        for path in ("/chats/export", f"/chats/export?chat={hers}", f"/early?chat={hers}"):
            assert client.get(path).status_code == 404, path
        client.post("/login", data={"username": "ada", "password": "secret"}).raise_for_status()
        for path in ("/chats/export?", "/early?"):
            mine = client.get(f"{path}chat={hers}")
            assert (mine.status_code, "a secret" in mine.text) == (200, True), path
            assert client.get(f"{path}chat={others}").status_code == 404, path
        page = client.get("/", params={"chat": hers}, headers={"accept": "text/html"})
        assert "a secret" in page.text


def test_without_a_login_the_cookie_tells(serve: Callable[..., str], tmp_path: Path) -> None:
    url = serve()
    store = Store.open(AppSettings(data_dir=tmp_path))
    cookies = Cookies(store.cookie_secret())
    store.close()
    value = cookies.issue()
    mine = add_conversation(tmp_path, cookies.owner(value) or "")
    path = f"/chats/export?chat={mine}"
    assert httpx.get(url + path).status_code == 404
    assert "a secret" in httpx.get(url + path, cookies={cookies.name: value}).text
