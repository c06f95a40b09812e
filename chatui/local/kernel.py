"""What PyTorch is slow at on a CPU, in C++: built once by this machine's compiler, and dispensable.

These are the product of int4 layers (int4.cpp) and a look at the scores of all tokens (highest.cpp).
"""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock
from torch import Tensor

log = logging.getLogger(__name__)

SOURCES = tuple(Path(__file__).with_name(name) for name in ("int4.cpp", "highest.cpp"))
TORCH = Path(torch.__file__).parent
FLAGS = (
    *("-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC"),
    *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma"),
)
Function = Callable[..., None]

# The product works on blocks of so many outputs.
BLOCK = 64
DECLARATION = (
    "AOTITorchError aoti_torch_cpu_int4mm("
    "AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, int64_t, AtenTensorHandle*)"
)
"""How a step compiled by AOTInductor calls it."""

_loaded: dict[str, ctypes.CDLL] = {}


def compiler() -> str | None:
    """The C++ compiler of this machine."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))), None)


def load(cache_dir: Path) -> None:
    """Use them from now on in this process, building them where that has not been done; only logs why it cannot."""
    if _loaded or sys.platform != "linux" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return
    if not torch.cpu._is_vnni_supported():
        return
    try:
        path = _built(cache_dir / "compiled")
        # Global, so that compiled steps find it.
        _loaded[path.stem] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        log.info("everything is PyTorch's own: %s", error)


def name() -> str:
    """What tells the kernels in use from others, "" where all is PyTorch's own."""
    return next(iter(_loaded), "")


def function(name: str) -> Function | None:
    """One of the kernels in use, None where there are none."""
    library = next(iter(_loaded.values()), None)
    return None if library is None else cast(Function, getattr(library, name))


def takes(outputs: int) -> bool:
    """Whether the kernel for int4 is in use, and for so many outputs."""
    return bool(_loaded) and outputs % BLOCK == 0


def int4mm(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """As aten::_weight_int4pack_mm_for_cpu with groups of 32, where `takes` says so; all bfloat16 but `packed`."""
    # As an operator of PyTorch's it could be exported, and would take longer than a small product.
    call: Any = torch.ops.chatui.int4mm if torch.compiler.is_exporting() else _called
    product: Tensor = call(x, packed, scales_and_zeros, torch.get_num_threads())
    return product


def _called(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, threads: int) -> Tensor:
    x = x.contiguous()
    result = x.new_empty(x.shape[0], scales_and_zeros.shape[1])
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, packed, scales_and_zeros, result))
    sizes = (ctypes.c_int64(size) for size in (*result.shape, x.shape[1], threads))
    multiply = function("chatui_int4mm")
    if multiply is None:
        raise RuntimeError("the kernel for int4 is not loaded")
    multiply(*pointers, *sizes)
    return result


def _as_shaped(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, threads: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape[0], scales_and_zeros.shape[1])


torch.library.custom_op("chatui::int4mm", _called, mutates_args=()).register_fake(_as_shaped)


def _built(folder: Path) -> Path:
    """The library, made once for each version of the sources and of PyTorch."""
    told = (*(source.read_bytes() for source in SOURCES), torch.__version__.encode(), " ".join(FLAGS).encode())
    target = folder / f"kernels-{hashlib.sha256(b' '.join(told)).hexdigest()[:16]}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_file():
            _build(target)
    return target


def _build(target: Path) -> None:
    command = compiler()
    if command is None:
        raise RuntimeError("there is no C++ compiler here")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / target.name
        found = ("-I", str(TORCH / "include"), "-L", str(TORCH / "lib"), "-ltorch_cpu")
        process = subprocess.run(  # noqa: S603
            [command, *FLAGS, *map(str, SOURCES), "-o", str(made), *found], capture_output=True, text=True, check=False
        )
        if process.returncode:
            raise RuntimeError((process.stderr.strip().splitlines() or ["the compiler failed"])[-1])
        made.replace(target)
