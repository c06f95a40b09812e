import os
from types import SimpleNamespace

import psutil
import pytest
import torch

from chatui.engine.batching import free_cores
from chatui.engine.batching.free_cores import MAX_PERIOD_SECONDS, PERIOD_SECONDS, FreeCores, use_threads


class Machine:
    """Cores that this process and others use to some extent."""

    def __init__(self, cores: int, told: bool = True) -> None:
        self.cores, self.now, self.own, self.idle = cores, 100.0, 5.0, 7.0
        self.free_cores = FreeCores(lambda: self.now, lambda: self.own, lambda: self.idle, cores if told else None)

    def passes(self, seconds: float, own: float, others: float) -> None:
        self.now += seconds
        self.own += own * seconds
        self.idle += (self.cores - own - others) * seconds


@pytest.mark.parametrize(
    ("cores", "limit", "others", "threads"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),
        (2, 2, 0.6, 1),
        (2, 2, 1.0, 1),
        (2, 2, 2.0, 1),
        (8, 8, 0.05, 8),
        (8, 8, 0.2, 7),
        (8, 8, 1.0, 7),
        (8, 8, 2.5, 5),
        (8, 8, 8.0, 1),
        (8, 4, 3.0, 4),
        (8, 4, 5.0, 3),
        (64, 2, 40.0, 2),
    ],
)
def test_a_thread_has_a_core_of_its_own(cores: int, limit: int, others: float, threads: int) -> None:
    machine = Machine(cores)
    assert machine.free_cores.threads(limit) == limit
    machine.passes(PERIOD_SECONDS, own=min(limit, cores - others), others=others)
    assert machine.free_cores.threads(limit) == threads
    machine.passes(PERIOD_SECONDS, own=limit, others=0)
    assert machine.free_cores.threads(limit) == limit


@pytest.mark.parametrize(("allowed", "physical", "threads"), [(2, 16, 1), (2, 2, 1), (4, 2, 1), (16, 16, 2)])
def test_cores_that_this_process_is_kept_from_are_not_free(
    monkeypatch: pytest.MonkeyPatch, allowed: int, physical: int, threads: int
) -> None:
    monkeypatch.setattr(free_cores, "_allowed", lambda: list(range(allowed)))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else physical)
    machine = Machine(allowed, told=False)
    machine.free_cores.threads(2)
    machine.passes(PERIOD_SECONDS, own=0, others=1)
    assert machine.free_cores.threads(2) == threads


def test_a_moment_says_nothing_and_neither_does_a_long_rest() -> None:
    machine = Machine(2)
    machine.free_cores.threads(2)
    machine.passes(PERIOD_SECONDS / 2, own=0, others=2)
    assert machine.free_cores.threads(2) == 2
    machine.passes(PERIOD_SECONDS / 2, own=0, others=2)
    assert machine.free_cores.threads(2) == 1
    machine.passes(2 * MAX_PERIOD_SECONDS, own=0, others=2)
    assert machine.free_cores.threads(2) == 2


def test_only_the_cores_of_this_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [SimpleNamespace(idle=float(core), iowait=4000.0) for core in range(3)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: times if percpu else None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2}, raising=False)
    assert free_cores._idle_seconds() == 8003


def test_this_machine_is_measured() -> None:
    before = torch.get_num_threads()
    assert 1 <= FreeCores().threads(before) <= before
    with use_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
