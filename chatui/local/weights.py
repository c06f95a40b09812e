"""Weights on disk, before they are loaded: are they there, whole, safe to read, and is there memory for them?"""

import json
from pathlib import Path

import psutil
import torch

from chatui.catalogue import ModelSpec, human_bytes, read_gguf_header, read_header, weight_bytes
from chatui.errors import ModelError
from chatui.settings import Dtype

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CGROUP = Path("/sys/fs/cgroup")


def check_weights(
    spec: ModelSpec, folder: Path, gguf_file: str | None, dtype: "torch.dtype | None", device_map: str
) -> None:
    """Raise ModelError where weights are missing, cut off, pickled or too large; `dtype` is what the config says."""
    wanted: Dtype = spec.dtype
    if gguf_file:
        tensors = read_gguf_header(folder / gguf_file)
        wanted = "bfloat16" if wanted == "auto" else wanted
    else:
        tensors = [tensor for path in _files(spec, folder) for tensor in read_header(path)]
        named: dict[torch.dtype | None, Dtype] = {
            torch.float32: "float32",
            torch.bfloat16: "bfloat16",
            torch.float16: "float16",
        }
        wanted = named.get(dtype, "auto") if wanted == "auto" else wanted
    needed, free = weight_bytes(tensors, wanted, spec.quantization), free_memory(device_map)
    if needed <= free:
        return
    smaller = weight_bytes(tensors, wanted, "4bit")
    four_bit = f"Try --quantization 4bit (about {human_bytes(smaller)}), or a" if smaller <= free else "Choose a"
    raise ModelError(
        f"{spec.name} needs {human_bytes(needed)} of memory for its weights; {human_bytes(free)} are free.",
        f"{'Choose a' if gguf_file else four_bit} smaller model.",
    )


def free_memory(device_map: str) -> int:
    """Bytes free for weights: of the GPU for cuda, of this machine (or its container) for cpu, of both for auto."""
    free: int = min(psutil.virtual_memory().available, _free_in_container())
    if device_map == "cpu" or not torch.cuda.is_available():
        return free
    on_gpu = sum(torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count()))
    return on_gpu if device_map.startswith("cuda") else free + on_gpu


def _free_in_container() -> int:
    """Bytes up to the memory limit of this container; what only caches files can be taken back and counts as free."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        held = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return 2**63
    return limit - used + int(held.get("inactive_file", 0)) + int(held.get("active_file", 0))


def _files(spec: ModelSpec, folder: Path) -> list[Path]:
    """The safetensors files of the model, all of them there."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
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
