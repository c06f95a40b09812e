import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from chatui.chat import ReplyDelta
from chatui.errors import ChatError, NotFoundError
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from chatui.runner import Runner
from chatui.running_reply import RunningReply
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from chatui.ui.chat import actions
from chatui.ui.shared.tab import Tab
from chatui.ui.shared.tab_state import LIST_PAGE_SIZE, TabState
from tests.fakes import FakeBackend, Hold

ON_A_CHAT = ("open", "rename", "pin", "unpin", "archive", "unarchive", "delete", "restore")
ON_A_MESSAGE = ("version", "branch", "note", "answer-now")
ON_THE_LIST = ("more", "earlier", "archived", "deleted", "unarchived", "refresh", "empty", "take-over", "leave-alone")


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    runner = Runner(FakeBackend(["said"]), Store.in_memory(), Store.in_memory())
    yield runner
    await runner.close()


async def start_reply(
    runner: Runner, question: str = "What?", parent: str | None = None, chat: str | None = None
) -> RunningReply:
    author = Author("m", "r", "", GenerationSettings(), seed=7)
    return await runner.start_reply("a", NewTurn(chat, parent, question, author, PRESETS[0]))


async def answered(runner: Runner, question: str = "What?", **where: str | None) -> RunningReply:
    running_reply = await start_reply(runner, question, **where)
    async for _ in running_reply.changes():
        pass
    return running_reply


def tab(runner: Runner, owner: str = "a", **state: Any) -> Tab:
    return Tab(owner, replace(TabState(), **state), runner)


async def test_a_thought_is_ended_while_its_reply_runs_and_nothing_happens_later(runner: Runner) -> None:
    backend = runner.backend
    assert isinstance(backend, FakeBackend)
    backend.replies = [[ReplyDelta(reasoning="Hm.", tokens=1), Hold(), "Yes."]]
    running_reply = await start_reply(runner)
    async for _ in running_reply.changes():
        if running_reply.progress.reasoning:
            break
    state = tab(runner, chat=running_reply.conversation.id).state
    assert (
        await actions.do(tab(runner, chat=running_reply.conversation.id), "answer-now", running_reply.message.id, "")
        == state
    )
    async for _ in running_reply.changes():
        pass
    assert (running_reply.progress.reasoning, running_reply.progress.text) == ("Hm.", "Yes.")
    answered_now = list(backend.answered_now)
    await actions.do(tab(runner, chat=running_reply.conversation.id), "answer-now", running_reply.message.id, "")
    assert backend.answered_now == answered_now == [running_reply.ticket]


def test_every_action_is_tested() -> None:
    assert {*ON_A_CHAT, *ON_A_MESSAGE, *ON_THE_LIST} == set(actions.ACTIONS)


@pytest.mark.parametrize("name", [*ON_A_CHAT, *ON_A_MESSAGE])
async def test_what_is_anothers_is_not_there_and_stays_as_it_was(runner: Runner, name: str) -> None:
    running_reply = await answered(runner)
    target = running_reply.conversation.id if name in ON_A_CHAT else running_reply.message.id
    before = list(runner.owner_store("a").trees())
    for chosen in (target, "nothing", "", "\x00"):
        with pytest.raises(NotFoundError) as caught:
            await actions.do(tab(runner, "b"), name, chosen, "value")
        assert str(caught.value) == str(NotFoundError("conversation" if name in ON_A_CHAT else "message"))
    assert list(runner.owner_store("a").trees()) == before
    assert runner.owner_store("b").conversations() == []


@pytest.mark.parametrize("name", ["", "continue", "_open", "drop table", "__class__"])
async def test_what_is_unknown_is_refused(runner: Runner, name: str) -> None:
    with pytest.raises(ChatError, match="unknown"):
        await actions.do(tab(runner), name, "x", "")


@pytest.mark.parametrize(("on", "off", "field"), [("pin", "unpin", "pinned"), ("archive", "unarchive", "archived")])
async def test_marks_are_set_and_taken_away(runner: Runner, on: str, off: str, field: str) -> None:
    chat = (await answered(runner)).conversation.id
    at = tab(runner, chat=chat, message_ids=("x",))
    for name, expected in ((on, True), (on, True), (off, False), (off, False)):
        assert await actions.do(at, name, chat, "") == at.state
        assert getattr(runner.owner_store("a").conversation(chat), field) is expected


