"""Imports are shown while they run, can be cancelled, and leave whole conversations only."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from chatui import i18n
from chatui.errors import ChatError, StoreError, TransferError
from chatui.store import import_merge
from chatui.store.notifications import ChatChange, Notification, digest
from chatui.store.owner_store import OwnerStore
from chatui.store.records import MergeResult, Tree
from chatui.store.store import Store
from chatui.ui.chat.list_events import ListEvents
from chatui.ui.gradio_compat import request_context
from chatui.ui.sidebar import import_tasks
from chatui.ui.sidebar.import_tasks import ImportTask, ImportTasks
from tests.integration.test_import_merge import long_chat

COUNT = 5


class Gated:
    """An owner's store in front of which an import stands until it is let on, one conversation at a time."""

    def __init__(self, owner_store: OwnerStore) -> None:
        self.owner_store, self.stands, self._on = owner_store, threading.Event(), threading.Semaphore(0)

    def merge_tree(self, tree: Tree, should_continue: Callable[[], bool]) -> MergeResult | None:
        self.stands.set()
        self._on.acquire()
        return self.owner_store.merge_tree(tree, should_continue)

    def let_on(self, count: int) -> None:
        self._on.release(count)


@pytest.fixture
def owner_store() -> OwnerStore:
    return Store.in_memory().for_owner("ann")


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_tasks, "POLL_SECONDS", 0.01)


def upload(tmp_path: Path, *values: Any) -> str:
    file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
    chats = [long_chat(4) | {"conversation_id": str(number)} for number in range(COUNT)]
    file.write_text(json.dumps([*chats, *values]))
    return str(file)


async def until(steps: AsyncGenerator[None], state: Callable[[], object]) -> None:
    async for _ in steps:
        if state():
            return


async def to_the_end(imports: ImportTasks, coming: ImportTask, owner: str = "ann") -> None:
    async with asyncio.timeout(60):
        async for _ in imports.run(owner, coming):
            pass


async def left_to_itself(imports: ImportTasks) -> None:
    async with asyncio.timeout(60):
        while imports._tasks or imports._running:
            await asyncio.sleep(0.01)


async def test_it_says_how_far_it_has_come_and_what_came_of_it(owner_store: OwnerStore, tmp_path: Path) -> None:
    gated, imports = Gated(owner_store), ImportTasks()
    coming = ImportTask(gated, upload(tmp_path, {"title": "What is this?"}))  # type: ignore[arg-type]
    assert coming.progress() == "Waiting for other imports to end …"
    async with asyncio.timeout(60), contextlib.aclosing(imports.run("ann", coming)) as steps:
        await until(steps, gated.stands.is_set)
        assert coming.progress() == "0 of 6 conversations"
        gated.let_on(3)
        await until(steps, lambda: coming.done == 3)
        assert coming.progress() == "3 of 6 conversations"
        with i18n.use_language("de"):
            assert coming.progress() == "3 von 6 Unterhaltungen"
        gated.let_on(COUNT)
        await until(steps, lambda: False)
    assert coming.summary() == "Conversations imported: 5."
    assert coming.skipped_items().splitlines()[1].startswith("“What is this?”: ")
    assert list(tmp_path.iterdir()) == []
    await to_the_end(imports, again := ImportTask(owner_store, upload(tmp_path)))
    assert again.summary() == "Here already: 5."
    assert again.skipped_items() == ""


async def test_the_tab_that_imports_shows_what_comes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, told = Store.in_memory(), list[Notification]()
    store.notifications.start()
    store.notifications.subscribe(told.append)
    monkeypatch.setattr(request_context, "tab", lambda: "tab")
    monkeypatch.setattr(request_context, "owner", lambda: "ann")
    monkeypatch.setattr(request_context, "owner_before_login", lambda: None)
    sidebar = SimpleNamespace(list=0, import_status=1, progress=2, render_list=AsyncMock())
    runner = SimpleNamespace(persistent_store=store, owner_store=lambda owner, _=False: store.for_owner(owner))
    events = ListEvents(runner, SimpleNamespace(sidebar=sidebar, refreshed=3), None)  # type: ignore[arg-type]
    async for _ in events.import_chats(upload(tmp_path), None, None):
        pass
    await asyncio.sleep(0)
    changes = [ChatChange.from_id(id) for notification in told for id in notification.ids]
    assert [change and change.origin for change in changes] == COUNT * [digest("tab")]


