"""The arithmetic of scripts/bench memory."""

import pytest

from scripts.benchmark.memory import BackgroundWork, FirstStart, ProcessMemory, row, sentences
from scripts.benchmark.target import Reply

ROLLUP = """55d5c8f00000-7ffe2a7fe000 ---p 00000000 00:00 0                          [rollup]
Rss:              700000 kB
Pss:              600000 kB
Pss_Anon:         500000 kB
Anonymous:        550000 kB
"""


def reply(milliseconds: float) -> Reply:
    return Reply(0.0, (1.0,), 1.0 + 10 * milliseconds / 1000, "", 5, 11)


def test_memory_is_read_in_megabytes() -> None:
    assert ProcessMemory.parsed(ROLLUP) == pytest.approx(ProcessMemory(716.8, 563.2, 614.4))


def test_a_row_has_medians() -> None:
    found = [ProcessMemory(700, 10, 3), ProcessMemory(1900, 20, 1), ProcessMemory(1702.4, 30, 2)]
    assert row("idle", found) == "| idle | 1,702 | 20 | 2 |"


def test_the_peak_is_that_of_all_processes_at_one_moment() -> None:
    work = BackgroundWork()
    for moment, sizes in enumerate(({1: 300_000_000, 2: 200_000_000}, {1: 400_000_000}, {})):
        work.note(sizes, 1.5 * moment, float(moment))
    assert work == BackgroundWork(500.0, 3.0, 1.0)


def test_what_a_first_start_took() -> None:
    start = FirstStart(20.4, None, BackgroundWork(400.0, 12.34), reply(6.0), reply(5.0))
    assert sentences(start) == (
        "A first start was ready after 20 s. Its processes took 400 MB at most and 12.3 s of processor time. Nothing "
        "was compiled after its first reply. A token took 6.0 ms in the first reply, and 5.0 ms when all was quiet."
    )
    later = FirstStart(20.4, 31.0, BackgroundWork(4000.0, 90.0), reply(6.0), reply(5.0))
    assert "took 4,000 MB at most" in sentences(later)
    assert "The last of them ended 31 s after the first reply." in sentences(later)
