import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from chatui.priority import ASIDE, MODEL, lower_priority


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")
def test_a_thread_stands_back_alone_and_never_comes_forward() -> None:
    before = own()

    def lower() -> list[int]:
        found = []
        for niceness in (MODEL, ASIDE, MODEL):
            lower_priority(niceness)
            found.append(own())
        return found

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lower).result() == [max(before, MODEL), max(before, ASIDE), max(before, ASIDE)]
    assert own() == before


def test_nothing_happens_where_priorities_are_not_a_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = own()
    monkeypatch.setattr(sys, "platform", "win32")
    lower_priority(ASIDE)
    assert own() == before
