"""What runs beside the model leaves no threads of OpenMP behind."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from chatui.ending_thread import run_in_ending_thread
from chatui.engine.loading import bandwidth


def native_threads() -> set[str]:
    """Their ids. Not their number: those of other tests may end meanwhile."""
    return {task.name for task in Path("/proc/self/task").iterdir()}


def more_than(before: set[str]) -> set[str]:
    """The threads that were not there before, once those that end have ended."""
    end = time.monotonic() + 60
    while (more := native_threads() - before) and time.monotonic() < end:
        time.sleep(0.01)
    return more


def busy() -> float:
    """Work for which PyTorch takes all threads."""
    return float(torch.ones(4_000_000).amax())


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the threads")
def test_no_thread_is_left() -> None:
    with ThreadPoolExecutor(1) as server:
        server.submit(bool).result()
        before = native_threads()
        assert server.submit(run_in_ending_thread, busy).result() == 1.0
        assert not more_than(before)
        server.submit(bandwidth._measured, torch.device("cpu"), bandwidth.MIN_PART_BYTES + 4).result()
        assert not more_than(before)
        server.submit(busy).result()
        assert native_threads() - before, "what would be left"


def test_errors_are_those_of_the_function() -> None:
    with pytest.raises(ZeroDivisionError):
        run_in_ending_thread(lambda: 1 // 0)
