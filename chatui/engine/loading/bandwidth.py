"""How fast this device reads its memory: the ceiling for a model whose weights are read once for each token."""

import functools
import time

import torch

from chatui.ending_thread import run_in_ending_thread
from chatui.engine.kernels.threads import one_thread

MIN_PART_BYTES, MAX_PART_BYTES = 64 * 2**20, 256 * 2**20
"""Bytes of the buffer that is read. More than the largest takes longer to fill, and is read no faster."""
PART = 16 * 2**20
TIMES = 10
MAX_SECONDS = 0.1
"""Seconds for reading with one thread, and with all."""
# To start an operation and hear of its end takes a GPU as long as reading some 50 MB.
PASSES_ON_GPU = 20


def measure_bandwidth(device: torch.device, size: int) -> float:
    """Bytes per second, at best, of reading as much as one token does: `size` bytes. Measured once in a process.

    The buffer is about as large, so that as much of it stays in the processor's caches. The best time of each of its
    parts counts, so that it matters little what else the machine does meanwhile. Takes 0.2 s.
    """
    return _measured(device, min(MAX_PART_BYTES, max(MIN_PART_BYTES, size)))


@functools.cache
def _measured(device: torch.device, size: int) -> float:
    if device.type == "cpu":
        return run_in_ending_thread(lambda: _measured_on_cpu(size))
    numbers = torch.ones(size // 4, device=device, dtype=torch.float32)
    return size / min(_seconds(numbers, PASSES_ON_GPU) for _ in range(TIMES))


def _measured_on_cpu(size: int) -> float:
    numbers = torch.ones(size // 4, dtype=torch.float32)
    best = _best(numbers)
    # Threads wait for each other, so on a busy machine one alone is faster.
    with one_thread():
        alone = _best(numbers)
    return size / sum(map(min, best, alone))


def _best(numbers: torch.Tensor) -> list[float]:
    """Seconds that each part takes at best, of some passes over all."""
    parts = torch.split(numbers, PART // 4)
    best, end = [float("inf")] * len(parts), time.perf_counter() + MAX_SECONDS
    for _ in range(TIMES):
        best = [min(known, _seconds(part)) for known, part in zip(best, parts, strict=True)]
        if time.perf_counter() > end:
            break
    return best


def _seconds(numbers: torch.Tensor, passes: int = 1) -> float:
    """What it takes to look for the largest number.

    Of PyTorch's operations that only read, this is the fastest on a CPU: a sum takes up to a fifth longer, a product
    with a matrix twice as long.
    """
    start = time.perf_counter()
    for _ in range(passes):
        largest = numbers.amax()
    largest.item()
    return (time.perf_counter() - start) / passes
