"""Which model to load, file headers, and the size of weights in memory. Reads no weights and knows no torch."""

import json
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from chatui.chat import LoadOptions
from chatui.errors import ModelError, SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.setting_values import shorten
from chatui.settings import AppSettings, Compile, Dtype, Quantization

# Bytes per element by the names of the safetensors format:
# https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs
STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = ("F64", "F32", "F16", "BF16")
DTYPE_BYTES: Mapping[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
# 4-bit NF4 has one float32 scale per 64 weights beside the 4 bits: https://arxiv.org/abs/2305.14314
BITSANDBYTES: Mapping[Quantization, float] = {"8bit": 1.0, "4bit": 0.5 + 4 / 64}
# A plane of 4-bit levels has a scale and a zero point in bfloat16 per group of 32 weights.
PLANE_BYTES = 0.5 + 4 / 32
PRECISIONS: Mapping[str, tuple[Dtype, Quantization]] = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
}
"""The precisions that every CPU supports, with the values of the flags for each."""
GPU_PRECISIONS: Mapping[str, tuple[Dtype, Quantization]] = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "8bit": ("bfloat16", "8bit"),
    "4bit": ("bfloat16", "4bit"),
}
"""The precisions on GPUs, with the values of the flags for each."""
DEVICE = re.compile(r"auto|cpu|mps|(?:cuda|xpu)(?::\d{1,2})?")
MIN_CONTEXT, MAX_CONTEXT = 256, 10_000_000
"""Tokens that may be chosen for a conversation; a model has at most what it was made for."""
HUB_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<name>[\w.-]+/[\w.-]+)(?:/tree/(?P<revision>[\w.-]+))?/?"
    r"(?:[?#].*)?"
)
HUB_FILE = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)?(?P<name>[\w.-]+/[\w.-]+)/"
    r"(?:(?:blob|resolve|raw)/[\w.-]+/)?(?P<path>[\w./ -]+\.(?:gguf|safetensors|bin|json))(?:[?#].*)?"
)
MAX_HEADER_BYTES = 100_000_000
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of a LoRA adapter, as peft writes them."""


@dataclass(frozen=True)
class GgufType:
    """A type of GGUF whose levels linear layers use without conversion: blocks of `elements` weights in `size` bytes.

    The kernel takes its levels as `planes` of 4 bits.
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
class ModelSpec:
    """The model to load and how to run it, as the settings and LoadOptions request it. `kv_memory` is in bytes.

    For a LoRA adapter `name` is the adapter's, and `base` the model that it changes; None takes the one that its
    config names.
    """

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
    """Fields that are set override the model's generation defaults."""
    base: "ModelSpec | None" = None
    context: int | None = None
    load_anyway: bool = False

    @classmethod
    def from_settings(cls, settings: AppSettings) -> "ModelSpec":
        """The default model."""
        return cls.all_from_settings(settings)[0]

    @classmethod
    def all_from_settings(cls, settings: AppSettings) -> "list[ModelSpec]":
        """All models to serve, the default one first. Its revision and chat template are for it alone."""
        folder_names = [] if settings.models_dir is None else find_models(settings.models_dir)
        names = dict.fromkeys([*settings.model, *(str(path) for path in folder_names)])
        specs = [cls._named(*parse_model_name(name), settings) for name in names]
        default = replace(
            specs[0], revision=settings.revision or specs[0].revision, chat_template=settings.chat_template
        )
        return with_bases([default, *specs[1:]])

    def with_options(self, options: LoadOptions) -> "ModelSpec":
        """The spec with what was chosen for one loading; an adapter's base has it too. Raises SettingsError."""
        base = None if self.base is None else self.base.with_options(options)
        spec = replace(self, context=options.context, load_anyway=options.load_anyway, base=base)
        if options.context is not None and not MIN_CONTEXT <= options.context <= MAX_CONTEXT:
            raise SettingsError("context", f"needs {MIN_CONTEXT:,} to {MAX_CONTEXT:,} tokens (got {options.context}).")
        if options.device:
            if not DEVICE.fullmatch(options.device):
                raise SettingsError("device", f"{shorten(options.device)} is none.", "Take auto, cpu, cuda or cuda:1.")
            spec = replace(spec, device_map=options.device)
        if options.precision:
            known = {**PRECISIONS, **GPU_PRECISIONS, **{kind.label: ("auto", "auto") for kind in GGUF_LEVELS.values()}}
            if options.precision not in known:
                choice = ", ".join(known)
                raise SettingsError("precision", f"{shorten(options.precision)} is none.", f"Take one of {choice}.")
            dtype, quantization = known[options.precision]
            spec = replace(spec, dtype=dtype, quantization=quantization)
        return spec

    @classmethod
    def _named(cls, name: str, revision: str | None, settings: AppSettings) -> "ModelSpec":
        return cls(
            name,
            revision,
            settings.dtype,
            settings.device_map,
            settings.quantization,
            settings.trust_remote_code,
            settings.slots,
            None if settings.kv_memory is None else int(settings.kv_memory * 1e9),
            settings.compile,
            None,
            settings.generation,
        )


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


