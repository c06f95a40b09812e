"""Runs app.py with the real `spaces` package where there is no GPU: what its workers would send to CUDA stays here.

Everything else is real: the decorator, the emulated device of the main process, the forked workers, the pickling.
Runs in a process of its own, in the Space's folder.
"""

import functools
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

# The `spaces` package expects a CUDA build of torch, and asks it in a process of its own about its state.
vars(torch.version)["cuda"] = "12.8"
vars(torch._C).setdefault("_cuda_init", None)
vars(torch.cuda)["_is_in_bad_fork"] = functools.partial(bool, False)

from spaces.zero import torch as zero  # noqa: E402
from spaces.zero.torch import patching  # noqa: E402


def pack() -> int:
    """At launch: tell what would go to the GPU; the weights stay in memory."""
    size: int = patching._total_unpacked_size()
    sys.stdout.write(f"packed {size} bytes\n")
    return size


def move(callback: Any = None) -> None:
    """In a worker: what was emulated becomes real."""
    for emulated, real in patching.cuda_aliases.items():
        emulated.data = real
    sys.stdout.write("a worker has the weights\n")


vars(zero).update(pack=pack, init=lambda uuid: None, move=move)
sys.path[0] = str(Path.cwd())
runpy.run_path("app.py", run_name="__main__")