async def test_a_title_is_given_and_taken_back(runner: Runner) -> None:
    chat = (await answered(runner, "First words")).conversation.id
    await actions.do(tab(runner), "rename", chat, "a=b|c")
    assert runner.owner_store("a").conversation(chat).title == "a=b|c"
    await actions.do(tab(runner), "rename", chat, " ")
    assert runner.owner_store("a").conversation(chat).title == "First words"


async def test_opening_leaves_a_temporary_chat(runner: Runner) -> None:
    chat = (await answered(runner)).conversation.id
    before = tab(runner, chat="other", temporary=True, message_ids=("x",), list_limit=99)
    state = await actions.do(before, "open", chat, "")
    assert state == TabState(chat=chat, list_limit=99)


async def test_a_version_is_gone_to_with_what_follows_it(runner: Runner) -> None:
    first = await answered(runner, "first")
    chat = first.conversation.id
    below = await answered(runner, "below", chat=chat, parent=first.message.id)
    await answered(runner, "edited", chat=chat, parent=None)
    question = first.path[0].id
    at = tab(runner, chat=chat)
    assert await actions.do(at, "version", question, "") == at.state
    assert runner.owner_store("a").path(chat)[-1].id == below.message.id


async def test_turning_to_a_version_stops_what_is_written_in_the_chat_alone(runner: Runner) -> None:
    first = await answered(runner)
    chat = first.conversation.id
    runner.backend = FakeBackend([Hold()])
    here, elsewhere = await start_reply(runner, "again", chat=chat, parent=None), await start_reply(runner)
    async with asyncio.timeout(10):
        await actions.do(tab(runner, chat=chat), "version", first.path[0].id, "")
    assert (here.state, elsewhere.state) == ("stopped", "running")


@pytest.mark.parametrize("temporary", [False, True])
async def test_a_branch_is_another_chat_of_the_same_kind(runner: Runner, temporary: bool) -> None:
    author = Author("m", "r", "", GenerationSettings(), seed=7)
    running_reply = await runner.start_reply("a", NewTurn(None, None, "What?", author, PRESETS[0]), temporary)
    async for _ in running_reply.changes():
        pass
    at = tab(runner, chat=running_reply.conversation.id, temporary=temporary)
    state = await actions.do(at, "branch", running_reply.message.id, "")
    assert state.temporary is temporary
    assert state.chat != running_reply.conversation.id
    owner_store = runner.owner_store("a", temporary)
    assert [m.content for m in owner_store.path(state.chat)] == [
        m.content for m in owner_store.path(running_reply.conversation.id)
    ]
    assert len(runner.owner_store("a").conversations()) == (0 if temporary else 2)


async def test_a_note_leaves_the_rating(runner: Runner) -> None:
    running_reply = await answered(runner)
    runner.owner_store("a").rate(running_reply.message.id, "dislike")
    await actions.do(tab(runner, chat=running_reply.conversation.id), "note", running_reply.message.id, "too short")
    rated = runner.owner_store("a").message(running_reply.message.id)
    assert (rated.rating, rated.note) == ("dislike", "too short")


async def test_deleting_ends_its_reply_and_can_be_undone(runner: Runner) -> None:
    runner.backend = backend = FakeBackend([Hold()])
    running_reply = await start_reply(runner)
    chat = running_reply.conversation.id
    async with asyncio.timeout(10):
        state = await actions.do(tab(runner, chat=chat, message_ids=("x",)), "delete", chat, "")
    assert state == TabState(deleted_chat=chat)
    assert backend.running == 0
    assert runner.owner_store("a").conversations() == []
    back = await actions.do(Tab("a", state, runner), "restore", chat, "")
    assert back == TabState(chat=chat)
    assert [one.id for one in runner.owner_store("a").conversations()] == [chat]


async def test_deleting_another_chat_leaves_the_tab_where_it_is(runner: Runner) -> None:
    chat, other = [(await answered(runner)).conversation.id for _ in range(2)]
    state = await actions.do(tab(runner, chat=chat, message_ids=("x",)), "delete", other, "")
    assert (state.chat, state.message_ids, state.deleted_chat) == (chat, ("x",), other)


