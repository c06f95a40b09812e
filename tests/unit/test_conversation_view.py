from types import SimpleNamespace
from typing import Any

from chatui.errors import StoreError
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from chatui.runner import Runner
from chatui.running_reply import RunningReply
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from chatui.ui.chat.conversation_view import ConversationView
from chatui.ui.chat.transcript import ChatbotContent
from chatui.ui.shared.tab import Tab
from chatui.ui.shared.tab_state import TabState
from tests.fakes import FakeBackend


async def test_a_reply_is_shown_as_kept_only_when_it_is() -> None:
    runner = Runner(FakeBackend(), Store.in_memory(), Store.in_memory())
    author = Author("m", "r", "", GenerationSettings(), seed=7)
    started = runner.owner_store("a").start_turn(NewTurn(None, None, "What?", author, PRESETS[0]))
    reply = RunningReply(runner.persistent_store, "a", started, author)
    reply.state, reply.progress.text = "finished", "So it goes."
    components: Any = SimpleNamespace(chatbot="chatbot", status="status", textbox="textbox", tab_state="tab_state")
    nothing: Any = None
    view = ConversationView(runner, nothing, components, nothing, nothing)
    tab = Tab("a", TabState(), runner)
    updates: Any = view._follow(tab, reply, started.reply, ChatbotContent(), [])
    assert "tab_state" not in await anext(updates)
    reply.save_error = StoreError("The database does not answer.")
    assert "tab_state" not in await anext(updates)
    reply.save_error = None  # what was written in time is the text before the end
    assert list(await anext(updates)) == ["status"]
    reply.saved = True
    reply.notify()
    assert "tab_state" in await anext(updates)
    assert [_ async for _ in updates] == []
