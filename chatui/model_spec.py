"""Which model to load, and the arithmetic of its size. Pure: reads no weights and knows no torch."""

import json
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from chatui.errors import ModelError
from chatui.settings import AppSettings, Compile, Dtype, GenerationSettings, Quantization

# Bytes per element by the names of the safetensors format:
# https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs
STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = ("F64", "F32", "F16", "BF16")
DTYPE_BYTES: Mapping[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
# 4-bit NF4 keeps one float32 per 64 weights beside the 4 bits: https://arxiv.org/abs/2305.14314
BITSANDBYTES: Mapping[Quantization, float] = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
# A plane of 4-bit levels has two bfloat16 beside each group of 32.
PLANE_BYTES = 0.5 + 4 / 32
PRECISIONS: Mapping[str, tuple[Dtype, Quantization]] = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
}
"""How a model's weights can be held on every CPU: names, and the flags that ask for it."""
HUB_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<name>[\w.-]+/[\w.-]+)(?:/tree/(?P<revision>[\w.-]+))?/?"
    r"(?:[?#].*)?"
)
HUB_FILE = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)?(?P<name>[\w.-]+/[\w.-]+)/"
    r"(?:(?:blob|resolve|raw)/[\w.-]+/)?(?P<path>[\w./ -]+\.(?:gguf|safetensors|bin|json))(?:[?#].*)?"
)
MAX_HEADER_BYTES = 100_000_000
# Sizes of the numbers in a GGUF header by their type: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
GGUF_STRING, GGUF_ARRAY, GGUF_UINT32 = 8, 9, 4
GGUF_ALIGNMENT = 32
# Bytes of a block of 32 weights of the kinds that linear layers can keep: Q4_0, Q4_1, Q8_0.
GGUF_LEVELS = {"GGUF-2": 18, "GGUF-3": 20, "GGUF-8": 34}


@dataclass(frozen=True)
class ModelSpec:
    """What to load, as the operator asked for it, and what to run it with: `kv_memory` in bytes."""

    name: str
    revision: str | None = None
    dtype: Dtype = "auto"
    device_map: str = "auto"
    quantization: Quantization = "auto"
    trust_remote_code: bool = False
    slots: int = AppSettings.model_fields["slots"].default
    kv_memory: int | None = None
    compile: Compile = "auto"
    chat_template: Path | None = None
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """Its fields that are set replace the model's own defaults."""

    @classmethod
    def from_settings(cls, settings: AppSettings) -> "ModelSpec":
        """The part of the program's settings that is about the model."""
        name, revision = named(settings.model)
        return cls(
            name,
            settings.revision or revision,
            settings.dtype,
            settings.device_map,
            settings.quantization,
            settings.trust_remote_code,
            settings.slots,
            None if settings.kv_memory is None else int(settings.kv_memory * 1e9),
            settings.compile,
            settings.chat_template,
            settings.generation,
        )


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: its name, its type in safetensors' spelling and its shape.

    A GGUF file's has its type's number for a type, the shape turned round as that format has it, and the place of its
    first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)


def named(model: str) -> tuple[str, str | None]:
    """Name and revision of a model, of which the address of its page on the Hub may be given, or a file:// address."""
    if model.startswith("file://"):
        return unquote(urlsplit(model).path), None
    page = HUB_PAGE.fullmatch(model)
    if page:
        return page["name"], page["revision"]
    return (model.rstrip("/") if re.fullmatch(r"[\w.-]+/[\w.-]+/", model) else model), None