async def test_the_next_action_takes_back_the_offer_to_undo(runner: Runner) -> None:
    assert (await actions.do(tab(runner, deleted_chat="x"), "more", "", "")).deleted_chat == ""
    # A refresh may come by itself, while the user wants to undo the deletion.
    assert (await actions.do(tab(runner, deleted_chat="x"), "refresh", "", "")).deleted_chat == "x"


async def test_the_list_is_lengthened_and_turned_over(runner: Runner) -> None:
    more = await actions.do(tab(runner), "more", "", "")
    assert more.list_limit == 2 * LIST_PAGE_SIZE
    archive = await actions.do(Tab("a", more, runner), "archived", "", "")
    assert (archive.show_archived, archive.list_limit) == (True, LIST_PAGE_SIZE)
    gone = await actions.do(Tab("a", archive, runner), "deleted", "", "")
    assert (gone.show_archived, gone.show_deleted, gone.list_limit) == (False, True, LIST_PAGE_SIZE)
    for shown in (archive, gone):
        assert await actions.do(Tab("a", shown, runner), "unarchived", "", "") == TabState()


@pytest.mark.parametrize(("answer", "mine"), [("take-over", 1), ("leave-alone", 0)])
async def test_what_was_said_before_the_login_is_offered_once(runner: Runner, answer: str, mine: int) -> None:
    await answered(runner)
    logged_in = Tab("login:ada", TabState(), runner, previous_owner="a")
    assert (logged_in.count_adoptable(), Tab("login:ada", TabState(), runner).count_adoptable()) == (1, 0)
    await actions.do(logged_in, answer, "", "")
    assert logged_in.count_adoptable() == 0
    assert len(runner.owner_store("login:ada").conversations()) == mine
    assert len(runner.owner_store("a").conversations()) == 1 - mine


@pytest.mark.parametrize("answer", ["take-over", "leave-alone"])
async def test_without_a_login_nothing_is_taken_over(runner: Runner, answer: str) -> None:
    await answered(runner)
    await actions.do(tab(runner, "b"), answer, "a", "a")
    assert len(runner.owner_store("a").conversations()) == 1


async def test_any_delete_can_be_undone_also_by_a_tab_that_knows_of_none(runner: Runner) -> None:
    chats = [(await answered(runner, f"{number}")).conversation.id for number in range(3)]
    await actions.do(tab(runner), "archive", chats[1], "")
    for chat in chats:
        await actions.do(tab(runner), "delete", chat, "")
    assert [one.id for one in runner.owner_store("a").deleted()] == chats[::-1]
    assert runner.owner_store("b").deleted() == []
    for chat in chats:
        state = await actions.do(tab(runner, show_deleted=True), "restore", chat, "")
        assert (state.chat, state.show_deleted) == (chat, False)
    assert runner.owner_store("a").deleted() == []
    assert [one.id for one in runner.owner_store("a").conversations()] == [chats[2], chats[0]]
    assert [one.id for one in runner.owner_store("a").conversations(archived=True)] == [chats[1]]


async def test_what_was_deleted_is_gone_at_once_where_that_is_wanted_and_only_ones_own(runner: Runner) -> None:
    kept, gone = [(await answered(runner, question)).conversation.id for question in ("kept", "gone")]
    await actions.do(tab(runner), "delete", gone, "")
    await actions.do(tab(runner, "b"), "empty", "", "")
    assert [one.id for one in runner.owner_store("a").deleted()] == [gone]
    state = await actions.do(tab(runner, show_deleted=True), "empty", "", "")
    assert state.show_deleted
    assert runner.owner_store("a").deleted() == []
    assert [one.id for one in runner.owner_store("a").conversations()] == [kept]


async def test_the_list_never_gets_longer_than_a_place_can_say(runner: Runner) -> None:
    state = await actions.do(tab(runner, list_limit=99_999), "more", "", "")
    assert TabState.from_json(state.to_json()) == state


async def test_earlier_messages_are_shown_until_the_chat_is_left(runner: Runner) -> None:
    state = await actions.do(tab(runner, chat="x"), "earlier", "", "")
    assert state.message_limit == 2 * TabState().message_limit
    assert state.in_chat("y").message_limit == TabState().message_limit
