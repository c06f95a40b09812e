"""What PyTorch is slow at on a CPU, in C++: built once by this machine's compiler, and dispensable.

These are the products of layers with 4-bit levels (int4.cpp), with 8-bit ones (int8.cpp) and of dense ones (linear.cpp,
see dense.py), the attention of a decode step (attend.cpp) and of prompts (prefill_attention.cpp), a look at the scores
of all tokens (top_logits.cpp) and the layers of a decoder in one call (layers.cpp).

Which form of them a CPU gets is told in processors.py.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock
from torch import Tensor

from chatui.engine.kernels import processors
from chatui.engine.kernels.built_files import is_whole, publish
from chatui.engine.kernels.checks import agree, agree_in_8_bits, is_faster, is_faster_in_8_bits
from chatui.engine.kernels.int8_kv import width_of
from chatui.engine.kernels.processors import Processor

log = logging.getLogger(__name__)

SOURCES = ("int4.cpp", "int8.cpp", "linear.cpp", "attend.cpp", "prefill_attention.cpp", "top_logits.cpp", "layers.cpp")
HEADERS = (
    *("lanes.h", "lanes_any.h", "numbers.h", "levels_product.h", "product_shim.h"),
    *("layers.h", "prefill_attention.h"),
)
TORCH = Path(torch.__file__).parent
FLAGS = ("-O3", "-std=c++17", "-fopenmp", "-shared", "-fPIC")
Function = Callable[..., None]


# Building takes some 10 s, on a busy machine ten times that. Loading a model waits for it.
BUILD_SECONDS = 300

# The product works on blocks of so many outputs, attention on blocks of so many tokens.
BLOCK = 64
# Attention works on so many numbers of a value at once.
LANES = 16

PRODUCT, INT8_PRODUCT = "chatui_int4mm", "chatui_int8mm"
ATTEND = {torch.bfloat16: "chatui_attend", torch.int8: "chatui_attend_int8"}
"""By the type of keys and values."""

_loaded: dict[str, ctypes.CDLL] = {}


def compiler() -> str | None:
    """The C++ compiler of this machine."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))), None)


def load(cache_dir: Path) -> None:
    """Use them from now on in this process, building them where that has not been done; only logs why it cannot."""
    processor = processors.current()
    if _loaded or sys.platform != "linux" or processor is None:
        return
    try:
        path = _built(cache_dir / "compiled", processor)
        # Global, so that compiled steps find it.
        _loaded[path.stem] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        if not (agree(int4mm, pack) and agree_in_8_bits(int8mm, pack_int8, pack)):
            _loaded.clear()
            log.warning("everything is PyTorch's own: the kernels for levels compute something else here")
        elif not processors.is_known() and not is_faster(int4mm, pack):
            _loaded.clear()
            log.info("everything is PyTorch's own: the kernel for int4 is slower here")
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        log.info("everything is PyTorch's own: %s", error)


def build_ahead(cache_dir: Path) -> None:
    """Build them while other things are done that a model needs; `load` waits for that, and says why it failed."""
    processor = processors.current()
    if _loaded or sys.platform != "linux" or processor is None:
        return

    def build() -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError, RuntimeError):
            _built(cache_dir / "compiled", processor)

    threading.Thread(target=build, name="chatui-build", daemon=True).start()


def name() -> str:
    """What tells the kernels in use from others, "" where all is PyTorch's own."""
    return next(iter(_loaded), "")


def function(name: str) -> Function | None:
    """One of the kernels in use, None where it is not."""
    library = next(iter(_loaded.values()), None)
    return cast(Function | None, getattr(library, name, None))


def address(name: str) -> int | None:
    """Where one of the kernels in use lies."""
    return ctypes.cast(cast(Any, function(name)), ctypes.c_void_p).value


def takes(outputs: int) -> bool:
    """Whether the kernels for levels are in use, and for so many outputs."""
    return outputs % BLOCK == 0 and function(PRODUCT) is not None


def pays_in_8_bits(outputs: int) -> bool:
    """Whether `int8mm` is in use for so many outputs, and faster than PyTorch's with one scale for each."""
    return takes(outputs) and _is_faster_in_8_bits(name())


