import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from chatui.errors import StoreError
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from chatui.runner import Runner
from chatui.running_reply import LEASE_LOST, RunningReply
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from chatui.ui.chat.conversation_view import ConversationView
from chatui.ui.chat.transcript import ChatbotContent
from chatui.ui.gradio_compat import request_context
from chatui.ui.shared import redraw
from chatui.ui.shared.tab import Tab
from chatui.ui.shared.tab_state import TabState
from tests.fakes import FakeBackend


def followed(text: str) -> tuple[RunningReply, Any]:
    """A reply that has ended with this text and is not saved, and the updates of a tab that follows it."""
    runner = Runner(FakeBackend(), Store.in_memory(), Store.in_memory())
    author = Author("m", "r", "", GenerationSettings(), seed=7)
    started = runner.owner_store("a").start_turn(NewTurn(None, None, "What?", author, PRESETS[0]))
    reply = RunningReply(runner.persistent_store, "a", started, author)
    reply.state, reply.progress.text = "finished", text
    components: Any = SimpleNamespace(chatbot="chatbot", status="status", textbox="textbox", tab_state="tab_state")
    nothing: Any = None
    view = ConversationView(runner, nothing, components, nothing, nothing)
    return reply, view._follow(Tab("a", TabState(), runner), reply, started.reply, ChatbotContent(), [])


async def test_a_reply_is_shown_as_kept_only_when_it_is() -> None:
    reply, updates = followed("So it goes.")
    assert "tab_state" not in await anext(updates)
    reply.save_error = StoreError("The database does not answer.")
    assert "tab_state" not in await anext(updates)
    reply.save_error = None  # what was written in time is the text before the end
    assert list(await anext(updates)) == ["status"]
    reply.saved = True
    reply.notify()
    assert "tab_state" in await anext(updates)
    assert [_ async for _ in updates] == []


async def test_a_reply_whose_lease_is_lost_between_two_updates_is_shown_as_it_is_stored() -> None:
    reply, updates = followed("So it goes.")
    assert "tab_state" not in await anext(updates)
    reply.save_error = StoreError("The database does not answer.")
    assert "So it goes." in str(await anext(updates))
    reply.on_lease_lost(replace(reply.message, content="", state="interrupted"))
    reply.save_error, reply.saved = None, True
    [last] = [update async for update in updates]
    assert "tab_state" in last
    assert "So it goes." not in str(last)
    assert LEASE_LOST[0] in str(last)


async def test_a_reply_that_nobody_reads_is_not_shown_as_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    reply, updates = followed("So it goes.")
    reply.save_error = StoreError("The database does not answer.")
    assert "tab_state" not in await anext(updates)
    monkeypatch.setattr(request_context, "is_abandoned", lambda: True)
    assert [update async for update in updates] == []


async def test_first_text_and_the_end_do_not_wait_for_the_pace_of_redraws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redraw, "redraw_interval", lambda *_: 60.0)
    reply, updates = followed("")
    reply.state = "running"
    async with asyncio.timeout(30):
        assert "tab_state" not in await anext(updates)
        reply.progress.text = "So"
        reply.notify()
        assert "So" in str(await anext(updates))
        reply.progress.text, reply.state, reply.saved = "So it goes.", "finished", True
        reply.notify()
        assert "tab_state" in [update async for update in updates][-1]