def check_name(name: str) -> None:
    """Raise ModelError where a name that is not on this disk is one of another program's, or that of a file."""
    file = HUB_FILE.fullmatch(name)
    if file:
        raise ModelError(
            f"{name} is a file on the Hub, which is not loaded from there by itself.",
            f"Run `hf download {file['name']} {file['path']} --local-dir .`, and give the file's path to --model.",
        )
    at = re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w./-]+)", name)
    if at:
        raise ModelError(
            f"{name} names a revision with @, which is told apart here.", f"Say --model {at[1]} --revision {at[2]}."
        )
    quant = re.fullmatch(r"(?:hf\.co/|huggingface\.co/)?([\w.-]+/[\w.-]+):([\w.-]+)", name)
    if quant:
        raise ModelError(
            f"{name} names a GGUF file as Ollama and llama.cpp do, by what stands behind the colon.",
            f"Run `hf download {quant[1]} --include '*{quant[2]}*.gguf' --local-dir .`, and give the file's path to "
            "--model.",
        )
    if re.fullmatch(r"[\w.-]+:[\w.-]+", name):
        raise ModelError(f"{name} is a name of Ollama's.", "Find the model on the Hub, and give its name (owner/name).")
    if "\\" in name:
        raise ModelError(f"There is no model folder {name}.", "Check the path given to --model.")


