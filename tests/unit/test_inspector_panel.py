"""What the Inspect view asks of servers when it is opened."""

from typing import Any, cast

import pytest

from chatui.chat import Prompt
from chatui.errors import ModelError
from chatui.inspection import Inspection
from chatui.server_facts import ServerActivity
from chatui.ui.inspector import inspector_panel
from chatui.ui.shared.tab import Tab
from tests.fakes import INFO, UNTOLD, FakeBackend


class Runner:
    """That of the tab."""

    def __init__(self, backend: FakeBackend) -> None:
        self.runner, self.backend = self, backend


async def test_only_servers_are_asked_what_they_are_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    backend.told_activity = ServerActivity(running=3)
    tab = cast(Tab, Runner(backend))
    assert await inspector_panel._activity(tab, Inspection(INFO, Prompt("", ()))) is None
    assert backend.activities_asked == []
    assert await inspector_panel._activity(tab, Inspection(UNTOLD, Prompt("", ()))) == ServerActivity(running=3)
    assert backend.activities_asked == [UNTOLD.name]

    async def gone(_model: str) -> Any:
        raise ModelError("It is not served here.")

    monkeypatch.setattr(backend, "activity", gone)
    assert await inspector_panel._activity(tab, Inspection(UNTOLD, Prompt("", ()))) is None
