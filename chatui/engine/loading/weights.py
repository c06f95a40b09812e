"""Weights on disk, before they are loaded: are they there, whole, safe to read, and is there memory for them?"""

import ctypes
import gc
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

from chatui.engine.loading import wrong_files
from chatui.errors import ModelError
from chatui.gguf_file import read_gguf_header
from chatui.model_spec import ModelSpec
from chatui.settings import Dtype, Quantization
from chatui.stored_tensors import FLOATS, STORED_BYTES, StoredTensor, read_header, weight_bytes
from chatui.units import human_bytes

CONFIG_DTYPES: Mapping["torch.dtype | None", Dtype] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CGROUP = Path("/sys/fs/cgroup")


def check_weights(
    spec: ModelSpec,
    folder: Path,
    gguf_file: str | None,
    levels: Path | None,
    dtype: "torch.dtype | None",
    device_map: str,
) -> None:
    """Raise ModelError where weights are missing, cut off, pickled or too large, with `spec.load_anyway` for swap too.

    `levels` is a file with some of the weights as levels, `dtype` is what the config says.
    """
    if gguf_file:
        tensors, target_dtype = read_gguf_header(folder / gguf_file), spec.dtype
        target_dtype = "bfloat16" if target_dtype == "auto" else target_dtype
    else:
        tensors = [tensor for path in _files(spec, folder) for tensor in read_header(path)]
        target_dtype = CONFIG_DTYPES.get(dtype, "auto") if spec.dtype == "auto" else spec.dtype
    kept = read_header(levels) if levels and spec.quantization == "auto" else []
    needed, free = _needed(tensors, kept, target_dtype, spec.quantization), free_memory(device_map)
    if needed <= free + extra_memory(spec, device_map):
        return
    packed: Quantization = "int4" if device_map == "cpu" else "4bit"
    smaller = _needed(tensors, [], "bfloat16" if packed == "int4" else target_dtype, packed)
    may_help = smaller <= free and not (gguf_file and packed == "4bit")
    raise ModelError(
        f"{spec.name} needs {human_bytes(needed)} of memory for its weights; {human_bytes(free)} are free.",
        f"Try --quantization {packed} (about {human_bytes(smaller)}), or a smaller model."
        if may_help
        else "Choose a smaller model.",
    )


def _needed(tensors: list[StoredTensor], kept: list[StoredTensor], dtype: Dtype, quantization: Quantization) -> int:
    """Bytes at the highest: dense weights that are not read as they are from the file are all there before packing."""
    levels = {tensor.name.removesuffix(".nibbles") + ".weight" for tensor in kept}
    rest = [tensor for tensor in tensors if tensor.name not in levels]
    held = weight_bytes([*rest, *kept], dtype, quantization)
    mapped = all(tensor.dtype == "BF16" or tensor.dtype in STORED_BYTES.keys() - FLOATS for tensor in tensors)
    if quantization in ("8bit", "4bit") or mapped:
        return held
    return max(held, weight_bytes(tensors, dtype, "none"))


def free_memory(device_map: str) -> int:
    """Bytes free for weights: of the GPU for cuda, of this machine (or its container) for cpu, of both for auto."""
    free: int = min(psutil.virtual_memory().available, _free_in_container())
    if device_map == "cpu" or not torch.cuda.is_available():
        return free
    on_gpu = sum(torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count()))
    return on_gpu if device_map.startswith("cuda") else free + on_gpu


def extra_memory(spec: ModelSpec, device_map: str) -> float:
    """Bytes beyond the free memory that a model may be predicted to need.

    With `load_anyway` it is the free swap space on the CPU: a program that needs more than that is killed. A GPU
    refuses what is too much for it, so there is no limit.
    """
    if not spec.load_anyway:
        return 0
    on_gpu = device_map != "cpu" and torch.cuda.is_available()
    return float("inf") if on_gpu else min(psutil.swap_memory().free, _free_swap_in_container())


def release_memory() -> None:
    """Return freed memory to the operating system, and to other users of the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # only glibc has it: https://man7.org/linux/man-pages/man3/malloc_trim.3.html
        trim(0)


def total_memory(device: torch.device) -> int:
    """Bytes of memory that the device has in all, of this machine or its container for the CPU; 0 if not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return min(psutil.virtual_memory().total, _limit_of_container()) if device.type == "cpu" else 0


def _limit_of_container() -> int:
    try:
        return int((CGROUP / "memory.max").read_text())
    except (OSError, ValueError):
        return 2**63


def _free_in_container() -> int:
    """Bytes up to the memory limit of this container; what only caches files can be taken back and counts as free."""
    limit = _limit_of_container()
    try:
        used = int((CGROUP / "memory.current").read_text())
        held = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 2**63
    return limit - used + int(held.get("inactive_file", 0)) + int(held.get("active_file", 0))


def _free_swap_in_container() -> int:
    """Bytes of swap space up to the limit of this container: https://docs.kernel.org/admin-guide/cgroup-v2.html"""
    try:
        return int((CGROUP / "memory.swap.max").read_text()) - int((CGROUP / "memory.swap.current").read_text())
    except (OSError, ValueError):
        return 2**63


def _files(spec: ModelSpec, folder: Path) -> list[Path]:
    """The safetensors files of the model, all of them there."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        wrong_files.check_weights_inside(spec.name, folder)
        pickled = any(next(folder.glob(pattern), None) for pattern in PICKLED)
        raise ModelError(
            f"{spec.name} has no weights in safetensors format"
            + (", only pickled ones, which could run code." if pickled else "."),
            "Choose a model with safetensors, or download a GGUF file and give its path to --model.",
        )
    files = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    for file in files:
        if not file.is_file():
            raise ModelError(
                f"{spec.name} is incomplete: {file.name} is missing.", "Download it again, or copy the missing file."
            )
    return files
