"""A request beside the conversation: of a model that the user may choose, with the changes, and the history."""

from typing import Any, cast

import pytest

from chatui.chat import ModelStatus
from chatui.errors import NotFoundError, PromptError, SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS, Persona
from chatui.runner import Runner
from chatui.store.records import Author, NewTurn, ReplyUpdate, StoredMessage
from chatui.store.rows import now
from chatui.store.store import Store
from chatui.ui.chat.reply_requests import ReplyRequests
from chatui.ui.persona import setting_controls
from chatui.ui.persona.persona_panel import PersonaPanel
from chatui.ui.shared.model_access import ModelAccess
from chatui.ui.shared.tab import Tab
from chatui.ui.shared.tab_state import TabState
from tests.fakes import UNTOLD, FakeBackend, Hold

POET = Persona("Poet", system_prompt="Write in verse.")
INPUTS = ["", "", "key", "key", "Be brief.", "0", "small", "Sure,", *setting_controls.values_of(GenerationSettings())]


class Panel:
    inputs = ("choice", "prompt key", "system prompt", "greeting")

    async def persona(self, *_inputs: Any) -> Persona:
        return PRESETS[-1]

    async def chosen(self, key: str) -> Persona:
        if key != "poet":
            raise NotFoundError("persona")
        return POET


class Access:
    def models(self) -> list[ModelStatus]:
        far = ModelStatus("far", "ready", info=UNTOLD, remote=True)
        return [ModelStatus("small", "ready"), ModelStatus("large", "unloaded"), far]

    def find(self, name: str | None) -> ModelStatus:
        return next(model for model in self.models() if model.name == name)


@pytest.fixture
def requests() -> ReplyRequests:
    runner = Runner(FakeBackend(), Store.in_memory(), Store.in_memory())
    return ReplyRequests(runner, cast(PersonaPanel, Panel()), cast(ModelAccess, Access()))


async def test_it_has_the_model_persona_and_settings_that_were_chosen(requests: ReplyRequests) -> None:
    tab = Tab("a", TabState(), requests.runner)
    changes = {"seed": 7, "temperature": 1.5}
    persona, request = await requests.separate(tab, INPUTS, "Hi", "large", "poet", changes, with_history=True)
    assert (persona, request.model, request.user) == (POET, "large", "a")
    assert request.settings == GenerationSettings(seed=7, temperature=1.5)
    assert [message.content for message in request.messages] == ["Write in verse.", "Hi"]
    persona, request = await requests.separate(tab, INPUTS, "Hi", "small")
    assert (persona, request.model) == (PRESETS[-1], "small")


async def test_no_reply_is_started_for_a_server_that_cannot_go_on_with_it(requests: ReplyRequests) -> None:
    tab = Tab("a", TabState(), requests.runner)
    far = [*INPUTS[:6], "far", *INPUTS[7:]]
    assert (await requests.selection(tab, INPUTS))[1] == "Sure,"
    assert (await requests.selection(tab, far))[1] == "", "the box is greyed out"
    cut = StoredMessage("r", "c", "q", "assistant", "That", now(), state="stopped")
    with pytest.raises(PromptError, match="cannot go on"):
        await requests.start(tab, far, None, "q", continued=cut)


async def test_what_may_not_be_chosen_is_not_found(requests: ReplyRequests) -> None:
    tab = Tab("a", TabState(), requests.runner)
    with pytest.raises(NotFoundError):
        await requests.separate(tab, INPUTS, "Hi", "not allowed")
    with pytest.raises(NotFoundError):
        await requests.separate(tab, INPUTS, "Hi", "small", "somebody else's")
    with pytest.raises(SettingsError):
        await requests.separate(tab, INPUTS, "Hi", "small", "", {"temperature": 9})


@pytest.mark.parametrize("temporary", [False, True])
async def test_the_open_chat_comes_before_the_message_if_asked(requests: ReplyRequests, temporary: bool) -> None:
    store = requests.runner.store(temporary)
    author = Author("small", "r", "", GenerationSettings(), seed=7)
    started = store.for_owner("a").start_turn(NewTurn(None, None, "What?", author, POET))
    store.update_replies([ReplyUpdate("a", started.reply.id, "That.", state="finished")])
    tab = Tab("a", TabState(chat=started.conversation.id, temporary=temporary), requests.runner)
    _persona, request = await requests.separate(tab, INPUTS, "And?", "small", "poet", with_history=True)
    assert [message.content for message in request.messages] == ["Write in verse.", "What?", "That.", "And?"]
    assert request.temporary_conversation == (started.conversation.id if temporary else "")
    _persona, request = await requests.separate(tab, INPUTS, "And?", "small", "poet")
    assert [message.content for message in request.messages] == ["Write in verse.", "And?"]


async def test_before_a_temporary_chat_has_begun_a_request_is_one_of_its_own(requests: ReplyRequests) -> None:
    tab = Tab("a", TabState(temporary=True), requests.runner)
    found = [(await requests.separate(tab, INPUTS, "Hi", "small"))[1].temporary_conversation for _ in range(2)]
    assert all(found)
    assert found[0] != found[1]
    tab = Tab("a", TabState(), requests.runner)
    assert (await requests.separate(tab, INPUTS, "Hi", "small"))[1].temporary_conversation == ""


async def test_a_message_that_comes_again_neither_stops_the_reply_nor_asks_twice(requests: ReplyRequests) -> None:
    backend = cast(FakeBackend, requests.runner.backend)
    hold = Hold()
    backend.replies = [["One ", hold, "two."]]
    sent = TabState().in_chat("")
    first = Tab("a", sent, requests.runner)
    reply = await requests.start(first, INPUTS, "Hi", None)
    assert reply is not None
    again = Tab("a", sent, requests.runner)
    assert await requests.start(again, INPUTS, "Hi", None) is reply
    assert again.state.chat == first.state.chat == reply.conversation.id
    assert sent.turn not in (first.state.turn, again.state.turn)
    hold.release()
    async for _ in reply.changes():
        pass
    assert (reply.state, len(backend.requests)) == ("finished", 1)
    other = Tab("a", sent, requests.runner)
    assert await requests.start(other, INPUTS, "Ho", None) is not None
    assert other.state.chat != first.state.chat
    await requests.runner.close()


def test_a_tab_that_goes_elsewhere_sends_another_turn() -> None:
    state = TabState().in_chat("")
    assert len({state.turn, state.in_chat("").turn, state.in_chat("", temporary=True).turn}) == 3
    assert TabState.from_json(state.to_json()).turn == state.turn
    assert TabState.from_json('{"turn": "../x"}') == TabState()
