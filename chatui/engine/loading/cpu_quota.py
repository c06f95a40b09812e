"""As many threads as a container's CPU quota lets run: more would be stopped for most of each period, all at once."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch

log = logging.getLogger(__name__)

MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def follow_cpu_quota() -> None:
    """Let PyTorch use no more threads than CPUs are granted here, unless OMP_NUM_THREADS says how many.

    PyTorch itself looks at the number of CPUs only.
    """
    cpus = cpu_quota(MEMBERSHIP, CGROUPS)
    if cpus is None or "OMP_NUM_THREADS" in os.environ:
        return
    threads = max(1, round(cpus))
    if threads < torch.get_num_threads():
        log.info("%d threads, for a CPU quota of %.3g", threads, cpus)
        torch.set_num_threads(threads)


def cpu_quota(membership: Path, root: Path) -> float | None:
    """CPUs that this process may use on average, the least that its control groups grant; None without a quota.

    `membership` is a file as /proc/self/cgroup, `root` a folder as /sys/fs/cgroup. Version 2 has `cpu.max`
    (https://docs.kernel.org/admin-guide/cgroup-v2.html), version 1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`
    (https://docs.kernel.org/scheduler/sched-bwc.html).
    """
    quotas = [_quota(folder) for folder in _folders(membership, root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _folders(membership: Path, root: Path) -> Iterator[Path]:
    """The folders of the process's CPU control groups and of all that these are in.

    Inside a container the path may be that of the host, and only the top folder be there.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    yield from (root, root / "cpu", root / "cpu,cpuacct")
    for line in lines:
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        inner = top / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(top))


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        granted = int(quota) / int(period)  # "max" is no number, -1 stands for none
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return granted if granted > 0 else None
