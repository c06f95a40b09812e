import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from chatui.ui.chat.event_runner import EventRunner
from chatui.ui.gradio_compat import request_context
from chatui.ui.shared.updates import PageUpdates

CHATBOT, STATUS = object(), object()


class Runner(EventRunner):
    """Shows what `inputs` holds; None waits for `newer` first."""

    def __init__(self) -> None:
        components: Any = SimpleNamespace(chatbot=CHATBOT, status=STATUS)
        super().__init__(SimpleNamespace(), components, SimpleNamespace())  # type: ignore[arg-type]
        self.waits, self.newer = asyncio.Event(), asyncio.Event()

    async def run_and_show(self, inputs: Sequence[Any], *_: Any) -> PageUpdates:
        for shown in inputs:
            if shown is None:
                self.waits.set()
                await self.newer.wait()
            yield {CHATBOT: shown}


async def test_the_last_update_of_an_event_changes_nothing_where_a_newer_one_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_context, "tab", lambda: "tab")
    runner, first = Runner(), list[Any]()

    async def action(_: Any) -> None:
        """Do nothing."""

    async def older() -> None:
        async for update in runner.run(["old", None], action):
            first.append(update)

    task = asyncio.create_task(older())
    await runner.waits.wait()
    newer = runner.run(["new"], action)
    begun = asyncio.ensure_future(anext(aiter(newer)))
    await asyncio.sleep(0)
    runner.newer.set()
    assert await begun == {CHATBOT: "new"}
    await task
    assert first[0] == {CHATBOT: "old"}
    assert first[1:] == [{STATUS: {"__type__": "update"}}]
