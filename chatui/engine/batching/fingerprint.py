"""What keys and values depend on beside the tokens: a digest of a model as it is in memory, and of what computes it."""

import hashlib
import inspect
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import chatui
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.kernels import ops

VERSION = 1
"""Raise when the files of K/V blocks change."""


def fingerprint(model: PreTrainedModel, cache: KVCache) -> str:
    """Hexadecimal digits that are the same only where the same tokens have the same keys and values.

    All weights are read, which takes a second for each 2 GB or so: names and dates of files do not tell them apart.
    """
    config: Any = model.config
    with ThreadPoolExecutor() as executor:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        contents = list(executor.map(_digest, tensors.values()))
    about = [
        VERSION,
        BLOCK,
        chatui.__version__,
        torch.__version__,
        transformers.__version__,
        torch.backends.cpu.get_cpu_capability(),
        ops.name(),
        model.device.type,
        [(tuple(tensor.shape[1:]), str(tensor.dtype)) for tensor in cache.tensors],
        [hashlib.sha256(file.read_bytes()).hexdigest() for file in _sources(model)],
        config.to_json_string(),
        [(name, tuple(each.shape), str(each.dtype)) for name, each in tensors.items()],
        contents,
        [(name, type(module).__qualname__, _numbers(module)) for name, module in model.named_modules()],
    ]
    return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:32]


def _digest(tensor: Tensor) -> str:
    held: Any = tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy()
    return hashlib.sha256(held).hexdigest()


def _numbers(module: torch.nn.Module) -> dict[str, object]:
    """What a module holds beside tensors, such as the factor of a LoRA adapter."""
    return {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str)}


def _sources(model: PreTrainedModel) -> list[Path]:
    """The files whose code computes keys and values, beside those of the libraries: ours, and the model's own."""
    folders = Path(__file__).parent, Path(ops.__file__).parent
    return [*(file for folder in folders for file in sorted(folder.glob("*.py"))), Path(inspect.getfile(type(model)))]
