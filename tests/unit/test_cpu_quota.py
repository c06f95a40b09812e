"""Threads follow the CPU quota of a container, by either version of Linux's control groups."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from chatui.engine.loading import cpu_quota

V1 = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/of/the/host\n", {"cpu.max": "300000 100000\n"}, 3.0),
        (
            V1,
            {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000", "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000"},
            2.5,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"}, 2.0),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (V1, {"memory/docker/abc/cpu.max": "100000 100000"}, None),
        ("", {"cpu.max": "nonsense"}, None),
        ("", {"cpu.max": "1 0"}, None),
    ],
)
def test_the_least_that_any_group_grants_counts(
    tmp_path: Path, membership: str, files: dict[str, str], expected: float | None
) -> None:
    file = tmp_path / "membership"
    file.write_text(membership)
    assert cpu_quota.cpu_quota(file, write(tmp_path / "root", files)) == expected


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota.cpu_quota(tmp_path / "none", tmp_path / "nothing") is None


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("granted", "threads"), [("1", 1), ("0.2", 1), ("1.5", 2), ("3", 3), ("8", 4), ("max", 4)])
def test_threads_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granted: str, threads: int) -> None:
    quota = "max" if granted == "max" else str(int(float(granted) * 100_000))
    monkeypatch.setattr(cpu_quota, "CGROUPS", write(tmp_path, {"cpu.max": f"{quota} 100000"}))
    cpu_quota.follow_cpu_quota()
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("four_threads")
def test_a_number_that_was_chosen_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_quota, "CGROUPS", write(tmp_path, {"cpu.max": "100000 100000"}))
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    cpu_quota.follow_cpu_quota()
    assert torch.get_num_threads() == 4