def shown_name(path: Path) -> str:
    """What a model on this disk is called: its file's or folder's name, or its repository's in the Hub's cache.

    The cache names folders models--OWNER--NAME/snapshots/COMMIT and files blobs/HASH, to which snapshots link.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - a link has the name that counts
    parts = path.parts
    repository = next((place for place, part in enumerate(parts) if part.startswith("models--")), None)
    if repository is None:
        return path.name
    owner_and_name = parts[repository].removeprefix("models--").replace("--", "/")
    if path.is_dir():
        return owner_and_name
    if path.parent.name == "blobs":
        links = path.parents[1].glob("snapshots/*/**/*")
        return next((link.name for link in links if link.resolve() == path.resolve()), owner_and_name)
    return path.name


def read_header(path: Path) -> list[StoredTensor]:
    """The tensors that a safetensors file says it holds.

    Raises ModelError where the file is cut off or not in the format
    (8 bytes of little-endian header length, a JSON header, the data: https://github.com/huggingface/safetensors#format).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            raise _broken(path)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
            tensors = [StoredTensor(name, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _broken(path) from None
    if 8 + length + end > size:
        raise _broken(path)
    return tensors


def read_gguf_header(path: Path) -> list[StoredTensor]:
    """The tensors that a GGUF file says it holds. Raises ModelError where it is cut off or not in the format."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _GgufReader(file, size)
        try:
            alignment, tensors = reader.header()
        except (struct.error, ValueError, KeyError, OverflowError, RecursionError):
            raise _broken(path) from None
        data = -(-file.tell() // alignment) * alignment
    if not tensors or data + max(tensor.offset for tensor in tensors) >= size:
        raise _broken(path)
    return [replace(tensor, offset=data + tensor.offset) for tensor in tensors]


class _GgufReader:
    """Reads the values of a GGUF file of `size` bytes one after the other. Its methods raise what parsing raises."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def header(self) -> tuple[int, list[StoredTensor]]:
        """(alignment of the data, tensors with offsets from its start); leaves the file at the header's end."""
        if self._file.read(4) != b"GGUF" or self._number("I") not in (2, 3):
            raise ValueError
        tensor_count, field_count = self._number("Q"), self._number("Q")
        alignment = GGUF_ALIGNMENT
        for _ in range(field_count):
            name, kind = self._text(), self._number("I")
            if name == "general.alignment" and kind == GGUF_UINT32:
                alignment = max(1, self._number("I"))
            else:
                self._skip(kind)
        return alignment, [self._tensor() for _ in range(tensor_count)]

    def _tensor(self) -> StoredTensor:
        name = self._text()
        shape = tuple(self._number("Q") for _ in range(self._number("I")))
        return StoredTensor(name, f"GGUF-{self._number('I')}", shape, self._number("Q"))

    def _number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self._file.read(struct.calcsize("<" + code)))[0])

    def _text(self) -> str:
        length = self._number("Q")
        if length > self._size:
            raise ValueError
        return self._file.read(length).decode(errors="replace")

    def _skip(self, kind: int) -> None:
        """Go past a value of this kind."""
        if kind == GGUF_STRING:
            self._text()
        elif kind == GGUF_ARRAY:
            inner, count = self._number("I"), self._number("Q")
            if inner in GGUF_SIZES:
                self._file.seek(GGUF_SIZES[inner] * count, 1)
            else:
                for _ in range(count):
                    self._skip(inner)
        else:
            self._file.seek(GGUF_SIZES[kind], 1)


def weight_bytes(tensors: Iterable[StoredTensor], dtype: Dtype, quantization: Quantization) -> int:
    """Bytes that the weights will take in memory.

    Integers are packed weights of a quantized checkpoint, which stay as they are. bitsandbytes quantizes the matrices
    but not the embeddings and the output layer. int4 and int8 give the output layer a weight of its own, in int8;
    a GGUF file's own levels stay with int4, and with auto, where all else of it becomes dense. Experts, which
    transformers stacks, and what chooses them stay dense.
    """
    known = list(tensors)
    total = sum(_bytes(tensor, dtype, quantization) for tensor in known)
    if not any(_is_head(tensor) for tensor in known):
        for tensor in known:
            if _is_embedding(tensor) and "pos" not in tensor.name:
                total += _packed_bytes(replace(tensor, name="lm_head.weight"), quantization) or 0
    return int(total)


def _bytes(tensor: StoredTensor, dtype: Dtype, quantization: Quantization) -> float:
    """Bytes of one tensor in memory."""
    as_gguf = tensor.dtype.startswith("GGUF")
    stays = not as_gguf and (dtype == "auto" or tensor.dtype not in FLOATS)
    wide = STORED_BYTES.get(tensor.dtype, 1) if stays else DTYPE_BYTES.get(dtype, 2)
    dense = float(tensor.elements * wide)
    floats = as_gguf or tensor.dtype in FLOATS
    if len(tensor.shape) != 2 or not floats or _is_embedding(tensor) or _is_of_experts(tensor):
        return dense
    if quantization in BITSANDBYTES:
        return dense if _is_head(tensor) else tensor.elements * BITSANDBYTES[quantization]
    packed = _packed_bytes(tensor, quantization)
    return dense if packed is None else packed


def _packed_bytes(tensor: StoredTensor, quantization: Quantization) -> float | None:
    """Bytes of a linear layer's weight as the CPU's kernels take it, None where it stays dense."""
    columns, rows = tensor.shape if tensor.dtype.startswith("GGUF") else tensor.shape[::-1]
    if columns % 32:
        return None
    if quantization in ("auto", "int4") and tensor.dtype in GGUF_LEVELS and rows % 16 == 0:
        return tensor.elements * PLANE_BYTES * (2 if tensor.dtype == "GGUF-8" else 1)
    if quantization == "int8" or (quantization == "int4" and _is_head(tensor)):
        return tensor.elements + 2.0 * rows
    return tensor.elements * PLANE_BYTES if quantization == "int4" and rows % 16 == 0 else None


def _is_head(tensor: StoredTensor) -> bool:
    return "lm_head" in tensor.name or tensor.name == "output.weight"


def _is_of_experts(tensor: StoredTensor) -> bool:
    return not {"experts", "gate", "router"}.isdisjoint(tensor.name.split("."))


def _is_embedding(tensor: StoredTensor) -> bool:
    return len(tensor.shape) == 2 and any(part in tensor.name for part in ("embed", "token_embd", "wte", "wpe"))


def human_bytes(count: float) -> str:
    """Bytes for people, in powers of 1000: 269 MB, 16.1 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def human_count(count: int) -> str:
    """A number of parameters for people: 135M, 8.03B."""
    if count < 1_000_000:
        return f"{count:,}"
    return f"{count / 1e6:.0f}M" if count < 999_500_000 else f"{count / 1e9:.3g}B"


def _broken(path: Path) -> ModelError:
    return ModelError(
        f"The file {path.name} is incomplete or damaged.", "Delete it and load the model again, or copy it anew."
    )