@functools.cache
def _is_faster_in_8_bits(name: str) -> bool:  # noqa: ARG001
    """Measured once for the kernels of this name."""
    return is_faster_in_8_bits(int8mm, pack_int8)


def pack(levels: Tensor, own: bool) -> Tensor:
    """Levels 0..15, int32 [out, in], as our product reads them here, uint8 [out / strip, in / 4, 2 * strip], or as
    PyTorch's does, [out, in / 2]. Never to be stored, for both differ between CPUs.

    `out` is a multiple of BLOCK for our product. Raises RuntimeError on a CPU that cannot run that.
    """
    if not own:
        theirs: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        return theirs
    strip, inputs = processors.required().strip, levels.shape[1]
    low, high = levels.to(torch.uint8).view(-1, 2, strip // 2, inputs // 4, 4).unbind(1)  # as int4.cpp tells
    return (low | high << 4).transpose(1, 2).flatten(2)


def reads(packed: Tensor) -> bool:
    """Whether this was packed for our product, not for PyTorch's before it was in use."""
    return packed.dim() == 3


def int4mm(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """As aten::_weight_int4pack_mm_for_cpu with groups of 32, where `takes` and `reads` say so; all bfloat16 but
    `packed`. Activations are rounded to 8 bits, each group of 32 with a scale of its own, as llama.cpp does.
    """
    # As an operator of PyTorch's it could be exported, and would take longer than a small product.
    call: Any = torch.ops.chatui.int4mm if torch.compiler.is_exporting() else _multiply
    product: Tensor = call(x, packed, scales_and_zeros, torch.get_num_threads())
    return product


def int8mm(x: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """The same for levels -128..127, `packed` by `pack_int8`: weight = level * scale + zero, in groups of 32 inputs."""
    call: Any = torch.ops.chatui.int8mm if torch.compiler.is_exporting() else _multiply_int8
    product: Tensor = call(x, packed, scales_and_zeros, torch.get_num_threads())
    return product


def pack_int8(levels: Tensor) -> Tensor:
    """Levels, int8 [out, in], as this CPU's `int8mm` reads them: [out / strip, in / 4, 4 * strip].

    `out` is a multiple of BLOCK. Raises RuntimeError on a CPU that cannot run it.
    """
    return levels.view(-1, processors.required().strip, levels.shape[1] // 4, 4).transpose(1, 2).flatten(2)


def _multiply(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, threads: int) -> Tensor:
    return _product(PRODUCT, x, packed, scales_and_zeros, threads)


def _multiply_int8(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, threads: int) -> Tensor:
    return _product(INT8_PRODUCT, x, packed, scales_and_zeros, threads)


def _product(name: str, x: Tensor, packed: Tensor, scales_and_zeros: Tensor, threads: int) -> Tensor:
    x = x.contiguous()
    result = x.new_empty(x.shape[0], scales_and_zeros.shape[1])
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, packed, scales_and_zeros, result))
    sizes = (ctypes.c_int64(size) for size in (*result.shape, x.shape[1], threads))
    multiply = function(name)
    if multiply is None:
        raise RuntimeError("the kernels for levels are not loaded")
    multiply(*pointers, *sizes)
    return result


def _multiply_shaped(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, threads: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape[0], scales_and_zeros.shape[1])


torch.library.custom_op("chatui::int4mm", _multiply, mutates_args=()).register_fake(_multiply_shaped)
torch.library.custom_op("chatui::int8mm", _multiply_int8, mutates_args=()).register_fake(_multiply_shaped)


def attends(query: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether the kernel for attention is in use, and for such tensors."""
    on_cpu = {tensor.device.type for tensor in (query, keys, values)} == {"cpu"}
    typed = query.dtype is torch.bfloat16 and keys.dtype is values.dtype and keys.dtype in ATTEND
    aligned = values.shape[2] == BLOCK and width_of(values) % LANES == 0
    return on_cpu and typed and aligned and function(ATTEND[keys.dtype]) is not None


def attend(
    query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, positions: Tensor, window: int | None
) -> Tensor:
    """What each row's newest token, at `positions` [rows], takes from the tokens up to it: those of the `window`, or
    all. They lie in the blocks `tables` [rows, blocks]. For tensors that `attends` approves of.

    `query` has shape [rows, kv heads, group, head size] and is scaled, `keys` [blocks, kv heads, head size, BLOCK],
    `values` [blocks, kv heads, BLOCK, head size]; the result [rows, kv heads, group, head size]. Keys and values may be
    in int8, with scales as in int8_kv.py.
    """
    call: Any = torch.ops.chatui.attend if torch.compiler.is_exporting() else _attend
    result: Tensor = call(query, keys, values, tables, positions, window or 0, torch.get_num_threads())
    return result


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, tables: Tensor, positions: Tensor, window: int, threads: int
) -> Tensor:
    query, tables = query.contiguous(), tables.contiguous()
    result = query.new_empty(*query.shape[:3], width_of(values))
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (query, keys, values, tables, positions, result))
    sizes = (*query.shape, width_of(values), tables.shape[1], window, threads)
    compute = function(ATTEND[keys.dtype])
    if compute is None:
        raise RuntimeError("the kernel for attention is not loaded")
    compute(*pointers, *(ctypes.c_int64(size) for size in sizes))
    return result


def _attend_shaped(
    query: Tensor,
    keys: Tensor,  # noqa: ARG001
    values: Tensor,
    tables: Tensor,  # noqa: ARG001
    positions: Tensor,  # noqa: ARG001
    window: int,  # noqa: ARG001
    threads: int,  # noqa: ARG001
) -> Tensor:
    return query.new_empty(*query.shape[:3], width_of(values))


torch.library.custom_op("chatui::attend", _attend, mutates_args=()).register_fake(_attend_shaped)

SHIMS = {
    torch.ops.chatui.int4mm.default: [
        "AOTITorchError aoti_torch_cpu_int4mm("
        "AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, int64_t, AtenTensorHandle*)"
    ],
    torch.ops.chatui.int8mm.default: [
        "AOTITorchError aoti_torch_cpu_int8mm("
        "AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, int64_t, AtenTensorHandle*)"
    ],
    torch.ops.chatui.attend.default: [
        "AOTITorchError aoti_torch_cpu_attend(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, "
        "AtenTensorHandle, int64_t, int64_t, AtenTensorHandle*)"
    ],
}
"""How a step compiled by AOTInductor calls them."""


def _built(folder: Path, processor: Processor) -> Path:
    """The library for this processor, or for a plainer one where the compiler cannot make that."""
    try:
        return _built_for(folder, processor)
    except RuntimeError as error:
        if processor.plainer is None:
            raise
        log.info("the kernels are built for an older kind of CPU: %s", error)
        return _built(folder, processor.plainer)


def _built_for(folder: Path, processor: Processor) -> Path:
    """The library, made once for each version of the sources and of PyTorch."""
    inputs = (
        *(Path(__file__).with_name(file).read_bytes() for file in (*SOURCES, *HEADERS)),
        torch.__version__.encode(),
        " ".join((*FLAGS, *processor.flags)).encode(),
    )
    name = f"kernels-{hashlib.sha256(b' '.join(inputs)).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        if not is_whole(folder / name):
            _build(folder / name, processor)
    return folder / name / f"{name}.so"


def _build(target: Path, processor: Processor) -> None:
    """Build the library of this name into the folder of this name. Raises RuntimeError or SubprocessError."""
    command = compiler()
    if command is None:
        raise RuntimeError("there is no C++ compiler here")
    if _brings_own_openmp(command):
        raise RuntimeError("clang's OpenMP would be a second one beside PyTorch's, with threads of its own")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        made = folder / f"{target.name}.so"
        sources = [str(Path(__file__).with_name(name)) for name in SOURCES]
        found = ("-I", str(TORCH / "include"), "-L", str(TORCH / "lib"), "-ltorch_cpu")
        process = subprocess.run(  # noqa: S603
            [command, *FLAGS, *processor.flags, *sources, "-o", str(made), *found],
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS,
        )
        if process.returncode:
            raise RuntimeError((process.stderr.strip().splitlines() or ["the compiler failed"])[-1])
        publish(folder, target)


def _brings_own_openmp(command: str) -> bool:
    """Whether this is clang: what it compiles calls LLVM's OpenMP. PyTorch's is GCC's on Linux."""
    macros = [command, "-dM", "-E", "-x", "c++", os.devnull]
    process = subprocess.run(macros, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS)  # noqa: S603
    return "__clang__" in process.stdout