async def test_cancel_keeps_what_is_whole_and_says_how_many(
    owner_store: OwnerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_merge, "BATCH_MESSAGES", 1)
    monkeypatch.setattr(import_merge, "TRANSACTION_SECONDS", 0)
    gated, imports = Gated(owner_store), ImportTasks()
    coming = ImportTask(gated, upload(tmp_path))  # type: ignore[arg-type]
    async with asyncio.timeout(60), contextlib.aclosing(imports.run("ann", coming)) as steps:
        gated.let_on(2)
        await until(steps, lambda: coming.done == 2)
        pauses = iter([None, None])

        def cancelled_after_two_pieces() -> None:
            if next(pauses, imports) is imports:
                imports.cancel("ann")

        monkeypatch.setattr(import_merge, "pause", cancelled_after_two_pieces)
        gated.let_on(COUNT)
        await until(steps, lambda: False)
    assert coming.summary() == "The import was cancelled; what was whole by then is here. Conversations imported: 2."
    assert [len(tree.messages) for tree in owner_store.trees()] == [4, 4]
    assert owner_store.deleted() == []
    assert list(tmp_path.iterdir()) == []
    imports.cancel("ann")  # nothing is there to cancel any more


async def test_a_closed_tab_ends_its_import_and_leaves_whole_conversations(
    owner_store: OwnerStore, tmp_path: Path
) -> None:
    gated, imports = Gated(owner_store), ImportTasks()
    coming = ImportTask(gated, upload(tmp_path))  # type: ignore[arg-type]
    steps = imports.run("ann", coming)
    gated.let_on(2)
    async with asyncio.timeout(60):
        await until(steps, lambda: coming.done == 2)
        await steps.aclose()
    gated.let_on(COUNT)
    await left_to_itself(imports)
    assert [len(tree.messages) for tree in owner_store.trees()] == [4, 4]
    assert list(tmp_path.iterdir()) == []


async def test_nobody_hears_any_more(owner_store: OwnerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gated, imports = Gated(owner_store), ImportTasks()
    coming = ImportTask(gated, upload(tmp_path))  # type: ignore[arg-type]
    monkeypatch.setattr(request_context, "is_abandoned", gated.stands.is_set)
    await to_the_end(imports, coming)
    assert coming.cancelled
    gated.let_on(COUNT)
    await left_to_itself(imports)
    assert owner_store.conversations() == []


async def test_an_owner_has_one_import_at_a_time_and_all_together_a_few(
    owner_store: OwnerStore, tmp_path: Path
) -> None:
    gated, imports = Gated(owner_store), ImportTasks()
    names = ["ann", "bob", "cyd"]
    coming = {name: ImportTask(gated, upload(tmp_path)) for name in names}  # type: ignore[arg-type]
    work = {name: asyncio.create_task(to_the_end(imports, coming[name], name)) for name in names}
    async with asyncio.timeout(60):
        while not (coming["ann"].source.total and coming["bob"].source.total):
            await asyncio.sleep(0.01)
        with pytest.raises(ChatError, match="still running"):
            await to_the_end(imports, ImportTask(owner_store, upload(tmp_path)), "bob")
        assert (imports._running, coming["cyd"].started) == (2, False)
        imports.cancel("cyd")
        await work["cyd"]
        gated.let_on(2 * COUNT)
        await asyncio.gather(*work.values())
    assert coming["cyd"].summary() == (
        "The import was cancelled; what was whole by then is here. Conversations imported: 0."
    )
    await left_to_itself(imports)
    assert list(tmp_path.iterdir()) == []


async def test_one_conversation_that_is_refused_does_not_refuse_the_others(
    owner_store: OwnerStore, tmp_path: Path
) -> None:
    class Refusing(Gated):
        def merge_tree(self, tree: Tree, should_continue: Callable[[], bool]) -> MergeResult | None:
            if len(owner_store.conversations()) == 2 and self.stands.is_set():
                self.stands.clear()
                raise TransferError("It was removed while it came in.")
            return owner_store.merge_tree(tree, should_continue)

    refusing = Refusing(owner_store)
    refusing.stands.set()
    await to_the_end(ImportTasks(), coming := ImportTask(refusing, upload(tmp_path)))  # type: ignore[arg-type]
    assert coming.summary() == "Conversations imported: 4."
    assert coming.skipped_items().splitlines()[1].endswith(": It was removed while it came in.")


async def test_a_store_that_fails_ends_it_and_what_came_before_is_told(owner_store: OwnerStore, tmp_path: Path) -> None:
    class Failing(Gated):
        def merge_tree(self, tree: Tree, should_continue: Callable[[], bool]) -> MergeResult | None:
            if len(owner_store.conversations()) == 2:
                raise StoreError("The disk is full.")
            return owner_store.merge_tree(tree, should_continue)

    coming, imports = ImportTask(Failing(owner_store), upload(tmp_path)), ImportTasks()  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        await to_the_end(imports, coming)
    assert coming.summary() == "Conversations imported: 2."
    await left_to_itself(imports)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "message"), [("[]", "There are no conversations"), ("{", "The file is not JSON")])
async def test_what_is_no_file_of_conversations_is_said(
    owner_store: OwnerStore, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(TransferError, match=message):
        await to_the_end(ImportTasks(), ImportTask(owner_store, str(file)))
    with pytest.raises(TransferError, match="did not arrive"):
        await to_the_end(ImportTasks(), ImportTask(owner_store, str(file)))
