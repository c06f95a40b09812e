"""The devices of this machine: their memory, and how fast they read it."""

import torch

from chatui.engine.loading import bandwidth, embedded
from chatui.engine.loading.weights import free_memory, total_memory
from chatui.models.fit import Device, Machine


def machine() -> Machine:
    """The CPU and each CUDA device, with bandwidths for models that do not fit caches. Takes 0.2 s for each."""
    return Machine((*map(_gpu, range(torch.cuda.device_count())), _cpu()), embedded.find())


def _cpu() -> Device:
    device = torch.device("cpu")
    return Device(
        "cpu", free_memory("cpu"), total_memory(device), bandwidth.measure_bandwidth(device, bandwidth.MAX_PART_BYTES)
    )


def _gpu(index: int) -> Device:
    device = torch.device("cuda", index)
    free, total = torch.cuda.mem_get_info(index)
    return Device(str(device), free, total, bandwidth.measure_bandwidth(device, bandwidth.MAX_PART_BYTES))
