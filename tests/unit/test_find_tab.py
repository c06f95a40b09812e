"""The events of the tab Find: who may do what, whose token is used, and what an overtaken search shows."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from chatui.errors import ForbiddenError
from chatui.models.download_manager import DownloadManager
from chatui.models.token_file import TokenFiles
from chatui.ui.gradio_compat import request_context
from chatui.ui.models.find_tab import FindTab
from chatui.ui.models.tabs import ModelsContext
from tests.fakes import FakeBackend
from tests.local_hub import LocalHub

TOKEN = "hf_" + "s3cr3t" * 4
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}
FACTS = {"pipeline_tag": "text-generation"}


class Access:
    """Lets some users manage models."""

    def __init__(self, managers: set[str]) -> None:
        self._managers = managers

    def may_manage(self) -> bool:
        return request_context.login() in self._managers

    def check_manage(self) -> None:
        if not self.may_manage():
            raise ForbiddenError("Only the operator may do this.")


class Server:
    """A tab Find, and its downloads."""

    def __init__(self, folder: Path) -> None:
        self.tokens = TokenFiles(folder / "tokens")
        self.downloads = DownloadManager(folder / "downloads", lambda _: None, self.tokens)
        overviews = SimpleNamespace(runs_models=True, read=lambda *_, **__: SimpleNamespace(devices=()))
        context = SimpleNamespace(
            backend=FakeBackend(), overviews=overviews, access=Access({"ann", "bob"}), downloads=self.downloads
        )
        with gr.Blocks():
            self.tab = FindTab(cast("ModelsContext", context))

    async def act(self, sent: str) -> dict[str, Any]:
        """The last updates of an action, by the ids of the components."""
        last: dict[str, Any] = {}
        async for updates in self.tab._act(sent):
            last |= {part.elem_id or "timer": value for part, value in updates.items()}
        return last


@pytest.fixture
def server(tmp_path: Path, hub: LocalHub) -> Iterator[Server]:
    hub.add("owner/gated", FILES, gated=True, facts=FACTS)
    hub.add("owner/open", FILES, facts=FACTS)
    server = Server(tmp_path / "data")
    yield server
    server.downloads.close()


def be(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    monkeypatch.setattr(request_context, "login", lambda: user)


async def test_others_neither_see_nor_change_anything(
    server: Server, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, "ann")
    await server.act("1|fetch=model=owner/open")
    (download,) = server.downloads.all()
    be(monkeypatch, "eve")
    request_count = len(hub.seen)
    sent = ("search=", "model=model=owner/open", "fetch=model=owner/gated", f"cancel={download.id}")
    for action in (*sent, f"token=token={TOKEN}"):
        shown = await server.act(f"2|{action}")
        assert "owner/" not in str(shown)
        assert "Only the operator" in str(shown)
    assert [status.id for status in server.downloads.all()] == [download.id]
    assert server.tokens.of("eve").read() is None
    shown = {part.elem_id: value for part, value in (await server.tab.show()).items()}
    assert (shown["find-list"], shown["find-token"]) == ("", "")
    assert "form" not in shown["find-form"]
    assert not any(seen.path == "/api/models" or "gated" in seen.path for seen in hub.seen[request_count:])


async def test_the_hub_is_asked_with_the_users_own_token(
    server: Server, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.tokens[TOKEN] = {"owner/gated"}
    be(monkeypatch, "ann")
    assert "kept" in (await server.act(f"1|token=token={TOKEN}"))["find-token"]
    await server.act("2|search=")
    be(monkeypatch, "bob")
    await server.act("3|search=")
    assert [seen.token for seen in hub.seen if seen.path == "/api/models"] == [TOKEN, None]
    be(monkeypatch, "ann")
    assert (await server.act("4|forget-token="))["find-token"] == ""
    await server.act("5|search=")
    assert hub.seen[-1].token is None


async def test_what_is_no_token_is_not_kept_nor_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, "ann")
    shown = await server.act("1|token=token=short")
    assert "not a token" in shown["find-list"]
    assert "short" not in str(shown)
    assert server.tokens.of("ann").read() is None


async def test_an_overtaken_search_is_not_shown(server: Server, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, "ann")
    held = hub.fault("GET /api/models$", hold=0)
    slow = asyncio.create_task(server.act("1|search=text=open"))
    assert await asyncio.to_thread(held.reached.wait, 60)
    assert "owner/gated" in (await server.act("2|search=text=gated"))["find-results"]
    hub.heal()
    assert "owner/open" not in str(await slow)


@pytest.mark.parametrize(
    "action", ["search=", "more=", "model=model=owner/open", "model=model=x", "fetch=model=owner/open"]
)
async def test_what_gradio_sends_again_at_the_end_shows_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    be(monkeypatch, "ann")
    *shown, last = [updates async for updates in server.tab._act(f"1|{action}")]
    assert any("find-results" in str(part.elem_id) for updates in shown for part in updates)
    assert list(last.values()) == [gr.skip()]


@pytest.mark.parametrize("sent", ["", "1", "1|", "1|nonsense=x", "1|pause=x", "1|fetch=", "1|model=model=../x", "|="])
async def test_any_text_is_answered(server: Server, monkeypatch: pytest.MonkeyPatch, sent: str) -> None:
    be(monkeypatch, "ann")
    assert await server.act(sent)


async def test_a_form_in_which_something_is_typed_is_left_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, "ann")
    await server.act("1|fetch=model=owner/gated")
    await asyncio.to_thread(server.downloads._entries[server.downloads.all()[0].id].download.wait, 60)
    first = {part.elem_id: value for part, value in (await server.tab._tick("")).items()}
    assert "password" in first["find-token"]
    again = {part.elem_id for part in await server.tab._tick(first["find-token"])}
    assert "find-token" not in again
    assert "find-list" in again
