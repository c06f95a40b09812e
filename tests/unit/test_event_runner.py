import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from chatui.ui.chat import event_runner
from chatui.ui.chat.event_runner import EventRunner
from chatui.ui.gradio_compat import request_context
from chatui.ui.shared import redraw
from chatui.ui.shared.tab_state import TabState
from chatui.ui.shared.updates import PageUpdates

CHATBOT, STATUS, STATE = object(), object(), object()


class Runner(EventRunner):
    """Shows what `inputs` holds; None waits for `newer` first."""

    def __init__(self) -> None:
        components: Any = SimpleNamespace(chatbot=CHATBOT, status=STATUS, tab_state=STATE)
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


async def test_an_event_that_yields_does_nothing_while_another_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_context, "tab", lambda: "tab")
    monkeypatch.setattr(redraw, "MAX_YIELD_SECONDS", 0.01)
    runner = Runner()

    async def action(_: Any) -> None:
        """Do nothing."""

    async def read() -> str:
        return "read"

    older = runner.run(["old", None, "more"], action)
    assert await anext(aiter(older)) == {CHATBOT: "old"}
    assert [update async for update in runner.run(["new"], action, yields=True)] == []
    assert await runner.when_idle(["state"], read) is None
    runner.newer.set()
    assert [update async for update in older] == [{CHATBOT: None}, {CHATBOT: "more"}]
    assert [update async for update in runner.run(["new"], action, yields=True)] == [{CHATBOT: "new"}]
    assert await runner.when_idle(["state"], read) == "read"


async def test_what_was_read_is_dropped_where_an_event_has_come_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_context, "tab", lambda: "tab")
    runner, reading, ended = Runner(), asyncio.Event(), asyncio.Event()

    async def action(_: Any) -> None:
        """Do nothing."""

    async def read() -> str:
        reading.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return "old"

    task = asyncio.create_task(runner.when_idle(["state"], read))
    await reading.wait()
    begun = asyncio.ensure_future(anext(aiter(runner.run(["new"], action))))
    async with asyncio.timeout(1.9):  # it does not wait for the reading
        assert await begun == {CHATBOT: "new"}
    assert await task is None
    await ended.wait()
    monkeypatch.setattr(event_runner, "LIST_TIMEOUT_SECONDS", 0.01)
    assert await runner.when_idle(["state"], read) is None


async def test_what_another_event_has_just_sent_is_newer_than_what_a_tab_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_context, "tab", lambda: "tab")
    runner = Runner()
    old, new = (TabState(chat).to_json() for chat in ("old", "new"))

    async def show(inputs: Sequence[Any], *_: Any) -> PageUpdates:
        yield {CHATBOT: inputs[1], STATE: new}

    monkeypatch.setattr(runner, "run_and_show", show)

    async def action(_: Any) -> None:
        """Do nothing."""

    async def read() -> str:
        return "read"

    async def shown(state: str) -> tuple[int, str | None]:
        updates = [update async for update in runner.run([state, "list"], action, yields=True)]
        return len(updates), await runner.when_idle([state], read)

    assert await shown(old) == (1, None)
    assert await shown(old) == (0, None)
    assert await shown(new) == (1, "read")
    assert await shown(replace(TabState.from_json(new), turn="t" * 22).to_json()) == (1, "read")
    monkeypatch.setattr(event_runner, "MAX_TRANSIT_SECONDS", 0.0)
    assert await shown(old) == (1, "read")
