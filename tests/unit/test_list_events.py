"""The list that a tab asks for by itself."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import gradio as gr
import pytest

from chatui.errors import StoreError
from chatui.ui.chat import list_events
from chatui.ui.chat.list_events import ListEvents
from chatui.ui.shared import error_messages


class Idle:
    """The events of a tab that has no other one."""

    async def when_idle(self, _: Any, read: Callable[[], Awaitable[Any]]) -> Any:
        return await read()


async def test_a_list_that_nobody_has_asked_for_fails_without_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    warn = Mock()
    monkeypatch.setattr(error_messages, "warn", warn)
    monkeypatch.setattr(list_events, "current_tab", Mock())
    sidebar = SimpleNamespace(list=0, render_list=AsyncMock(side_effect=["html", StoreError("The disk is full.")]))
    events = ListEvents(None, SimpleNamespace(sidebar=sidebar, refreshed=1), Idle())  # type: ignore[arg-type]
    assert await events.refresh("1") == {0: "html", 1: "1"}
    assert await events.refresh("2") == {1: gr.skip()}
    warn.assert_not_called()
