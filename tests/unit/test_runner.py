import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chatui import priority
from chatui.character_prompt import Insertion
from chatui.chat import ReplyDelta
from chatui.engine.backend import LocalBackend
from chatui.errors import ChatError, GenerationError, NotFoundError, OverloadError, StoreError
from chatui.generation_settings import GenerationSettings
from chatui.inspection import Inspection
from chatui.model_spec import ModelSpec
from chatui.personas import PRESETS
from chatui.runner import Runner
from chatui.running_reply import RunningReply
from chatui.store.notifications import Notification
from chatui.store.records import Author, NewTurn, ReplyUpdate, StoredMessage, UpdateResult
from chatui.store.store import Store
from tests.fakes import FakeBackend, Hold

WORDS = [f"word{number} " for number in range(30)]


def turn(question: str | None = "What?", prefix: str = "", **where: Any) -> NewTurn:
    author = Author("m", "r", "Be brief.", GenerationSettings(), seed=7, prefix=prefix)
    return NewTurn(where.get("conversation"), where.get("parent"), question, author, PRESETS[0])


async def final_content(running_reply: RunningReply) -> str:
    """What a listener has at the end."""
    content = ""
    async for _ in running_reply.changes():
        content = running_reply.as_message().content
    return running_reply.as_message().content if running_reply.saved else content


def stored_reply(runner: Runner, running_reply: RunningReply, owner: str = "a") -> StoredMessage:
    return runner.owner_store(owner).message(running_reply.message.id)


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    runner = Runner(FakeBackend(WORDS), Store.in_memory(), Store.in_memory())
    yield runner
    await runner.close()


async def test_a_reply_is_kept_to_its_end_though_nobody_listens(runner: Runner) -> None:
    running_reply = await runner.start_reply("a", turn())
    while not running_reply.saved:
        await asyncio.sleep(0.01)
    message = stored_reply(runner, running_reply)
    assert (message.content, message.state) == ("".join(WORDS), "finished")
    assert message.finish is not None
    assert runner.running_reply("a", running_reply.message.id) is None


