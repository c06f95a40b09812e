"""Whoever waits to write gets a turn, whatever somebody else still has to write."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from chatui.errors import StoreError
from chatui.settings import AppSettings
from chatui.store import database
from chatui.store.database import FairLock
from chatui.store.store import Store
from tests.databases import Server, ask

pytest_plugins = ("tests.databases",)


def while_another_adds(store: Store, once: Callable[[], None]) -> list[int]:
    """How many transactions of a thread that adds without a pause come between asking for a turn and having it."""
    added, over, started = 0, threading.Event(), threading.Event()

    def add() -> None:
        nonlocal added
        while not over.is_set():
            with store.database.maintaining() as connection:
                connection.exec_driver_sql("SELECT 1")
            added += 1
            started.set()

    adding = threading.Thread(target=add)
    adding.start()
    started.wait(10)
    between = []
    for _ in range(50):
        before = added
        once()
        between.append(added - before)
    over.set()
    adding.join()
    return between


def test_a_writer_waits_for_no_more_than_who_came_before() -> None:
    store = Store.in_memory()

    def write() -> None:
        with store.database.maintaining() as connection:
            connection.exec_driver_sql("SELECT 1")

    between = sorted(while_another_adds(store, write))
    assert between[len(between) // 2] <= 3  # in half of all cases; a thread may be slow to ask or to go on
    store.close()


def test_the_lock_is_acquired_in_the_order_of_the_requests() -> None:
    lock, order = FairLock(), list[int]()
    threads = []
    with lock:
        for number in range(5):

            def take(number: int = number) -> None:
                with lock:
                    order.append(number)

            threads.append(threading.Thread(target=take))
            threads[-1].start()
            while len(lock._waiting) <= number:
                pass
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_server_that_is_paused_in_a_transaction_holds_up_no_other_for_long(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MAX_IDLE_SECONDS", 0.2)
    settings = AppSettings(data_dir=tmp_path, database_url=postgresql.migrated())
    paused, other = Store.open(settings), Store.open(settings)
    paused.for_owner("a").start_turn(ask("What?"), "a lease")
    swept = list[int]()

    def pause_until_the_other_goes_on() -> None:
        with ThreadPoolExecutor(1) as thread, paused.database.maintaining() as connection:
            connection.exec_driver_sql("UPDATE messages SET content = 'half' WHERE state = 'running'")
            swept.append(thread.submit(other.interrupt_stale, timedelta(seconds=-60)).result(60))

    with pytest.raises(StoreError):
        pause_until_the_other_goes_on()
    assert swept == [1]
    for store in (paused, other):
        store.close()
