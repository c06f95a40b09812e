"""The tensors that the headers of checkpoints list, and their size in memory. Reads no weights and knows no torch."""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from chatui.errors import ModelError
from chatui.settings import Dtype, Quantization

# Bytes per element by the names of the safetensors format:
# https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs
STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = ("F64", "F32", "F16", "BF16")
DTYPE_BYTES: Mapping[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
# 4-bit NF4 has one float32 scale per 64 weights beside the 4 bits: https://arxiv.org/abs/2305.14314
BITSANDBYTES: Mapping[Quantization, float] = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
# A plane of 4-bit levels has a scale and a zero point in bfloat16 per group of 32 weights; so have 8-bit levels in one
# plane, in which our kernel takes them where rows are blocks of 64. Other kernels need two planes
# for a GGUF file's levels, and a scale per row for int8.
PLANE_BYTES, JOINED_BYTES, JOINED_ROWS = 0.5 + 4 / 32, 1 + 4 / 32, 64
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class GgufType:
    """A type of GGUF whose levels linear layers use without conversion: blocks of `elements` weights in `size` bytes.

    Its levels are `planes` of 4 bits.
    """

    label: str
    elements: int
    size: int
    planes: int


GGUF_LEVELS: Mapping[str, GgufType] = {
    "GGUF-2": GgufType("Q4_0", 32, 18, 1),
    "GGUF-3": GgufType("Q4_1", 32, 20, 1),
    "GGUF-8": GgufType("Q8_0", 32, 34, 2),
    "GGUF-12": GgufType("Q4_K", 256, 144, 1),
    "GGUF-13": GgufType("Q5_K", 256, 176, 2),
    "GGUF-14": GgufType("Q6_K", 256, 210, 2),
}
"""By the type of a StoredTensor: https://github.com/ggml-org/ggml/blob/master/include/ggml.h (enum ggml_type)"""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a checkpoint. `dtype` has the names of safetensors, such as "BF16".

    For a GGUF file `dtype` is "GGUF-" and the number of the type, `shape` is in reverse order, as that format has it,
    and `offset` is the position of the first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def elements(self) -> int:
        """The number of elements."""
        return prod(self.shape)


def read_header(path: Path) -> list[StoredTensor]:
    """The tensors listed in the header of a safetensors file.

    Raises ModelError if the file is truncated or not in the format
    (8 bytes of little-endian header length, a JSON header, the data: https://github.com/huggingface/safetensors#format).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise damaged_file_error(path)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            tensors = [StoredTensor(name, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise damaged_file_error(path) from None
    if 8 + length + end > size:
        raise damaged_file_error(path)
    return tensors


def weight_bytes(tensors: Iterable[StoredTensor], dtype: Dtype, quantization: Quantization) -> int:
    """The size of the weights in memory in bytes.

    - Integers are packed weights of a quantized checkpoint and are not converted.
    - bitsandbytes quantizes matrices except for the embeddings and the output layer.
    - int4 and int8 store the output layer separately, in int8.
    - A GGUF file's own levels are used with int4 and auto. With auto, all other weights of it become dense.
    - Experts, which transformers stacks into one tensor, and routers stay dense.
    """
    tensors = list(tensors)
    total = sum(_tensor_bytes(tensor, dtype, quantization) for tensor in tensors)
    if not any(is_head(tensor) for tensor in tensors):
        for tensor in tensors:
            if is_token_embedding(tensor):
                total += _packed_bytes(replace(tensor, name="lm_head.weight"), quantization) or 0
    return int(total)


def _tensor_bytes(tensor: StoredTensor, dtype: Dtype, quantization: Quantization) -> float:
    """The size of one tensor in memory in bytes."""
    is_gguf = tensor.dtype.startswith("GGUF")
    keeps_dtype = not is_gguf and (dtype == "auto" or tensor.dtype not in FLOATS)
    element_bytes = STORED_BYTES.get(tensor.dtype, 1) if keeps_dtype else DTYPE_BYTES.get(dtype, 2)
    dense = float(tensor.elements * element_bytes)
    is_float = is_gguf or tensor.dtype in FLOATS
    if len(tensor.shape) != 2 or not is_float or is_embedding(tensor) or _is_expert_or_router(tensor):
        return dense
    if quantization in BITSANDBYTES:
        return dense if is_head(tensor) else tensor.elements * BITSANDBYTES[quantization]
    packed = _packed_bytes(tensor, quantization)
    return dense if packed is None else packed


def _packed_bytes(tensor: StoredTensor, quantization: Quantization) -> float | None:
    """The size of a linear layer's weight in the layout of the CPU kernels, in bytes; None if it stays dense."""
    columns, rows = tensor.shape if tensor.dtype.startswith("GGUF") else tensor.shape[::-1]
    if columns % 32:
        return None
    joined = tensor.elements * JOINED_BYTES if rows % JOINED_ROWS == 0 else None
    if quantization in ("auto", "int4") and tensor.dtype in GGUF_LEVELS and rows % 16 == 0:
        planes = GGUF_LEVELS[tensor.dtype].planes
        return joined if joined and planes == 2 else tensor.elements * PLANE_BYTES * planes
    if quantization == "int8" or (quantization == "int4" and is_head(tensor)):
        return joined or tensor.elements + 2.0 * rows
    return tensor.elements * PLANE_BYTES if quantization == "int4" and rows % 16 == 0 else None


def is_head(tensor: StoredTensor) -> bool:
    """Whether this is the output layer."""
    return "lm_head" in tensor.name or tensor.name == "output.weight"


def _is_expert_or_router(tensor: StoredTensor) -> bool:
    return not {"experts", "gate", "router"}.isdisjoint(tensor.name.split("."))


def is_embedding(tensor: StoredTensor) -> bool:
    """Whether this is an embedding, of tokens or of positions."""
    return len(tensor.shape) == 2 and any(part in tensor.name for part in ("embed", "token_embd", "wte", "wpe"))


def is_token_embedding(tensor: StoredTensor) -> bool:
    """Whether this is the embedding of tokens, which may be the output layer as well."""
    return is_embedding(tensor) and "pos" not in tensor.name and "wpe" not in tensor.name


def damaged_file_error(path: Path) -> ModelError:
    """The error for a file of weights that is truncated or not in its format."""
    return ModelError(
        f"The file {path.name} is incomplete or damaged.", "Delete it and load the model again, or copy it anew."
    )