async def test_the_inspection_of_a_reply_that_has_just_ended_is_waited_for(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, may_save = runner.persistent_store.update_replies, threading.Event()

    def save_later(updates: list[ReplyUpdate]) -> list[UpdateResult]:
        if any(update.state != "running" for update in updates):
            assert may_save.wait(60)
        return save(updates)

    monkeypatch.setattr(runner.persistent_store, "update_replies", save_later)
    running_reply = await runner.start_reply("a", turn())
    await runner.wait_until_saved("a", running_reply.message.id)  # it still runs: there is nothing to wait for
    assert running_reply.task is not None
    await running_reply.task
    waiting = asyncio.create_task(runner.wait_until_saved("a", running_reply.message.id))
    await asyncio.sleep(0)
    assert runner.owner_store("a").inspection(running_reply.message.id) is None
    assert not waiting.done()
    may_save.set()
    await waiting
    assert runner.owner_store("a").inspection(running_reply.message.id) is not None
    await runner.wait_until_saved("b", running_reply.message.id)


@pytest.mark.parametrize("temporary", [False, True])
async def test_who_is_turned_away_leaves_nothing(runner: Runner, temporary: bool) -> None:
    first = await runner.start_reply("a", turn(), temporary)
    await final_content(first)
    runner.backend = backend = FakeBackend(WORDS)
    backend.full = OverloadError("9 requests are waiting already.", "Try again in a while.")
    more = NewTurn(first.conversation.id, first.message.id, "And?", first.author, PRESETS[0])
    for asked in (turn(), more):
        with pytest.raises(OverloadError, match="9 requests"):
            await runner.start_reply("a", asked, temporary)
    owner_store = runner.owner_store("a", temporary)
    assert [(tree.conversation.id, len(tree.messages)) for tree in owner_store.trees()] == [(first.conversation.id, 2)]
    assert owner_store.conversation(first.conversation.id).leaf == first.message.id
    assert backend.requests == []


async def test_a_place_is_given_back_where_the_store_refuses(runner: Runner) -> None:
    runner.backend = backend = FakeBackend(WORDS)
    with pytest.raises(NotFoundError):
        await runner.start_reply("a", NewTurn("missing", None, "Hello?", turn().author, PRESETS[0]))
    assert (backend.admitted, backend.released_tickets) == (["a"], ["a"])


async def test_of_many_that_come_at_once_those_turned_away_leave_nothing(runner: Runner) -> None:
    runner.backend = engine = LocalBackend(ModelSpec("none"), Path(), max_waiting=8)
    asked = [runner.start_reply("a", turn()) for _ in range(12)]
    done = await asyncio.gather(*asked, return_exceptions=True)
    running_replies = [running_reply for running_reply in done if isinstance(running_reply, RunningReply)]
    assert {type(other) for other in done if other not in running_replies} == {OverloadError}
    assert len(running_replies) == 6
    assert len(runner.owner_store("a").conversations()) == 6
    for running_reply in running_replies:
        await runner.stop("a", running_reply.conversation.id)
    assert engine.queue.tickets == {}
    assert len(engine.queue.waiting) == 0


async def test_all_listeners_hear_the_same_also_late_ones(runner: Runner) -> None:
    running_reply = await runner.start_reply("a", turn())
    readers = [asyncio.create_task(final_content(running_reply)) for _ in range(2)]
    while len(running_reply.progress.text) < 60:
        await asyncio.sleep(0.005)
    late = asyncio.create_task(final_content(running_reply))
    assert set(await asyncio.gather(*readers, late)) == {"".join(WORDS)}


async def test_text_is_kept_while_it_grows(runner: Runner) -> None:
    hold = Hold()
    runner.backend = FakeBackend(["one ", "two ", hold, "three"])
    running_reply = await runner.start_reply("a", turn())
    async with asyncio.timeout(60):
        while stored_reply(runner, running_reply).content != "one two ":
            await asyncio.sleep(0.05)
    assert stored_reply(runner, running_reply).state == "running"
    hold.release()
    assert await final_content(running_reply) == "one two three"


async def test_stop_keeps_what_was_written_and_frees_the_model(runner: Runner) -> None:
    runner.backend = backend = FakeBackend(["one ", Hold()])
    running_reply = await runner.start_reply("a", turn())
    while not running_reply.progress.text:
        await asyncio.sleep(0.01)
    await runner.stop("b", running_reply.conversation.id)
    assert running_reply.state == "running"
    await runner.stop("a", running_reply.conversation.id)
    assert (stored_reply(runner, running_reply).content, stored_reply(runner, running_reply).state) == (
        "one ",
        "stopped",
    )
    assert (backend.running, backend.cancelled) == (0, 1)


@pytest.mark.parametrize("stopped", [False, True])
async def test_how_it_came_about_is_kept_with_its_end(runner: Runner, stopped: bool) -> None:
    if stopped:
        runner.backend = FakeBackend([*WORDS[:10], Hold()])
    running_reply = await runner.start_reply("a", turn())
    while stopped and running_reply.progress.text != "".join(WORDS[:10]):
        await asyncio.sleep(0.005)
    if stopped:
        await runner.stop("a", running_reply.conversation.id)
    await final_content(running_reply)
    found = runner.owner_store("a").inspection(running_reply.message.id)
    inspection = Inspection.unpacked(found.data) if found is not None else None
    assert inspection is not None
    assert inspection.prompt == running_reply.progress.prompt
    assert inspection.finish is not None
    assert inspection.finish.reason == ("cancelled" if stopped else "stop_token")
    assert inspection.finish.completion_tokens == running_reply.progress.tokens
    assert "".join(inspection.texts[token] for token in inspection.traces.chosen_ids) == running_reply.progress.text
    assert len(inspection.traces) == running_reply.progress.tokens == len(running_reply.progress.text.split())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")
async def test_keeping_comes_after_the_model_and_nothing_else_does(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    priorities: list[int] = []

    def packed(_: Inspection) -> bytes:
        priorities.append(niceness())
        return b""

    monkeypatch.setattr(Inspection, "packed", packed)
    before = niceness()
    for _ in range(2):
        await final_content(await runner.start_reply("a", turn()))
    assert priorities == [max(before, priority.ASIDE)] * 2
    assert before == niceness() == await asyncio.to_thread(niceness)


async def test_a_reply_whose_making_cannot_be_told_is_kept_all_the_same(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inspection, "packed", lambda _: 1 / 0)
    running_reply = await runner.start_reply("a", turn())
    assert await final_content(running_reply) == "".join(WORDS)
    assert stored_reply(runner, running_reply).state == "finished"
    assert runner.owner_store("a").inspection(running_reply.message.id) is None


async def test_nothing_is_told_where_nobody_wants_it() -> None:
    runner = Runner(FakeBackend(WORDS), Store.in_memory(), Store.in_memory(), inspect=False)
    running_reply = await runner.start_reply("a", turn())
    await final_content(running_reply)
    assert runner.owner_store("a").inspection(running_reply.message.id) is None
    assert not any(request.trace for request in runner.backend.requests)  # type: ignore[attr-defined]
    await runner.close()


async def test_a_reply_stopped_before_it_began_ends_too(runner: Runner) -> None:
    running_reply = await runner.start_reply("a", turn())
    async with asyncio.timeout(60):
        await runner.stop("a", running_reply.conversation.id)
    assert stored_reply(runner, running_reply).state == "stopped"


@pytest.mark.parametrize("error", [GenerationError("Bad.", "Mend it."), ValueError("inside")])
async def test_a_failure_is_kept_with_what_was_written(runner: Runner, error: Exception) -> None:
    runner.backend = FakeBackend(["half ", error])
    running_reply = await runner.start_reply("a", turn())
    await final_content(running_reply)
    message = stored_reply(runner, running_reply)
    assert (message.content, message.state) == ("half ", "failed")
    assert "inside" not in message.error
    assert len(message.error.split("\n")) == 2


async def test_another_owner_has_no_part_in_it(runner: Runner) -> None:
    running_reply = await runner.start_reply("a", turn())
    assert runner.running_reply("b", running_reply.message.id) is None
    assert runner.running_replies("b", running_reply.conversation.id) == []
    with pytest.raises(NotFoundError):
        await runner.start_reply(
            "b", turn("More?", conversation=running_reply.conversation.id, parent=running_reply.message.id)
        )


async def test_two_owners_may_have_a_reply_of_the_same_id(runner: Runner) -> None:
    runner.backend = FakeBackend(["one ", Hold(), "two"])
    asked = replace(turn(), id="f" * 32)
    first, second = [await runner.start_reply(owner, asked) for owner in ("a", "b")]
    assert (runner.running_reply("a", asked.id or ""), runner.running_reply("b", asked.id or "")) == (first, second)
    while not (first.progress.text and second.progress.text):
        await asyncio.sleep(0.01)
    runner.owner_store("a").request_stop(first.conversation.id)  # as another server does
    runner._on_notification(Notification("stop", frozenset({first.message.id})))
    assert await final_content(first) == "one "
    assert (first.state, second.state) == ("stopped", "running")
    await runner.stop("b", second.conversation.id)
    for owner, reply in (("a", first), ("b", second)):
        assert (stored_reply(runner, reply, owner).content, stored_reply(runner, reply, owner).state) == (
            "one ",
            "stopped",
        )


async def test_the_backend_gets_the_path_the_prompt_and_the_seed(runner: Runner) -> None:
    runner.backend = backend = FakeBackend(["first"], ["second"])
    first = await runner.start_reply("a", turn())
    await final_content(first)
    await final_content(
        await runner.start_reply("a", turn("More?", conversation=first.conversation.id, parent=first.message.id))
    )
    messages = [(message.role, message.content) for message in backend.requests[1].messages]
    assert messages == [("system", "Be brief."), ("user", "What?"), ("assistant", "first"), ("user", "More?")]
    assert backend.requests[1].settings.seed == 7
    assert backend.requests[1].user == "a"


async def test_what_stands_within_the_conversation_keeps_its_place_from_the_end(runner: Runner) -> None:
    runner.backend = backend = FakeBackend(["one"], ["two"])
    insertions = (Insertion(9, "first"), Insertion(2, "deep"), Insertion(0, "last"))

    def asked(question: str, **where: Any) -> NewTurn:
        plain = turn(question, "So", **where)
        return replace(plain, author=replace(plain.author, insertions=insertions))

    first = await runner.start_reply("a", asked("What?"))
    await final_content(first)
    await final_content(
        await runner.start_reply("a", asked("More?", conversation=first.conversation.id, parent=first.message.id))
    )
    sent = [[message.content for message in request.messages] for request in backend.requests]
    assert sent[0] == ["Be brief.", "first", "deep", "What?", "last", "So"]
    assert sent[1] == ["Be brief.", "first", "What?", "deep", "Soone", "More?", "last", "So"]
    roles = [message.role for message in backend.requests[1].messages]
    assert roles == ["system", "system", "user", "system", "assistant", "user", "system", "assistant"]
    kept = runner.owner_store("a").message(first.message.id).author
    assert kept is not None
    assert kept.insertions == insertions


async def test_the_path_that_is_read_ahead_is_the_one_that_is_sent(runner: Runner) -> None:
    runner.backend = backend = FakeBackend(["one"], ["two"])
    first = await runner.start_reply("a", turn())
    await final_content(first)
    ahead = await runner.read_path("a", first.conversation.id, first.message.id)
    await final_content(
        await runner.start_reply("a", turn("More?", conversation=first.conversation.id, parent=first.message.id))
    )
    assert [message.content for message in ahead.messages] == ["What?", "one"]
    assert [message.content for message in backend.requests[1].messages[1:-1]] == ["What?", "one"]
    with pytest.raises(NotFoundError):
        await runner.read_path("b", first.conversation.id)


async def test_of_a_long_conversation_only_what_the_model_can_read_is_read(runner: Runner) -> None:
    runner.backend = backend = FakeBackend(["one"], ["two"])
    assert backend.status.info is not None
    backend.status = replace(backend.status, info=replace(backend.status.info, context_length=2))
    first = await runner.start_reply("a", turn("x" * 100))
    await final_content(first)
    second = await runner.start_reply("a", turn("More?", conversation=first.conversation.id, parent=first.message.id))
    await final_content(second)
    assert runner.max_read_characters == 64
    assert [message.content for message in backend.requests[1].messages] == ["Be brief.", "one", "More?"]
    assert second.earlier_messages == 1
    assert second.progress.dropped == 1
    assert second.progress.prompt is not None
    assert second.progress.prompt.dropped == 1
    assert stored_reply(runner, second).dropped == 1


async def test_a_reply_that_goes_on_keeps_its_beginning(runner: Runner) -> None:
    runner.backend = backend = FakeBackend(["the end"])
    first = await runner.start_reply("a", turn())
    await final_content(first)
    again = turn(None, "Once ", conversation=first.conversation.id, parent=first.message.parent)
    running_reply = await runner.start_reply("a", again)
    assert await final_content(running_reply) == "Once the end"
    assert stored_reply(runner, running_reply).content == "Once the end"
    assert stored_reply(runner, running_reply).versions == (first.message.id, running_reply.message.id)
    last = backend.requests[-1].messages[-1]
    assert (last.role, last.content) == ("assistant", "Once ")


async def test_closing_marks_what_was_being_written() -> None:
    runner = Runner(FakeBackend(["one ", Hold()]), Store.in_memory(), Store.in_memory())
    running_reply = await runner.start_reply("a", turn())
    while not running_reply.progress.text:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(60):
        await runner.close()
    assert (stored_reply(runner, running_reply).content, stored_reply(runner, running_reply).state) == (
        "one ",
        "interrupted",
    )


async def test_closing_waits_for_replies_that_end_in_time() -> None:
    hold = Hold()
    closing = Runner(FakeBackend(["one ", hold, "two "]), Store.in_memory(), Store.in_memory())
    kept = await closing.start_reply("a", turn())
    while not kept.progress.text:
        await asyncio.sleep(0.01)
    closed = asyncio.create_task(closing.close(60.0))
    await asyncio.sleep(0)
    assert not closed.done()
    hold.release()
    await closed
    assert (stored_reply(closing, kept).content, stored_reply(closing, kept).state) == ("one two ", "finished")
    late = Runner(FakeBackend(["one ", Hold()]), Store.in_memory(), Store.in_memory())
    cut = await late.start_reply("a", turn())
    await late.close(0.05)
    assert stored_reply(late, cut).state == "interrupted"


async def test_closing_waits_for_no_temporary_chat() -> None:
    runner = Runner(FakeBackend(["one ", Hold()]), Store.in_memory(), Store.in_memory())
    await runner.start_reply("a", turn(), temporary=True)
    async with asyncio.timeout(60):
        await runner.close(1e9)


async def test_replies_that_lost_their_server_are_marked(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = runner.persistent_store.for_owner("a").start_turn(turn()).reply
    monkeypatch.setattr("chatui.runner.LEASE_TIMEOUT", timedelta(seconds=-1))
    monkeypatch.setattr("chatui.runner.SWEEP_SECONDS", 0.05)
    runner.start()
    async with asyncio.timeout(60):
        while runner.owner_store("a").message(lost.id).state == "running":
            await asyncio.sleep(0.01)
    assert runner.owner_store("a").message(lost.id).state == "interrupted"


async def test_what_is_written_here_is_never_taken_for_lost(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a clock that says that nothing was heard of it for long, as after a laptop slept."""
    monkeypatch.setattr("chatui.runner.SWEEP_SECONDS", 0.0)
    hold = Hold()
    runner.backend = FakeBackend([hold, "done"])
    running_reply = await runner.start_reply("a", turn())
    monkeypatch.setattr("chatui.runner.LEASE_TIMEOUT", timedelta(seconds=-60))
    looks = 0
    silent = runner.persistent_store.stale_replies

    def looked(stale_for: timedelta) -> Any:
        nonlocal looks
        looks += 1
        return silent(stale_for)

    monkeypatch.setattr(runner.persistent_store, "stale_replies", looked)
    async with asyncio.timeout(60):
        while looks < 5:
            await asyncio.sleep(0.01)
    assert stored_reply(runner, running_reply).state == "running"
    hold.release()
    assert await final_content(running_reply) == "done"


@pytest.mark.parametrize("error", [StoreError("The disk is full.", "Make room."), RuntimeError("inside")])
async def test_a_store_that_refuses_is_told_and_tried_again(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_: object) -> None:
        raise error

    runner.backend = FakeBackend([ReplyDelta(text="all of it", tokens=1)])
    with monkeypatch.context() as broken:
        broken.setattr(runner.persistent_store, "update_replies", refuse)
        running_reply = await runner.start_reply("a", turn())
        async with asyncio.timeout(60):
            async for _ in running_reply.changes():
                pass
            await runner.stop("a", running_reply.conversation.id)  # does not wait for what does not come
        assert isinstance(running_reply.save_error, ChatError)
        assert "inside" not in str(running_reply.save_error)
        assert not running_reply.saved
    async with asyncio.timeout(60):
        while not running_reply.saved:
            await asyncio.sleep(0.05)
    assert stored_reply(runner, running_reply).content == "all of it"
    assert running_reply.save_error is None


async def test_temporary_chats_are_not_in_the_store_on_disk(runner: Runner) -> None:
    running_reply = await runner.start_reply("a", turn(), temporary=True)
    await final_content(running_reply)
    assert runner.owner_store("a").conversations() == []
    assert runner.owner_store("a", temporary=True).message(running_reply.message.id).content == "".join(WORDS)