def find_models(folder: Path) -> list[Path]:
    """The models in a folder, by name: folders with a config.json, LoRA adapters, and GGUF files.

    Raises SettingsError.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise SettingsError("models_dir", f"{folder} cannot be read ({error.strerror}).", "Name a folder.") from None
    return [
        path
        for path in entries
        if path.suffix.lower() == ".gguf" or any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
    ]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter, and not a whole model."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    return all(file.name.startswith("adapter") for file in folder.glob("*.safetensors"))


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The config of a LoRA adapter. Raises ModelError if it is damaged."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / ADAPTER_CONFIG} is no valid JSON object.", "Download the adapter again.")
    return config


def adapter_base(folder: Path) -> str:
    """The name of the model that an adapter was trained on, as its config has it; "" if it does not say."""
    return str(read_adapter_config(folder).get("base_model_name_or_path") or "")


def with_bases(specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """The specs with the `base` of each adapter on this disk, where that is one of them.

    A base is found by its name or by the last part of it, because a local copy rarely has the name that the adapter
    was trained with.
    """
    folders = [Path(spec.name).expanduser() for spec in specs]
    whole = [spec for spec, folder in zip(specs, folders, strict=True) if not is_adapter(folder)]

    def base_of(folder: Path) -> ModelSpec | None:
        try:
            base = adapter_base(folder)
        except ModelError:  # told when the adapter is loaded
            return None
        named = [spec for spec in whole if base in (spec.name, display_name(Path(spec.name)))]
        last = [spec for spec in whole if base and Path(spec.name).name.lower() == Path(base).name.lower()]
        return next(iter([*named, *last]), None)

    return [
        replace(spec, base=spec.base or base_of(folder)) if is_adapter(folder) else spec
        for spec, folder in zip(specs, folders, strict=True)
    ]


def parse_model_name(model: str) -> tuple[str, str | None]:
    """Parse --model into (name, revision). It may be a name, a path, the URL of a page on the Hub, or a file:// URL."""
    if model.startswith("file://"):
        return unquote(urlsplit(model).path), None
    page = HUB_PAGE.fullmatch(model)
    if page:
        return page["name"], page["revision"]
    return (model.rstrip("/") if re.fullmatch(r"[\w.-]+/[\w.-]+/", model) else model), None


def check_name(name: str) -> None:
    """Raise ModelError for names of other programs and of single files. To be called for names that are not on disk."""
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


def display_name(path: Path) -> str:
    """The display name of a model on disk: that of the file or folder, or of the repository in the Hub's cache.

    The cache has folders models--OWNER--NAME/snapshots/COMMIT with links to the files blobs/HASH.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, whose own names are needed
    parts = path.parts
    repository = next((index for index, part in enumerate(parts) if part.startswith("models--")), None)
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
    if quantization in ("auto", "int4") and tensor.dtype in GGUF_LEVELS and rows % 16 == 0:
        return tensor.elements * PLANE_BYTES * GGUF_LEVELS[tensor.dtype].planes
    if quantization == "int8" or (quantization == "int4" and is_head(tensor)):
        return tensor.elements + 2.0 * rows
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


def human_bytes(count: float) -> str:
    """Format a number of bytes in powers of 1000: 269 MB, 16.1 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def human_count(count: int) -> str:
    """Format a number of parameters: 135M, 8.03B."""
    if count < 1_000_000:
        return f"{count:,}"
    return f"{count / 1e6:.0f}M" if count < 999_500_000 else f"{count / 1e9:.3g}B"


def damaged_file_error(path: Path) -> ModelError:
    """The error for a file of weights that is truncated or not in its format."""
    return ModelError(
        f"The file {path.name} is incomplete or damaged.", "Delete it and load the model again, or copy it anew."
    )
