"""What happens to replies while a store fails, hangs or is another server's too."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection

from chatui.errors import ChatError, NotFoundError, StoreError
from chatui.runner import Runner
from chatui.running_reply import RunningReply
from chatui.settings import AppSettings
from chatui.store import reply_updates
from chatui.store.records import ReplyUpdate, UpdateResult
from chatui.store.store import Store
from tests.fakes import FakeBackend, Hold
from tests.unit.test_runner import final_content, stored_reply, turn

FULL = StoreError("The disk is full.", "Make room.")
SILENT = timedelta(seconds=-60)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatui.reply_writer.FLUSH_SECONDS", 0.02)
    monkeypatch.setattr("chatui.reply_writer.RETRY_SECONDS", 0.1)
    monkeypatch.setattr("chatui.reply_writer.STORE_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr("chatui.reply_writer.CLOSE_TIMEOUT_SECONDS", 0.5)


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    runner = Runner(FakeBackend(["all ", "of it"]), Store.in_memory(), Store.in_memory())
    yield runner
    await runner.close()


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[Runner, Runner]]:
    """Two servers on one database."""
    settings = AppSettings(data_dir=tmp_path)
    pair = [Runner(FakeBackend(["said"]), Store.open(settings), Store.in_memory()) for _ in range(2)]
    for runner in pair:
        runner.start()
    yield pair[0], pair[1]
    for runner in pair:
        await runner.close()
        runner.persistent_store.close()


async def until(happens: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not happens():
            await asyncio.sleep(0.01)


class Broken:
    """Makes a store's writes fail, or hang until it is mended."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
        self.mended = threading.Event()
        self._write, self._hangs = store.update_replies, hangs
        monkeypatch.setattr(store, "update_replies", self.write)

    def write(self, progress: Sequence[ReplyUpdate]) -> list[UpdateResult]:
        if not self.mended.is_set():
            if not self._hangs:
                raise FULL
            self.mended.wait(30)
        return self._write(progress)


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
async def test_a_main_store_that_fails_holds_up_no_temporary_chat(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    broken = Broken(runner.persistent_store, monkeypatch, hangs)
    main = await runner.start_reply("a", turn())
    await until(lambda: main.save_error is not None)
    temporary = await runner.start_reply("b", turn(), temporary=True)
    async with asyncio.timeout(60):
        assert await final_content(temporary) == "all of it"
    await until(lambda: temporary.saved)
    runner.backend = FakeBackend(["more ", Hold()])
    temporary = await runner.start_reply("b", turn(), temporary=True)
    await until(lambda: temporary.progress.text)
    async with asyncio.timeout(60):
        await runner.stop("b", temporary.conversation.id, temporary=True)
        await runner.stop("a", main.conversation.id)
    assert temporary.state == "stopped"
    assert not main.saved
    broken.mended.set()
    await until(lambda: main.saved)
    assert stored_reply(runner, main).content == "all of it"


async def test_closing_waits_only_a_while_for_a_store_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(FakeBackend(["all of it"]), Store.in_memory(), Store.in_memory())
    broken = Broken(runner.persistent_store, monkeypatch, hangs=True)
    await runner.start_reply("a", turn())
    async with asyncio.timeout(60):
        await runner.close()
    broken.mended.set()


@pytest.mark.parametrize("hangs", [False, True], ids=["refuses", "hangs"])
async def test_replies_are_written_on_and_kept_when_the_store_is_back(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    hold, words = Hold(), [f"word{number} " for number in range(100)]
    runner.backend = FakeBackend([*words[:50], hold, *words[50:]])
    running_reply = await runner.start_reply("a", turn())
    await until(lambda: stored_reply(runner, running_reply).content)
    broken = Broken(runner.persistent_store, monkeypatch, hangs)
    hold.release()
    await until(lambda: running_reply.state == "finished")
    await until(lambda: running_reply.save_error)
    assert stored_reply(runner, running_reply).state == "running"
    broken.mended.set()
    await until(lambda: running_reply.saved)
    assert running_reply.save_error is None
    assert stored_reply(runner, running_reply).content == running_reply.progress.text == "".join(words)


async def test_who_listens_until_it_is_kept_hears_of_both(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Broken(runner.persistent_store, monkeypatch, hangs=False)
    running_reply = await runner.start_reply("a", turn())
    errors: list[ChatError | None] = []
    async with asyncio.timeout(60):
        async for _ in running_reply.changes(until_saved=True):
            errors.append(running_reply.save_error)
            if running_reply.save_error is not None and running_reply.state == "finished":
                broken.mended.set()
    assert errors[0] is None
    assert FULL in errors
    assert running_reply.saved


async def test_the_model_reads_what_the_store_does_not_have_yet(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.backend = backend = FakeBackend(["all ", "of it"], ["and more"])
    Broken(runner.persistent_store, monkeypatch, hangs=False)
    running_reply = await runner.start_reply("a", turn())
    await until(lambda: running_reply.save_error and running_reply.state == "finished")
    await runner.start_reply(
        "a", turn("More?", conversation=running_reply.conversation.id, parent=running_reply.message.id)
    )
    await until(lambda: len(backend.requests) == 2)
    assert [message.content for message in backend.requests[1].messages][2:] == ["all of it", "More?"]


async def test_a_bad_row_is_said_at_its_reply_alone(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    real, bad = reply_updates._write_one, True

    def write_one(connection: Connection, one: ReplyUpdate, moment: datetime) -> UpdateResult:
        if bad and one.owner == "b":
            raise FULL
        return real(connection, one, moment)

    monkeypatch.setattr(reply_updates, "_write_one", write_one)
    hold = Hold()
    runner.backend = FakeBackend(["one ", hold, "two"])
    running_replies = {owner: await runner.start_reply(owner, turn()) for owner in "abc"}
    await until(lambda: running_replies["b"].save_error)
    await until(lambda: stored_reply(runner, running_replies["c"], "c").content)
    hold.release()
    await until(lambda: running_replies["a"].saved and running_replies["c"].saved)
    assert [stored_reply(runner, running_replies[owner], owner).content for owner in "abc"] == [
        "one two",
        "",
        "one two",
    ]
    assert not running_replies["b"].saved
    bad = False
    await until(lambda: running_replies["b"].saved)
    assert stored_reply(runner, running_replies["b"], "b").content == "one two"


async def test_an_inspection_that_cannot_be_kept_keeps_no_reply_back(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reply_updates._write_one

    def write_one(connection: Connection, one: ReplyUpdate, moment: datetime) -> UpdateResult:
        if one.inspection is not None and one.owner == "b":
            raise OverflowError("inside")
        return real(connection, one, moment)

    monkeypatch.setattr(reply_updates, "_write_one", write_one)
    running_replies = [await runner.start_reply(owner, turn()) for owner in "ab"]
    await until(lambda: all(running_reply.saved for running_reply in running_replies))
    assert stored_reply(runner, running_replies[1], "b").content == "all of it"


async def test_who_lost_the_lease_stops_and_says_so(runner: Runner) -> None:
    runner.backend = backend = FakeBackend(["one ", Hold()])
    running_reply = await runner.start_reply("a", turn())
    await until(lambda: stored_reply(runner, running_reply).content == "one ")
    assert runner.persistent_store.interrupt_stale(SILENT) == 1
    async with asyncio.timeout(60):
        async for _ in running_reply.changes():
            pass
    await until(lambda: backend.running == 0)
    assert backend.cancelled == 1
    assert runner.running_count == 0
    assert running_reply.as_message().state == "interrupted"
    assert "could not reach the database" in running_reply.as_message().error
    assert running_reply.as_message().content == stored_reply(runner, running_reply).content


async def test_a_reply_of_a_conversation_that_is_gone_ends(runner: Runner) -> None:
    runner.backend = backend = FakeBackend(["one ", Hold()])
    running_reply = await runner.start_reply("a", turn())
    with runner.persistent_store.database.maintaining() as connection:
        connection.exec_driver_sql("DELETE FROM messages WHERE state = 'running'")
    await until(lambda: running_reply.saved and backend.running == 0)
    assert "removed" in running_reply.as_message().error


async def _growing(runner: Runner) -> RunningReply:
    runner.backend = FakeBackend(["one ", Hold()])
    running_reply = await runner.start_reply("a", turn())
    await until(lambda: running_reply.progress.text)
    return running_reply


async def test_stop_on_another_server_stops_it(servers: tuple[Runner, Runner]) -> None:
    one, two = servers
    running_reply = await _growing(one)
    await two.stop("b", running_reply.conversation.id)
    assert running_reply.state == "running"
    async with asyncio.timeout(60):
        await two.stop("a", running_reply.conversation.id)
    assert (stored_reply(two, running_reply).content, stored_reply(two, running_reply).state) == ("one ", "stopped")
    await until(lambda: running_reply.saved and one.backend.running == 0)  # type: ignore[attr-defined]


async def test_delete_on_another_server_stops_it(servers: tuple[Runner, Runner]) -> None:
    one, two = servers
    running_reply = await _growing(one)
    await asyncio.to_thread(two.owner_store("a").delete, running_reply.conversation.id)
    await until(lambda: running_reply.saved and one.backend.running == 0)  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        stored_reply(two, running_reply)
    two.owner_store("a").restore(running_reply.conversation.id)
    assert (stored_reply(two, running_reply).content, stored_reply(two, running_reply).state) == ("one ", "stopped")


async def test_a_server_that_is_gone_is_waited_for_until_it_is_swept(
    servers: tuple[Runner, Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, two = servers
    monkeypatch.setattr("chatui.runner.LEASE_TIMEOUT", timedelta(seconds=0.2))
    monkeypatch.setattr("chatui.runner.SWEEP_SECONDS", 0.1)
    lost = two.persistent_store.for_owner("a").start_turn(turn(), "the lease of nobody any more").reply
    async with asyncio.timeout(60):
        await two.stop("a", lost.conversation)
    assert two.owner_store("a").message(lost.id).state == "interrupted"
