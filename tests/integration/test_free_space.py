"""How much all guests together may take, on every database."""

import secrets
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from sqlalchemy import func, select

from chatui.errors import FullError, LimitError
from chatui.personas import Persona
from chatui.settings import MB, AppSettings
from chatui.store import free_space, quotas
from chatui.store.free_space import SpaceLimits, used_bytes
from chatui.store.owner_store import OwnerStore
from chatui.store.quotas import Quotas
from chatui.store.records import ReplyUpdate, StartedTurn
from chatui.store.store import Store
from chatui.store.tables import conversations
from tests.databases import FINISH, ask

pytest_plugins = ("tests.databases",)
Usage = namedtuple("Usage", "total used free")


def owner_store_of(store: Store, owner: str, **space: int) -> OwnerStore:
    return OwnerStore(store.database, owner, Quotas(space=SpaceLimits(**space)))


def begin_turn(owner_store: OwnerStore, question: str, *more: str) -> StartedTurn:
    return owner_store.start_turn(ask(question, *more))


def begin_guest_turns(store: Store, **space: int) -> int:
    """How many chats are begun until one is refused, each by somebody new."""
    for number in range(100):
        before = count(store, f"guest:{number}")
        try:
            begin_turn(
                OwnerStore(store.database, f"guest:{number}", Quotas(space=SpaceLimits(**space))),
                secrets.token_hex(50_000),
            )
        except LimitError:
            assert count(store, f"guest:{number}") == before == 0
            return number
    return 100


def total_bytes(store: Store) -> int:
    with store.database.reading() as connection:
        return used_bytes(connection)


def answered(store: Store, owner: str, started: StartedTurn) -> None:
    store.update_replies([ReplyUpdate(owner, started.reply.id, "An answer.", "", "finished", FINISH)])


def count(store: Store, owner: str) -> int:
    with store.database.reading() as connection:
        return connection.scalar(select(func.count()).where(conversations.c.owner == owner)) or 0


def test_who_comes_as_somebody_new_each_time_cannot_fill_the_database(store: Store) -> None:
    total = total_bytes(store) + 2_000_000
    assert 3 <= begin_guest_turns(store, total=total) < 40
    with pytest.raises(FullError, match="--max-total-storage") as refused:
        begin_turn(owner_store_of(store, "guest:new", total=total), secrets.token_hex(50_000))
    assert refused.value.status == 507
    begin_turn(owner_store_of(store, "login:ann", total=total), secrets.token_hex(50_000))
    begin_turn(owner_store_of(store, "local", total=total), secrets.token_hex(50_000))
    with pytest.raises(FullError):
        owner_store_of(store, "guest:0", total=total_bytes(store)).save_persona(
            Persona(name="P", system_prompt="x" * 100_000)
        )


def test_chats_that_are_there_go_on_a_while_and_can_always_be_read_and_deleted(store: Store) -> None:
    owner = "guest:a"
    started = begin_turn(owner_store_of(store, owner), "What?")
    answered(store, owner, started)
    full = owner_store_of(store, owner, total=int(total_bytes(store) / 1.1))
    with pytest.raises(FullError):
        begin_turn(full, "Anew?")
    more = begin_turn(full, "More?", started.reply.conversation, started.reply.id)
    answered(store, owner, more)
    assert [message.content for message in full.path(started.reply.conversation)][-1] == "An answer."
    fuller = owner_store_of(store, owner, total=int(total_bytes(store) / 2))
    with pytest.raises(FullError):
        begin_turn(fuller, "Still more?", started.reply.conversation, more.reply.id)
    assert len(fuller.path(started.reply.conversation)) == 4
    fuller.delete(started.reply.conversation)
    assert store.empty_trash(owner) == 1


def test_room_that_was_given_back_is_there_again(tmp_path: Path) -> None:
    store = Store.open(AppSettings(data_dir=tmp_path))
    before = total_bytes(store)
    started = begin_turn(owner_store_of(store, "guest:a"), secrets.token_hex(500_000))
    answered(store, "guest:a", started)
    assert total_bytes(store) > before + 1_000_000
    owner_store_of(store, "guest:a").delete(started.reply.conversation)
    store.empty_trash("guest:a")
    assert total_bytes(store) < before + 300_000
    store.close()


def test_a_disk_that_is_nearly_full_is_left_to_those_who_have_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(AppSettings(data_dir=tmp_path, min_free_disk=100))
    free = 101 * MB
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(10**9, 10**9 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    guest = store.for_owner("guest:a")
    started = begin_turn(guest, "What?")
    assert asked == [tmp_path]
    answered(store, "guest:a", started)
    free = 99 * MB
    with pytest.raises(FullError, match=r"nearly full.*--min-free-disk"):
        begin_turn(guest, "Anew?")
    begin_turn(store.for_owner("login:ann"), "Anew?")
    more = begin_turn(guest, "More?", started.reply.conversation, started.reply.id)
    answered(store, "guest:a", more)
    free = 24 * MB
    with pytest.raises(FullError):
        begin_turn(guest, "Still more?", started.reply.conversation, more.reply.id)
    assert len(guest.path(started.reply.conversation)) == 4
    store.close()


def test_no_limit_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_space, "used_bytes", None)
    monkeypatch.setattr(shutil, "disk_usage", None)
    begin_turn(Store.in_memory(Quotas()).for_owner("guest:a"), "What?")


def test_temporary_chats_of_all_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.in_memory(Quotas.for_temporary_chats(AppSettings()))
    monkeypatch.setattr(quotas, "TEMPORARY_TOTAL", total_bytes(store) + 1_000_000)
    for _ in range(3):
        begin_turn(store.for_owner("guest:a"), secrets.token_hex(50_000))
    monkeypatch.setattr(quotas, "TEMPORARY_TOTAL", total_bytes(store))
    for owner in ("guest:a", "guest:b", "login:ann"):
        with pytest.raises(LimitError, match="temporary chats of all users"):
            begin_turn(store.for_owner(owner), secrets.token_hex(50_000))
