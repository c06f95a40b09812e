"""The events of the tab Here: who sees which models, and who may change something."""

import asyncio
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest

from chatui.chat import ModelStatus
from chatui.errors import ChatError, ForbiddenError
from chatui.models.fit import Device, Machine
from chatui.models.overview import OverviewReader
from chatui.models.permissions import Permissions, User
from chatui.ui.gradio_compat import request_context
from chatui.ui.models.here_tab import HereTab
from chatui.ui.models.tabs import ModelsContext
from chatui.ui.shared import error_messages
from chatui.ui.shared.model_access import ModelAccess
from tests.fakes import FakeBackend
from tests.model_folders import cached_model, write_model


class Served(FakeBackend):
    """Serves its default model, and one more in a folder."""

    folder = Path()

    def models(self) -> list[ModelStatus]:
        return [self.status, ModelStatus("served-1M", "unloaded", source=str(self.folder / "served-1M"))]


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[ChatError]:
    found: list[ChatError] = []
    monkeypatch.setattr(error_messages, "warn", found.append)
    return found


def tab_for(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[HereTab, Served]:
    """The tab as an event of this user sees it, on a machine with three models."""
    write_model(tmp_path / "own" / "served-1M", 128)
    write_model(tmp_path / "own" / "other-1M", 128)
    cached_model(tmp_path / "cache", "owner/cached-1M", 128)
    monkeypatch.setattr(request_context, "user", lambda: user)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    backend = Served()
    backend.folder = tmp_path / "own"
    overviews = OverviewReader(lambda: Machine((Device("cpu", 10**9, 10**9, 1e9),)), [tmp_path / "own"])
    with gr.Blocks():
        access = ModelAccess(backend, Permissions())
        context = ModelsContext(backend, overviews, access, cast(Any, None), cast(Any, None), gr.Dropdown())
        return HereTab(context), backend


def test_others_than_managers_see_served_models_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tab, _backend = tab_for(User("eve"), tmp_path, monkeypatch)
    overview = asyncio.run(tab.overview())
    assert {row.status.name for row in overview.rows if row.status} == {"fake/echo", "served-1M"}
    assert all(row.status for row in overview.rows)
    assert overview.recommendation is None


def test_a_manager_sees_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tab, _backend = tab_for(User(is_operator=True), tmp_path, monkeypatch)
    names = {Path(row.name).name for row in asyncio.run(tab.overview()).rows}
    assert names == {"echo", "served-1M", "other-1M", "cached-1M"}


@pytest.mark.parametrize("action", ["load", "unload", "ask", "delete"])
def test_others_than_managers_change_nothing(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[ChatError]
) -> None:
    tab, backend = tab_for(User("eve"), tmp_path, monkeypatch)
    (snapshot,) = (tmp_path / "cache").glob("models--*/snapshots/*")
    for key in (str(snapshot), str(tmp_path / "own" / "served-1M")):
        asyncio.run(tab._act(f"1|{action}={key}"))
    assert [type(error) for error in warnings] == [ForbiddenError] * 2
    assert not any((backend.added, backend.removed, backend.loads))
    assert (snapshot / "config.json").exists()


def test_nobody_else_makes_the_server_serve_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tab, backend = tab_for(User("eve"), tmp_path, monkeypatch)
    with pytest.raises(ChatError, match="no such model"):
        asyncio.run(tab.served_name(str(tmp_path / "own" / "other-1M")))
    assert asyncio.run(tab.served_name(str(tmp_path / "own" / "served-1M"))) == "served-1M"
    assert not backend.added
